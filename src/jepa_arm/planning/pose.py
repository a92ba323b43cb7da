"""Plans for an object's place and yaw: the yaw goes along with the latent as one more number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..goals import PositionGoal
from ..model.probes import Probes
from ..model.world_model import WorldModel, shift
from .costs import Task, beyond
from .pose_heads import Face, PoseHeads, motion_features, pose_features

SEEN = 7
"""Numbers beside a latent: where tip target and object are read in it, m, and the yaw, rad."""


class PoseDynamics(nn.Module):
    """A world model beside which the object's yaw is predicted.

    A latent (B, D+7) here is one of the model with what is read in it, once for all who ask, and
    the object's yaw (rad), see ``SEEN``.

    Attributes:
        latent: D+7.
    """

    def __init__(self, model: WorldModel, probes: Probes, heads: PoseHeads) -> None:
        super().__init__()
        self.model, self.probes, self.turn = model, probes, heads.turn
        self.latent, self.past = model.latent + SEEN, model.past
        self._width = model.contract.action_width

    @staticmethod
    def read(subject: str, z: Tensor) -> Tensor:
        """(..., 3) m, where ``subject`` was read in latents (..., D+7)."""
        return z[..., -7:-4] if subject == 'tip' else z[..., -4:-1]

    def spread(self, subject: str, z: Tensor) -> Tensor:
        """(...,) m, see ``Probes.spread``."""
        return self.probes.spread(subject, z[..., :-SEEN])

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        """See ``Dynamics.predict``."""
        count = z.shape[0]
        before = z_prev.view(count, self.past, self.latent)
        steps = before[..., :-SEEN].flatten(1)
        later = self._seen(self.model.predict(z[:, :-SEEN], steps, action_block))
        tip = self.read('tip', z), self.read('tip', before[:, 0])
        thing = self.read('object', z), later[:, -3:]
        actions = action_block.view(count, -1, self._width)
        yaw = z[:, -1] + self.turn(motion_features(z[:, -1], tip, thing, actions))
        return torch.cat([later, yaw[:, None]], dim=1)

    def _seen(self, z: Tensor) -> Tensor:
        """(B, D+6): latents (B, D) with what is read in them."""
        return torch.cat([z, self.probes.read('tip', z), self.probes.read('object', z)], dim=1)

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        """See ``Dynamics.rollout``."""
        latents = []
        for block in actions.unbind(1):
            z, z_prev = self.predict(z, z_prev, block), shift(z, z_prev)
            latents.append(z)
        return torch.stack(latents, 1)

    def joined(self, z: Tensor, z_prev: Tensor, yaw: float) -> tuple[Tensor, Tensor]:
        """(1, D+7) and (1, past*(D+7)) of ``z`` (1, D) and ``z_prev`` (1, past*D).

        ``yaw`` (rad) of the object now; what it was before is asked of nobody.
        """
        all_steps = torch.cat([z, z_prev.view(-1, z.shape[1])])
        seen = torch.cat([self._seen(all_steps), z.new_full((len(all_steps), 1), yaw)], 1)
        return seen[:1], seen[1:].view(1, -1)


@dataclass(frozen=True)
class PoseTask(Task):
    """A place and a yaw for the object."""

    @property
    def place(self) -> Tensor:
        """(1, 4): m and rad, of the goal."""
        goal = self.goal
        assert isinstance(goal, PositionGoal) and goal.yaw is not None
        return torch.tensor([[*goal.position, goal.yaw]], dtype=torch.float32)

    @property
    def names(self) -> tuple[str, ...]:
        """See ``Task.names``."""
        always = ('distance', 'turn', 'value', 'press')
        return always if self.reach is None else (*always, 'away')

    def act(
        self,
        now: Tensor,
        before: Tensor,
        place: Tensor,
        remaining: Tensor,
        gumbel: Tensor,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """See ``Task.act``."""
        features, face = self._seen(now, before, place)
        return self._pose_heads.actor.pick(features, face, remaining, gumbel, noise), features

    def appraise(self, start: Tensor, latents: Tensor, place: Tensor) -> tuple[Tensor, ...]:
        """See ``Task.appraise``; ``place`` (1, 4)."""
        config, count = self.config, latents.shape[0]
        path = torch.cat([start.expand(count, 1, -1), latents], dim=1)
        tips, things = self.read('tip', path), self.read('object', path)
        read = things[:, 1:]
        features, _ = pose_features(
            latents[..., -1].flatten(),
            (tips[:, 1:].flatten(0, 1), tips[:, :-1].flatten(0, 1)),
            (read.flatten(0, 1), things[:, :-1].flatten(0, 1)),
            place.expand(read[..., 0].numel(), 4),
        )
        value = self._pose_heads.value(features).view(count, -1)
        left = torch.sin(2.0 * (place[:, 3] - latents[..., -1])).abs() / 2.0
        terms = [
            config.distance_weight * self._far(latents, read, place[:, :3]).mean(1),
            config.turn_weight * left.mean(1),
            -config.value_weight * value.mean(1),
            config.press_weight * self._pressed(tips, read),
        ]
        if self.reach is not None:
            outside = beyond(read[..., :2], self.reach, place[0, :2])
            terms.append(config.away_weight * outside)
        return torch.stack(terms), read, features

    @property
    def _pose_heads(self) -> PoseHeads:
        assert isinstance(self.heads, PoseHeads)
        return self.heads

    def _seen(self, now: Tensor, before: Tensor, place: Tensor) -> tuple[Tensor, Face]:
        """``pose_features`` of latents (B, D+7) and those of a model step ago."""
        tip = self.read('tip', now), self.read('tip', before)
        thing = self.read('object', now), self.read('object', before)
        return pose_features(now[:, -1], tip, thing, place.expand(now.shape[0], 4))
