"""The belief: what the world is taken to be, kept up while images are late, missing or bad.

Each image updates it at its own stamp. Where none came, the arm still feels itself, and has pushed
the object along the way of its tip: the belief is the latent of that. Where nobody read how the
object stood, it may have stood in any way, and is where it would be in the mean. A late image is
put where it belongs, and what was believed since is worked out anew.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from .config import TimeConfig
from .looks import Change
from .memory import Memory
from .model.belief_heads import OUTLOOK, TIP, BeliefHeads, told_by
from .model.pushing import ObjectPose, every_yaw
from .planning.search import Dynamics, effect
from .surprise import Frame

KEPT_S = 1.6
"""How far back the belief remembers."""


Look = Callable[[], float | None]


class BlindError(ValueError):
    """The belief cannot be carried on without an image; the message says why."""


@dataclass(frozen=True)
class Step:
    """The belief at one stamp.

    Attributes:
        stamp: s. z: (1, D). proprio: (1, P).
        is_seen: whether an image was there.
        pose: of the object that is followed; all that it may be, where nobody read its yaw.
        look: reads its yaw (rad) off the image; None where it is unsure.
    """

    stamp: float
    z: Tensor
    proprio: Tensor
    is_seen: bool
    pose: ObjectPose | None = None
    look: Look | None = None


@dataclass(frozen=True)
class Prior:
    """What is expected at a stamp from some model steps before.

    Attributes:
        z: (1, D) then. block: (1, steps*K*A) sent since. predicted: (1, D).
        is_seen: whether it rests on images alone.
    """

    z: Tensor
    block: Tensor
    predicted: Tensor
    is_seen: bool


class Belief:
    """Recent latents with their stamps.

    The predictor wants the latent exactly one model step before another; what lies between two
    samples is interpolated linearly.

    Attributes:
        waits: whole control steps from a decision until its action begins to work; late: the
            share of a control step that passes beyond them, in [0, 1].
    """

    def __init__(
        self,
        dynamics: Dynamics,
        heads: BeliefHeads | None,
        time: TimeConfig,
        width: int,
        past: int = 1,
        *,
        read: Callable[[Tensor], Tensor],
    ) -> None:
        """Knows nothing yet.

        Args:
            dynamics: predicts. heads: without them it cannot last without images.
            time: of the contract. width: A, of an action.
            past: latents that the predictor wants before the newest, a model step apart.
            read: the object's place (1, 3) m in a latent (1, D).
        """
        self._dynamics, self._heads, self._time, self._width = dynamics, heads, time, width
        self._past, self._read = past, read
        size = round(KEPT_S / time.control_dt)
        self._steps: deque[Step] = deque(maxlen=size)
        self._sent: deque[tuple[float, Tensor]] = deque(maxlen=size)
        self._seen_at: float | None = None
        self.waits, self.late = 0, 0.0

    def reset(self) -> None:
        """Forgets everything."""
        self._steps.clear()
        self._seen_at = None
        self.forget_sent()

    def copy(self) -> Belief:
        """What is believed now, which goes its own way."""
        other = copy(self)
        other._steps, other._sent = self._steps.copy(), self._sent.copy()
        return other

    def memory(self, told: Tensor, coming: Tensor) -> Memory | None:
        """All of it, to be kept; None before the first image.

        Args:
            told: (J,) rad. coming: (C, A), see ``Memory``.
        """
        if self._seen_at is None:
            return None
        exact, sent = (
            torch.float64,
            [torch.zeros(0, self._width), *(a[None] for _, a in self._sent)],
        )
        return Memory(
            stamps=torch.tensor([s.stamp for s in self._steps], dtype=exact),
            z=torch.cat([s.z for s in self._steps]),
            proprio=torch.cat([s.proprio for s in self._steps]),
            is_seen=torch.tensor([s.is_seen for s in self._steps]),
            seen_at=torch.tensor(self._seen_at, dtype=exact),
            sent_at=torch.tensor([stamp for stamp, _ in self._sent], dtype=exact),
            sent=torch.cat(sent),
            wait=torch.tensor([self.waits, self.late], dtype=exact),
            coming=coming,
            told=told,
        )

    def recall(self, memory: Memory) -> None:
        """Believes what ``memory`` tells, and nothing else."""
        self.reset()
        rows = zip(memory.stamps.tolist(), memory.is_seen.tolist(), strict=True)
        for i, (stamp, is_seen) in enumerate(rows):
            self._steps.append(
                Step(stamp, memory.z[i : i + 1], memory.proprio[i : i + 1], is_seen)
            )
        self._sent.extend(zip(memory.sent_at.tolist(), memory.sent, strict=True))
        self._seen_at = float(memory.seen_at)
        self.waits, self.late = int(memory.wait[0]), float(memory.wait[1])

    def rest_until(self, stamp: float, proprio: Tensor) -> None:
        """Takes the world to have rested until ``stamp`` (s), with ``proprio`` (1, P)."""
        last, dt = replace(self._steps[-1], proprio=proprio), self._time.control_dt
        if last.pose is not None:
            last = replace(last, pose=last.pose.at_rest())
        ago = range(round(KEPT_S / dt) - 1, -1, -1)
        self._steps.clear()
        self._steps.extend(replace(last, stamp=stamp - i * dt) for i in ago)
        self.forget_sent()

    def forget_sent(self) -> None:
        """Takes the arm to have been told nothing."""
        self._sent.clear()

    def act(self, stamp: float, action: Tensor) -> None:
        """Takes note of ``action`` (A,), decided from what was believed at ``stamp`` (s)."""
        self._sent.append((stamp, action))

    def act_instead(self, action: Tensor) -> None:
        """Takes ``action`` (A,) to have been sent in place of the last one."""
        if self._sent:
            self._sent[-1] = self._sent[-1][0], action

    def see(
        self,
        stamp: float,
        z: Tensor,
        proprio: Tensor,
        look: Look | None = None,
    ) -> None:
        """Takes the latent ``z`` (1, D) of an image made at ``stamp`` (s).

        ``look`` reads the object's yaw off it, see ``Step``, should it be the last one.

        Raises:
            ValueError: ``stamp`` is not newer than the last image's.
        """
        if self._seen_at is not None and stamp <= self._seen_at:
            raise ValueError(
                f'expected an observation newer than {self._seen_at:.3f} s, got {stamp:.3f} s: '
                'the clock jumped back or a message came twice'
            )
        near = self._time.control_dt / 2.0
        kept = [s for s in self._steps if s.is_seen or abs(s.stamp - stamp) > near]
        later = [s for s in kept if s.stamp > stamp]
        self._steps.clear()
        self._steps.extend(s for s in kept if s.stamp <= stamp)
        self._steps.append(Step(stamp, z, proprio, True, look=look))
        self._seen_at = stamp
        for step in later:
            self.feel(step.stamp, step.proprio)

    def feel(self, stamp: float, proprio: Tensor) -> None:
        """Carries the belief on to ``stamp`` (s) by ``proprio`` (1, P) alone.

        Raises:
            BlindError: nothing was seen yet, too long ago, or there are no heads.
        """
        if self._heads is None:
            raise BlindError('the checkpoint has no belief heads: run jepa-arm belief')
        if self._seen_at is None:
            raise BlindError('no image has come yet')
        last, dt = self._steps[-1], self._time.control_dt
        gap = stamp - last.stamp
        if not 0.0 < gap < KEPT_S:
            raise BlindError(f'the last step was {gap:.1f} s ago, expected up to {KEPT_S} s')
        while gap > 1.5 * dt:  # a step was left out
            self._go_on(self._heads, last.stamp + dt, torch.lerp(last.proprio, proprio, dt / gap))
            last = self._steps[-1]
            gap = stamp - last.stamp
        self._go_on(self._heads, stamp, proprio)

    def _go_on(self, heads: BeliefHeads, stamp: float, proprio: Tensor) -> None:
        """A step without an image, about a control step after the last."""
        last = self._steps[-1]
        before, pose = last.stamp - self._time.control_dt, last.pose or self._pose(last)
        tips = torch.stack([self._felt(before), last.proprio, proprio], dim=1)[..., TIP]
        pose = heads.pushing(pose, tips.expand(len(pose.yaw), -1, -1))
        yaw = pose.yaw if len(pose.yaw) == 1 else torch.full((1,), torch.nan)
        z = heads.state(proprio, pose.place.mean(0, keepdim=True), yaw)
        self._steps.append(Step(stamp, z, proprio, False, pose))

    def _pose(self, last: Step) -> ObjectPose:
        """The object's pose in ``last``, as one or as each of some, see ``Step``."""
        before, place = last.stamp - self._time.control_dt, self._read(last.z)
        moved, (older, newer, _) = torch.zeros_like(place), self._around(before)
        if older.is_seen and newer.is_seen:
            moved = place - self._read(self._interpolate(before))
        yaw = None if last.look is None else last.look()
        if yaw is None:
            return every_yaw(place, moved)
        turn = torch.tensor([yaw], dtype=torch.float32)
        return ObjectPose(place, turn, moved, torch.zeros_like(turn))

    @property
    def stamp(self) -> float | None:
        """s, of the newest step; None before the first."""
        return self._steps[-1].stamp if self._steps else None

    @property
    def blind_for(self) -> float:
        """s since the last image; infinite before the first."""
        seen = self._seen_at
        return float('inf') if seen is None else self._steps[-1].stamp - seen

    @property
    def span(self) -> float:
        """s between the oldest and the newest step kept."""
        return self._steps[-1].stamp - self._steps[0].stamp if self._steps else 0.0

    def now(self) -> tuple[Tensor, Tensor]:
        """(z, z_prev), (1, D) and (1, past*D): the newest latent and those before."""
        return self._before(self._steps[-1].stamp)

    def ahead(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """(z, z_prev, before) when the next action will begin to work; see ``Start``.

        Predicted over the actions that wait, as far as that is ahead of the newest step.
        """
        begins = self._steps[-1].stamp + self.waits * self._time.control_dt
        if self.waits == 0:
            return *self.now(), None
        stamps = [begins - ago * self._time.model_dt for ago in range(self._past + 1)]
        z, *past = [self._expected(stamp) for stamp in stamps]
        last = torch.tensor([begins - self._time.control_dt], dtype=torch.float64)
        return z, torch.cat(past, dim=-1), self._sent_for(last)[0]

    def _expected(self, stamp: float) -> Tensor:
        """(1, D) at ``stamp`` (s), predicted where it lies ahead."""
        ahead = stamp - self._steps[-1].stamp
        if ahead < self._time.control_dt / 2.0:
            return self._interpolate(stamp)
        return self.prior(stamp, math.ceil(ahead / self._time.model_dt - 1e-6)).predicted

    def doubt(self) -> Tensor:
        """(2,) m, standard deviation on each axis of what is read now of tip and object."""
        if self._heads is None or not self._steps:
            return torch.full((2,), float('nan'))
        blind = torch.tensor([self.blind_for], dtype=torch.float32)
        last = self._steps[-1]
        is_unread = last.pose is not None and len(last.pose.yaw) > 1
        return self._heads.doubt(last.z, blind, torch.tensor([torch.nan if is_unread else 0.0]))[0]

    def prior(self, stamp: float, steps: int = 1) -> Prior:
        """What is expected at ``stamp`` (s) from ``steps`` model steps before.

        Where less is remembered the arm is taken to have rested before.
        """
        model_dt = self._time.model_dt
        early = stamp - steps * model_dt
        z, z_prev = self._before(early)
        blocks = self.blocks(stamp, steps)
        predicted = self._dynamics.rollout(z, z_prev, blocks)[:, -1]
        oldest = early - self._past * model_dt - 1e-6
        recent = [s for s in self._steps if oldest <= s.stamp < stamp] or [self._steps[-1]]
        is_seen = all(s.is_seen for s in recent) and self._steps[0].stamp < oldest + 2e-6
        return Prior(z, blocks.flatten(1), predicted, is_seen)

    def frame(
        self,
        stamp: float,
        z: Tensor,
        proprio: Tensor,
        features: Tensor,
        change: Change | None = None,
        told: Tensor | None = None,
        image: Tensor | None = None,
    ) -> Frame | None:
        """What was expected at ``stamp`` (s), beside what came: (1, D), (1, P) and (1, F).

        ``told`` (1, 2, 3) m, see ``Frame``; without it ``proprio`` says so, where no action comes
        late. None before enough was seen, and where images are missing: what was then believed
        without them is no measure.
        """
        if not self._steps:
            return None
        near = self.prior(stamp)
        if not near.is_seen:
            return None
        dt = self._time.control_dt
        recent = torch.stack([self._felt(stamp - dt), self._felt(stamp - 2.0 * dt)], dim=1)
        if told is None:
            told = torch.stack([told_by(proprio), told_by(recent[:, 0])], dim=1)
        frame = Frame(
            z,
            proprio,
            features,
            near.z,
            near.block,
            near.predicted,
            recent,
            told,
            change=change,
            image=image,
        )
        far = self.prior(stamp, OUTLOOK)
        if not far.is_seen:
            return frame
        return replace(
            frame, long_before=far.z, long_block=far.block, long_predicted=far.predicted
        )

    def blocks(self, stamp: float, steps: int = 1) -> Tensor:
        """(1, steps, K*A) what was sent in the model steps before ``stamp`` (s).

        What a late action has left to do passes from one to the next. Before the first the
        latent knows of it.
        """
        dt, count = self._time.control_dt, steps * self._time.frame_skip
        first = stamp - steps * self._time.model_dt
        begins = first + dt * torch.arange(count, dtype=torch.float64)
        moved = effect(self._sent_for(begins)[None], self.late)
        return moved.reshape(1, steps, self._time.frame_skip * self._width)

    def _sent_for(self, begins: Tensor) -> Tensor:
        """(N, A) what was sent for the control steps that begin at ``begins`` (N,) s.

        An action is at work for a control step; each step gets its share of it.
        """
        if not self._sent:
            return torch.zeros(len(begins), self._width)
        dt = self._time.control_dt
        decided = torch.tensor([d for d, _ in self._sent], dtype=torch.float64)
        begun = decided + self.waits * dt
        shares = (1.0 - (begins[:, None] - begun).abs() / dt).clamp(min=0.0).float()
        return shares @ torch.stack([action for _, action in self._sent])

    def _before(self, stamp: float) -> tuple[Tensor, Tensor]:
        stamps = [stamp - ago * self._time.model_dt for ago in range(1, self._past + 1)]
        return self._interpolate(stamp), torch.cat([self._interpolate(s) for s in stamps], dim=-1)

    def _interpolate(self, stamp: float) -> Tensor:
        older, newer, share = self._around(stamp)
        return torch.lerp(older.z, newer.z, share)

    def _felt(self, stamp: float) -> Tensor:
        older, newer, share = self._around(stamp)
        return torch.lerp(older.proprio, newer.proprio, share)

    def _around(self, stamp: float) -> tuple[Step, Step, float]:
        """The steps before and after ``stamp`` (s), and how far it is from one to the other."""
        if stamp >= self._steps[-1].stamp:
            return self._steps[-1], self._steps[-1], 0.0
        for newer, older in pairwise(reversed(self._steps)):
            if older.stamp <= stamp:
                return older, newer, (stamp - older.stamp) / (newer.stamp - older.stamp)
        return self._steps[0], self._steps[0], 0.0
