"""Named cost terms on rollouts; each returns (S,), lower is better. Summed in one place.

Terms see latents, goals and read-outs of latents, never images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..config import PlannerConfig
from ..goals import Goal, LatentGoal, PositionGoal
from ..model.bounded import bounded
from ..motion import ACTION_METRES
from .heads import Heads, goal_features, latent_goal_features
from .obstacles import BARRED, KeepOut
from .pose_heads import PoseHeads

ReadOut = Callable[[str, Tensor], Tensor]
"""(subject, latents (..., D)) -> positions (..., 3) m, or how far they may be off, (...,) m."""


class Stages(Protocol):
    """What takes a search its time, compiled for one kind of goal."""

    def advance(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See ``local_search.advance``."""
        ...

    def unroll(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See ``search.unroll``."""
        ...

    def appraise(self, start: Tensor, latents: Tensor, place: Tensor) -> tuple[Tensor, ...]:
        """See ``Task.appraise``."""
        ...


@dataclass(frozen=True)
class Task:
    """A goal with what is needed to price rollouts towards it.

    Attributes:
        goal: where to.
        start: (1, D), the latent that rollouts start from.
        read: the probes' positions.
        heads: goal-conditioned heads, or None.
        config: its weights.
        lag: share of a model step by which the tip follows its target.
        spread: the rms error to be expected of what is read, or None.
        reach: (2, 2) m, lowest and highest (x, y) of objects that the tip can go round, or None.
        keep_out: what tip and object must not enter, or None. told: (3,) m, where the tip is told
            to go before the first action, from which its path is known; needed with ``keep_out``.
        stages: compiled for goals of this kind, or None.
    """

    goal: Goal
    start: Tensor
    read: ReadOut
    heads: Heads | PoseHeads | None
    config: PlannerConfig
    lag: float
    spread: ReadOut | None = None
    reach: Tensor | None = None
    keep_out: KeepOut | None = None
    told: Tensor | None = None
    stages: Stages | None = None

    def cost(
        self, latents: Tensor, actions: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total cost (S,) of rollouts ``latents`` (S, H, D) and each term's share.

        Non-finite costs become infinite: such a rollout is never chosen.

        Args:
            latents: predicted. actions: (S, T, A) control actions that lead there; needed with
                ``keep_out``.
        """
        if isinstance(self.goal, LatentGoal):
            terms, read = self._latent_terms(latents, self.goal), None
        else:
            appraise = self.appraise if self.stages is None else self.stages.appraise
            shares, read = appraise(self.start, latents, self.place)[:2]
            terms = dict(zip(self.names, shares.unbind(0), strict=True))
        if self.keep_out is not None:
            assert actions is not None
            terms['obstacle'] = self._entered(self.keep_out, latents, actions, read)
        total = torch.stack(list(terms.values())).sum(0)
        return torch.where(torch.isfinite(total), total, torch.inf), terms

    def features(self, latents: Tensor, place: Tensor | None = None) -> Tensor:
        """Inputs of the heads for ``latents`` (B, D) and this goal, or another ``place``."""
        place = self.place if place is None else place
        if isinstance(self.goal, LatentGoal):
            return latent_goal_features(latents, place)
        return self._position_features(latents, self.read(self._subject, latents), place)

    def act(
        self,
        now: Tensor,
        before: Tensor,
        place: Tensor,
        remaining: Tensor,
        gumbel: Tensor,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What the actor does in latents (C, D), and what it is told.

        Args:
            now: (C, D). before: (C, D), a model step ago. place: see ``place``.
            remaining, gumbel, noise: see ``Actor.pick``.
        """
        heads = self._position_heads
        assert heads is not None
        features = self.features(now, place)
        acts = heads.actor.pick(features, now - before, remaining, gumbel, noise)
        return acts, features

    @property
    def goal_is_for_object(self) -> bool:
        """Whether the goal is for the object; only then is there a way round to be valued."""
        return isinstance(self.goal, PositionGoal) and self.goal.subject == 'object'

    @property
    def place(self) -> Tensor:
        """(1, 3) m, of the goal; (1, D) where it is a latent."""
        goal = self.goal
        place = goal.latent if isinstance(goal, LatentGoal) else goal.position
        return torch.tensor(np.asarray(place)[None], dtype=torch.float32)

    @property
    def _position_heads(self) -> Heads | None:
        assert not isinstance(self.heads, PoseHeads)
        return self.heads

    @property
    def _subject(self) -> str:
        assert not isinstance(self.goal, LatentGoal)
        return self.goal.subject

    def _position_features(self, latents: Tensor, read: Tensor, place: Tensor) -> Tensor:
        is_object = torch.full_like(latents[:, 0], 1.0 if self.goal_is_for_object else 0.0)
        return goal_features(latents, read, is_object, place.expand(latents.shape[0], 3))

    def _latent_terms(self, latents: Tensor, goal: LatentGoal) -> dict[str, Tensor]:
        distance = latent_distance(latents, goal)
        heads = self._position_heads
        if heads is None or not heads.know(goal):
            return {'latent': distance}
        value = heads.value(self.features(latents.flatten(0, 1)))
        value = value.view(latents.shape[:2]).mean(1)
        return {
            'latent': self.config.latent_weight * distance,
            'value': -self.config.value_weight * value,
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Of the terms that ``appraise`` gives."""
        if not self.goal_is_for_object:
            return ('distance',)
        has = {
            'distance': True,
            'value': self.heads is not None,
            'press': self.config.press_weight > 0.0,
            'away': self.reach is not None,
        }
        return tuple(name for name, is_there in has.items() if is_there)

    def appraise(self, start: Tensor, latents: Tensor, place: Tensor) -> tuple[Tensor, ...]:
        """The terms (N, S) of ``names``, where the subject is (S, H, 3) m, and how that was told.

        Args:
            start: (1, D). latents: (S, H, D). place: (1, 3) m, of the goal.
        """
        config = self.config
        read = self.read(self._subject, latents)
        if not self.goal_is_for_object:
            distance = (read - place).square().sum(-1).sqrt()
            return config.distance_weight * distance.mean(1)[None], read
        terms = [config.distance_weight * self._far(latents, read, place).mean(1)]
        features = read
        heads = self._position_heads
        if heads is not None:
            flat = latents.flatten(0, 1)
            features = self._position_features(flat, read.flatten(0, 1), place)
            value = heads.value(features).view(-1, latents.shape[1])
            terms.append(-config.value_weight * value.mean(1))
        if config.press_weight > 0.0:
            path = torch.cat([start.expand(latents.shape[0], 1, -1), latents], dim=1)
            terms.append(config.press_weight * self._pressed(self.read('tip', path), read))
        if self.reach is not None:
            outside = beyond(read[..., :2], self.reach, place[0, :2])
            terms.append(config.away_weight * outside)
        return torch.stack(terms), read, features

    def _far(self, latents: Tensor, read: Tensor, place: Tensor) -> Tensor:
        """(S, H) m from where the object is ``read`` (S, H, 3) m to ``place`` (1, 3) m.

        A place that cannot be seen is no place near the goal.
        """
        squared = (read - place).square().sum(-1)
        if self.spread is not None:
            squared = squared + self.spread('object', latents).square()
        return squared.sqrt()

    def _entered(
        self, keep_out: KeepOut, latents: Tensor, actions: Tensor, read: Tensor | None
    ) -> Tensor:
        """(S,) cost of paths into what is to be kept out of.

        The tip's path is what it is told, the object's is what is read in the ``latents``.
        """
        assert self.told is not None
        path = self.told + ACTION_METRES * actions.cumsum(1)
        is_barred = keep_out.is_barred(self.told, path, self.config.obstacle_slack)
        depth = keep_out.depth('tip', path).mean(1)
        if self.goal_is_for_object:
            assert read is not None
            depth = depth + keep_out.depth('object', read).mean(1)
        return self.config.obstacle_weight * depth + BARRED * is_barred

    def _pressed(self, told: Tensor, read: Tensor) -> Tensor:
        """(S,) m, see ``inside``, of a tip that is ``told`` (S, H+1, 3) m where to go."""
        tip = torch.lerp(told[:, 1:], told[:, :-1], self.lag)
        return inside(tip, read, self.config.press_radius, self.config.press_height)


def inside(tip: Tensor, thing: Tensor, radius: float, height: float) -> Tensor:
    """(S,) m, how deep a tip would be inside the object, the mean over paths (S, H, 3) m.

    The object is taken for an upright cylinder of ``radius`` m, up to ``height`` m above the
    table. Beside it the tip pushes, inside it the tip presses it down: there the model is wrong
    about what moves, and the guard stops the arm.
    """
    aside = (tip[..., :2] - thing[..., :2]).norm(dim=-1)
    depth, below = radius - aside, height - tip[..., 2]
    return (bounded(depth, 0.0, below.clamp(min=0.0)) + 0.0 * below).mean(1)


def beyond(place: Tensor, reach: Tensor, goal: Tensor) -> Tensor:
    """(S,) m, how far paths (S, H, 2) m lie outside ``reach`` (2, 2) m, the mean over the path.

    The reach is taken to hold the ``goal`` (2,) m.
    """
    low, high = torch.minimum(reach[0], goal), torch.maximum(reach[1], goal)
    return (place - place.clamp(low, high)).norm(dim=-1).mean(1)


def latent_distance(latents: Tensor, goal: LatentGoal) -> Tensor:
    """(S,) squared distance to the goal's latent, the mean over path and latent."""
    return ((latents - _latent(goal, latents)) ** 2).mean(dim=(1, 2))


def _latent(goal: LatentGoal, latents: Tensor) -> Tensor:
    return torch.as_tensor(goal.latent, dtype=latents.dtype)
