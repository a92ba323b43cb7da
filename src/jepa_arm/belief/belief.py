"""Belief: recent latents of the world, propagated while images are late, missing or rejected.

Each image updates the belief at its own stamp. Between images, the arm is measured, the object is
predicted from the tip's motion, and both are encoded as a latent. If the object's yaw was not
read, several yaw hypotheses are propagated and averaged. A late image is inserted at its stamp,
and all later steps are predicted again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from time import monotonic

import torch
from torch import Tensor

from jepa_arm.config import TimeConfig
from jepa_arm.core.errors import JepaArmError
from jepa_arm.core.types import ImageArray
from jepa_arm.model.heads.belief_heads import LONG_HORIZON_STEPS, TIP_COLUMNS, BeliefHeads
from jepa_arm.model.heads.push_dynamics import ObjectPose, yaw_hypotheses
from jepa_arm.planning.model import Dynamics
from jepa_arm.planning.rollout import apply_delay

from .image_change import ImageChange
from .snapshot import BeliefSnapshot
from .surprise import LatentPrediction, PredictedFrame, tip_setpoints_of

HISTORY_S = 1.6
"""Length (s) of the history that is kept."""

YawReader = Callable[[], float | None]
"""Reads the object's yaw (rad) from an image; None if the reading is too uncertain."""


class BlindError(JepaArmError, ValueError):
    """The belief cannot be propagated without an image; the message says why."""


@dataclass(frozen=True)
class EncodedObservation:
    """An observation as the world model sees it.

    Attributes:
        stamp: s, time of the image.
        image: (1, h, w, 3) uint8 RGB, declared obstacles masked.
        proprio: (1, P) proprioception.
        z: (1, D) latent.
        features: (1, F) features of the image without proprioception; None if the model has none.
    """

    stamp: float
    image: ImageArray
    proprio: Tensor
    z: Tensor
    features: Tensor | None


@dataclass(frozen=True)
class BeliefStep:
    """The belief at one stamp.

    Attributes:
        stamp: s. z: (1, D) latent. proprio: (1, P) proprioception.
        has_image: whether ``z`` was encoded from an image, not predicted.
        pose: predicted pose of the object, one per yaw hypothesis if its yaw is unknown.
        read_yaw: reads the object's yaw from the image of this step.
    """

    stamp: float
    z: Tensor
    proprio: Tensor
    has_image: bool
    pose: ObjectPose | None = None
    read_yaw: YawReader | None = None


class Belief:
    """Recent latents and actions with their stamps.

    The predictor needs latents exactly one model step apart; between two steps they are
    interpolated linearly.

    Attributes:
        delay_steps: whole control steps from a decision until its action takes effect.
        delay_fraction: fraction of a control step, in [0, 1], to be added to ``delay_steps``.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        heads: BeliefHeads | None,
        time: TimeConfig,
        *,
        action_width: int,
        read: Callable[[Tensor], Tensor],
        past: int = 1,
    ) -> None:
        """Start without any observation.

        Args:
            dynamics: predicts latents.
            heads: predict latents without images; None: images are required.
            time: the contract's periods, e.g. of control and model steps.
            action_width: A, values per action.
            read: reads the object's position (1, 3) m from a latent (1, D).
            past: number of earlier latents, one model step apart, that the predictor needs.
        """
        self._dynamics, self._heads, self._time = dynamics, heads, time
        self._action_width, self._past, self._read = action_width, past, read
        size = round(HISTORY_S / time.control_dt)
        self._steps: deque[BeliefStep] = deque(maxlen=size)
        self._actions: deque[tuple[float, Tensor]] = deque(maxlen=size)
        self._image_stamp: float | None = None
        self.delay_steps, self.delay_fraction = 0, 0.0

    def reset(self) -> None:
        """Forget everything."""
        self._steps.clear()
        self._image_stamp = None
        self.forget_actions()

    def copy(self) -> Belief:
        """Return an independent copy."""
        other = copy(self)
        other._steps, other._actions = self._steps.copy(), self._actions.copy()
        return other

    def snapshot(self, setpoint: Tensor, upcoming_actions: Tensor) -> BeliefSnapshot | None:
        """Return everything that is needed to restore the belief; None before the first image.

        Args:
            setpoint: (J,) rad. upcoming_actions: (C, A), see ``BeliefSnapshot``.
        """
        if self._image_stamp is None:
            return None
        exact = torch.float64
        actions = [torch.zeros(0, self._action_width), *(a[None] for _, a in self._actions)]
        return BeliefSnapshot(
            stamps=torch.tensor([s.stamp for s in self._steps], dtype=exact),
            z=torch.cat([s.z for s in self._steps]),
            proprio=torch.cat([s.proprio for s in self._steps]),
            has_image=torch.tensor([s.has_image for s in self._steps]),
            image_stamp=torch.tensor(self._image_stamp, dtype=exact),
            action_stamps=torch.tensor([stamp for stamp, _ in self._actions], dtype=exact),
            actions=torch.cat(actions),
            delay=torch.tensor([self.delay_steps, self.delay_fraction], dtype=exact),
            upcoming_actions=upcoming_actions,
            setpoint=setpoint,
            made_at=torch.tensor(monotonic(), dtype=exact),
        )

    def restore(self, snapshot: BeliefSnapshot) -> None:
        """Replace the belief by ``snapshot``."""
        self.reset()
        stamps, has_image = snapshot.stamps.tolist(), snapshot.has_image.tolist()
        rows = zip(stamps, snapshot.z.split(1), snapshot.proprio.split(1), has_image, strict=True)
        self._steps.extend(BeliefStep(*row) for row in rows)
        self._actions.extend(zip(snapshot.action_stamps.tolist(), snapshot.actions, strict=True))
        self._image_stamp = float(snapshot.image_stamp)
        self.delay_steps, self.delay_fraction = int(snapshot.delay[0]), float(snapshot.delay[1])

    def rest_until(self, stamp: float, proprio: Tensor) -> None:
        """Assume rest until ``stamp`` (s): repeat the last latent, with ``proprio`` (1, P)."""
        last, dt = replace(self._steps[-1], proprio=proprio), self._time.control_dt
        if last.pose is not None:
            last = replace(last, pose=last.pose.at_rest())
        ago = range(round(HISTORY_S / dt) - 1, -1, -1)
        self._steps.clear()
        self._steps.extend(replace(last, stamp=stamp - i * dt) for i in ago)
        self.forget_actions()

    # ---------------------------------------------------------------- update

    def forget_actions(self) -> None:
        """Forget all recorded actions, because none is in progress any more."""
        self._actions.clear()

    def record_action(self, stamp: float, action: Tensor) -> None:
        """Record ``action`` (A,), decided from the belief at ``stamp`` (s)."""
        self._actions.append((stamp, action))

    def replace_last_action(self, action: Tensor) -> None:
        """Replace the last recorded action by ``action`` (A,), which was executed instead."""
        if self._actions:
            self._actions[-1] = self._actions[-1][0], action

    def is_new(self, stamp: float) -> bool:
        """Check whether an image taken at ``stamp`` (s) is newer than all images so far."""
        return self._image_stamp is None or stamp > self._image_stamp

    def update(
        self, stamp: float, z: Tensor, proprio: Tensor, read_yaw: YawReader | None = None
    ) -> None:
        """Insert the latent ``z`` (1, D) of an image made at ``stamp`` (s).

        ``read_yaw`` is called if the next steps have no image and the object must be predicted.

        Raises:
            ValueError: ``stamp`` is not newer than the last image's.
        """
        if not self.is_new(stamp):
            raise ValueError(
                f'expected an observation newer than {self._image_stamp:.3f} s, got '
                f'{stamp:.3f} s: the clock jumped back or a message came twice'
            )
        near = self._time.control_dt / 2.0
        kept = [s for s in self._steps if s.has_image or abs(s.stamp - stamp) > near]
        later = [s for s in kept if s.stamp > stamp]
        self._steps.clear()
        self._steps.extend(s for s in kept if s.stamp <= stamp)
        self._steps.append(BeliefStep(stamp, z, proprio, True, read_yaw=read_yaw))
        self._image_stamp = stamp
        for step in later:
            self.update_blind(step.stamp, step.proprio)

    def update_blind(self, stamp: float, proprio: Tensor) -> None:
        """Predict the belief at ``stamp`` (s) from ``proprio`` (1, P) alone.

        Raises:
            BlindError: there are no heads, no image has come yet, or the last step is too old.
        """
        if self._heads is None:
            raise BlindError(
                'the checkpoint has no belief heads: run jepa-arm train --only belief'
            )
        if self._image_stamp is None:
            raise BlindError('no image has come yet')
        last, dt = self._steps[-1], self._time.control_dt
        gap = stamp - last.stamp
        if not 0.0 < gap < HISTORY_S:
            raise BlindError(f'the last step was {gap:.1f} s ago, expected up to {HISTORY_S} s')
        while gap > 1.5 * dt:  # fill in skipped steps
            middle = torch.lerp(last.proprio, proprio, dt / gap)
            self._predict_step(self._heads, last.stamp + dt, middle)
            last = self._steps[-1]
            gap = stamp - last.stamp
        self._predict_step(self._heads, stamp, proprio)

    def _predict_step(self, heads: BeliefHeads, stamp: float, proprio: Tensor) -> None:
        """Append a step predicted without an image, about one control step after the last."""
        last = self._steps[-1]
        before, pose = last.stamp - self._time.control_dt, last.pose or self._object_pose(last)
        tips = torch.stack([self._proprio_at(before), last.proprio, proprio], dim=1)[
            ..., TIP_COLUMNS
        ]
        pose = heads.push_dynamics(pose, tips.expand(len(pose.yaw), -1, -1))
        yaw = pose.yaw if len(pose.yaw) == 1 else torch.full((1,), torch.nan)
        z = heads.state_encoder(proprio, pose.position.mean(0, keepdim=True), yaw)
        self._steps.append(BeliefStep(stamp, z, proprio, False, pose))

    def _object_pose(self, last: BeliefStep) -> ObjectPose:
        """Return the object's pose in ``last``; one pose per hypothesis if its yaw is unknown."""
        before, place = last.stamp - self._time.control_dt, self._read(last.z)
        moved, (older, newer, _) = torch.zeros_like(place), self._neighbours(before)
        if older.has_image and newer.has_image:
            moved = place - self._read(self._z_at(before))
        yaw = None if last.read_yaw is None else last.read_yaw()
        if yaw is None:
            return yaw_hypotheses(place, moved)
        turn = torch.tensor([yaw], dtype=torch.float32)
        return ObjectPose(place, turn, moved, torch.zeros_like(turn))

    # ---------------------------------------------------------------- read

    @property
    def stamp(self) -> float | None:
        """Stamp (s) of the newest step; None before the first."""
        return self._steps[-1].stamp if self._steps else None

    @property
    def blind_for(self) -> float:
        """Time (s) from the last image to the newest step; infinite before the first image."""
        image_stamp = self._image_stamp
        return float('inf') if image_stamp is None else self._steps[-1].stamp - image_stamp

    def current(self) -> tuple[Tensor, Tensor]:
        """Return (z, z_prev), (1, D) and (1, past*D): the newest latent and those before."""
        return self._history_at(self._steps[-1].stamp)

    def predict_start(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return (z, z_prev, previous_action) for the time at which the next action takes effect.

        The latents are predicted under the actions that were decided earlier and take effect until
        then. The previous action (A,) is None if ``delay_steps`` is 0.
        """
        start = self._steps[-1].stamp + self.delay_steps * self._time.control_dt
        if self.delay_steps == 0:
            return *self.current(), None
        stamps = [start - ago * self._time.model_dt for ago in range(self._past + 1)]
        z, *past = [self._expected_at(stamp) for stamp in stamps]
        last = torch.tensor([start - self._time.control_dt], dtype=torch.float64)
        return z, torch.cat(past, dim=-1), self._actions_at(last)[0]

    def _expected_at(self, stamp: float) -> Tensor:
        """Return the latent (1, D) at ``stamp`` (s), predicted if after the newest step."""
        ahead = stamp - self._steps[-1].stamp
        if ahead < self._time.control_dt / 2.0:
            return self._z_at(stamp)
        return self.predict(stamp, math.ceil(ahead / self._time.model_dt - 1e-6)).predicted

    def position_std(self) -> Tensor:
        """Return the predicted standard deviations (2,) m of tip and object position, per axis."""
        if self._heads is None or not self._steps:
            return torch.full((2,), float('nan'))
        blind = torch.tensor([self.blind_for], dtype=torch.float32)
        last = self._steps[-1]
        is_yaw_unknown = last.pose is not None and len(last.pose.yaw) > 1
        yaw = torch.tensor([torch.nan if is_yaw_unknown else 0.0])
        return self._heads.position_std(last.z, blind, yaw)[0]

    # ---------------------------------------------------------------- predict

    def predict(self, stamp: float, steps: int = 1) -> LatentPrediction:
        """Predict the latent at ``stamp`` (s) from the one ``steps`` model steps before.

        The arm is assumed to be at rest before the oldest step of the history.
        """
        z, z_prev = self._history_at(stamp - steps * self._time.model_dt)
        blocks = self.action_blocks(stamp, steps)
        predicted = self._dynamics.rollout(z, z_prev, blocks)[:, -1]
        return LatentPrediction(z, predicted, blocks.flatten(1))

    def rests_on_images(self, stamp: float, steps: int = 1) -> bool:
        """Check whether all latents that ``predict`` is based on were encoded from images."""
        oldest = stamp - (steps + self._past) * self._time.model_dt - 1e-6
        recent = [s for s in self._steps if oldest <= s.stamp < stamp] or [self._steps[-1]]
        return all(s.has_image for s in recent) and self._steps[0].stamp < oldest + 2e-6

    def compare(
        self,
        encoded: EncodedObservation,
        change: ImageChange | None = None,
        tip_setpoints: Tensor | None = None,
    ) -> PredictedFrame | None:
        """Return an observation with the predictions for it, from which surprise is computed.

        Args:
            encoded: observation with image features, not yet in the belief.
            change: change of its image; None if not measured.
            tip_setpoints: (1, 2, 3) m, see ``PredictedFrame``; None: taken from proprioception,
                which is right if no action is delayed.

        Returns:
            None without image features, or if recent latents were not encoded from images:
            predictions from latents propagated without images would not be comparable.
        """
        stamp, proprio = encoded.stamp, encoded.proprio
        if encoded.features is None or not self._steps or not self.rests_on_images(stamp):
            return None
        dt = self._time.control_dt
        recent = torch.stack([self._proprio_at(stamp - dt), self._proprio_at(stamp - 2.0 * dt)], 1)
        if tip_setpoints is None:
            tip_setpoints = tip_setpoints_of(proprio, recent[:, 0])
        has_history = self.rests_on_images(stamp, LONG_HORIZON_STEPS)
        return PredictedFrame(
            encoded.z,
            proprio,
            encoded.features,
            self.predict(stamp),
            recent,
            tip_setpoints,
            self.predict(stamp, LONG_HORIZON_STEPS) if has_history else None,
            change,
            torch.from_numpy(encoded.image),
        )

    def action_blocks(self, stamp: float, steps: int = 1) -> Tensor:
        """Return the actions (1, H, K*A) of the ``steps`` model steps before ``stamp`` (s).

        With a fractional delay, a part of each action takes effect in the next control step. The
        first step gets no such part, as the latent at the start already reflects it.
        """
        dt, count = self._time.control_dt, steps * self._time.frame_skip
        first = stamp - steps * self._time.model_dt
        starts = first + dt * torch.arange(count, dtype=torch.float64)
        moved = apply_delay(self._actions_at(starts)[None], self.delay_fraction)
        return moved.reshape(1, steps, self._time.frame_skip * self._action_width)

    def _actions_at(self, starts: Tensor) -> Tensor:
        """Return the actions (N, A) for control steps that start at ``starts`` (N,) s.

        An action lasts one control step from when it takes effect. A control step that overlaps
        two actions gets their mean, weighted by the overlap.
        """
        if not self._actions:
            return torch.zeros(len(starts), self._action_width)
        dt = self._time.control_dt
        decided = torch.tensor([stamp for stamp, _ in self._actions], dtype=torch.float64)
        begun = decided + self.delay_steps * dt
        shares = (1.0 - (starts[:, None] - begun).abs() / dt).clamp(min=0.0).float()
        return shares @ torch.stack([action for _, action in self._actions])

    def _history_at(self, stamp: float) -> tuple[Tensor, Tensor]:
        """Return (z, z_prev), (1, D) and (1, past*D), at ``stamp`` (s)."""
        stamps = [stamp - ago * self._time.model_dt for ago in range(1, self._past + 1)]
        return self._z_at(stamp), torch.cat([self._z_at(s) for s in stamps], dim=-1)

    def _z_at(self, stamp: float) -> Tensor:
        older, newer, share = self._neighbours(stamp)
        return torch.lerp(older.z, newer.z, share)

    def _proprio_at(self, stamp: float) -> Tensor:
        older, newer, share = self._neighbours(stamp)
        return torch.lerp(older.proprio, newer.proprio, share)

    def _neighbours(self, stamp: float) -> tuple[BeliefStep, BeliefStep, float]:
        """Return the steps before and after ``stamp`` (s), and its fraction of the way between."""
        if stamp >= self._steps[-1].stamp:
            return self._steps[-1], self._steps[-1], 0.0
        for newer, older in pairwise(reversed(self._steps)):
            if older.stamp <= stamp:
                return older, newer, (stamp - older.stamp) / (newer.stamp - older.stamp)
        return self._steps[0], self._steps[0], 0.0
