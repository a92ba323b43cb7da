"""Actor-critic: goal-conditioned action proposals and goal-reaching value on frozen latents.

Actor and value are conditioned on a goal position of the object or the tip, relative to the
present position that a probe reads from the latent, so that no goal image is needed. A second
variant is conditioned on the latent of the goal image. The variant is fixed at training time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_arm.model.numerics import clamp_keep_nan

POSITION_SCALE = 10.0
"""1/m; positions enter the networks in units of 10 cm."""
POSITION_FEATURES = 7
"""Number of input features of a position goal, in addition to the latent."""
HALF_LOG_2PI = 0.9189385
MIN_LOG_STD = -1.6
"""Lower bound on the log standard deviation of actions, without which modes collapse."""


def goal_features(latent: Tensor, position: Tensor, is_object: Tensor, goal: Tensor) -> Tensor:
    """Return the networks' inputs (B, D + 7) for a position goal.

    They are the latent, the goal, the offset from the subject to the goal, and ``is_object``.

    Args:
        latent: (B, D).
        position: (B, 3) m, position of the subject, read from ``latent`` by a probe.
        is_object: (B,) 1 if the subject is the object, 0 if it is the tip.
        goal: (B, 3) m.
    """
    offset = (goal - position) * POSITION_SCALE
    return torch.cat([latent, goal * POSITION_SCALE, offset, is_object[:, None]], dim=-1)


def latent_goal_features(latent: Tensor, goal: Tensor) -> Tensor:
    """Return the networks' inputs (B, 2*D) for a latent goal: the latent and the offset to it.

    Args:
        latent: (B, D). goal: (B, D), (1, D) or (D,).
    """
    return torch.cat([latent, goal - latent], dim=-1)


def normalised_mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """Return a multilayer perceptron with three layer-normalised hidden layers."""
    layers: list[nn.Module] = []
    for size in (inputs, width, width):
        layers += [nn.Linear(size, width), nn.LayerNorm(width), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


class ActionMixture(nn.Module):
    """Mixture density network over action blocks.

    Attributes:
        block: number of values K*A in an action block.
        modes: number of mixture components M.
    """

    modes = 6

    def __init__(self, inputs: int, block: int, width: int, max_mean: float) -> None:
        """Create the network.

        Args:
            inputs: number of input features N. block: number of values K*A in an action block.
            width: hidden size.
            max_mean: bound on the magnitude of the means.
        """
        super().__init__()
        self.block, self._max_mean = block, max_mean
        self.net = normalised_mlp(inputs, width, self.modes * (2 * block + 1))

    def density(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, M), means and log standard deviations (B, M, K*A) of the mixture.

        Args:
            features: (B, N).
        """
        out = self.net(features)
        size = self.modes * self.block
        logits, mean, log_std = out.split([self.modes, size, size], dim=-1)
        shape = (-1, self.modes, self.block)
        log_std = MIN_LOG_STD + nn.functional.softplus(log_std.view(shape))
        return logits, torch.tanh(mean.view(shape)) * self._max_mean, log_std

    def log_density(self, features: Tensor, action: Tensor) -> Tensor:
        """Return the log density (B,) of ``action`` (B, K*A)."""
        logits, mean, log_std = self.density(features)
        error = (action[:, None] - mean) * torch.exp(-log_std)
        log_mode = (-0.5 * error**2 - log_std - HALF_LOG_2PI).sum(-1)
        return torch.logsumexp(torch.log_softmax(logits, -1) + log_mode, -1)

    def draw(self, features: Tensor, gumbel: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return samples (B, K*A) of the mixture, and a tensor (B, K*A) that marks faults.

        The second tensor is NaN where an output of the network is not finite, even if the sample
        does not depend on that output, and 0 elsewhere.

        Args:
            features: (B, N).
            gumbel: (B, M) standard Gumbel noise, which selects a mode in proportion to its weight
                (Gumbel-max trick); zeros select the mode with the largest weight.
            noise: (B, K*A) in standard deviations of the mode.
        """
        logits, mean, log_std = self.density(features)
        mode = (logits + gumbel).argmax(-1)[:, None, None].expand(-1, 1, self.block)
        mean, log_std = mean.gather(1, mode)[:, 0], log_std.gather(1, mode)[:, 0]
        nan_carrier = 0.0 * (log_std + logits.sum(-1, keepdim=True))
        return mean + torch.exp(log_std) * noise, nan_carrier


class Actor(ActionMixture):
    """Density of action blocks that lead to a goal within a given time."""

    def __init__(self, latent: int, block: int, goal: int) -> None:
        """Create the network.

        Args:
            latent: latent dimension D. block: number of values K*A in an action block.
            goal: number of goal features G.
        """
        super().__init__(2 * latent + goal + 1, block, width=256, max_mean=1.2)

    def log_prob(
        self, features: Tensor, velocity: Tensor, remaining: Tensor, action: Tensor
    ) -> Tensor:
        """Return the log density (B,) of ``action`` (B, K*A).

        Args:
            features: (B, D + G), from ``goal_features`` or ``latent_goal_features``.
            velocity: (B, D), latent minus the latent one model step before.
            remaining: (B,) time to the goal as a share of the longest in training, in [0, 1].
            action: action blocks to rate.
        """
        inputs = torch.cat([features, velocity, remaining[:, None]], dim=-1)
        return self.log_density(inputs, action)

    def sample(
        self,
        features: Tensor,
        velocity: Tensor,
        remaining: Tensor,
        gumbel: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """Return sampled action blocks (B, K*A) in [-1, 1]; NaN for non-finite outputs.

        Args:
            features, velocity, remaining: see ``log_prob``.
            gumbel, noise: see ``ActionMixture.draw``.
        """
        inputs = torch.cat([features, velocity, remaining[:, None]], dim=-1)
        sample, nan_carrier = self.draw(inputs, gumbel, noise)
        return clamp_keep_nan(sample, -1.0, 1.0) + nan_carrier


class TwinValue(nn.Module):
    """Value network: minus the discounted number of model steps to a goal.

    The lower of two independent estimates is used.
    """

    def __init__(self, inputs: int, width: int = 256) -> None:
        """Create the two networks.

        Args:
            inputs: number of input features N. width: hidden size.
        """
        super().__init__()
        self.first = normalised_mlp(inputs, width, 1)
        self.second = normalised_mlp(inputs, width, 1)

    def estimates(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return both estimates (B,) for ``features`` (B, N)."""
        return self.first(features)[:, 0], self.second(features)[:, 0]

    def forward(self, features: Tensor) -> Tensor:
        """Return the lower estimate (B,) for ``features`` (B, N)."""
        first, second = self.estimates(features)
        # torch.minimum would lose NaN when compiled
        return (first + second - (first - second).abs()) / 2.0


class ActorCritic(nn.Module):
    """Actor and value of one world model.

    Attributes:
        max_steps: longest time to a goal in training, in control steps.
        uses_latent_goals: whether goals are latents instead of positions.
    """

    def __init__(
        self, latent: int, block: int, max_steps: int, uses_latent_goals: bool = False
    ) -> None:
        """Create both networks.

        Args:
            latent: latent dimension D. block: number of values K*A in an action block.
            max_steps, uses_latent_goals: see ``ActorCritic``.
        """
        super().__init__()
        self.max_steps, self.uses_latent_goals = max_steps, uses_latent_goals
        goal = latent if uses_latent_goals else POSITION_FEATURES
        self.actor = Actor(latent, block, goal)
        self.value = TwinValue(latent + goal)
