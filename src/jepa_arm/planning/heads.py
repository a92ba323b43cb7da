"""Goal-conditioned heads on frozen latents: an actor and a goal-reaching value.

Both are told the goal as a place for the object or the tip, and see it relative to where a
probe reads that subject in the latent, so no goal image is needed. Heads of another kind are told
the latent of a goal image; which of the two they are, they are trained as.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..goals import Goal, LatentGoal
from ..model.bounded import bounded
from ..model.checkpoint import Checkpoint, load_module

POSITION_SCALE = 10.0
"""1/m; positions are given to the heads in units of 10 cm."""
POSITION_FEATURES = 7
"""Numbers that tell the heads a position goal, beside the latent."""


def goal_features(latent: Tensor, read: Tensor, subject: Tensor, goal: Tensor) -> Tensor:
    """(B, D + 7): the latent, the goal, the way to it, and whose goal it is.

    Args:
        latent: (B, D).
        read: (B, 3) m, the subject's position as a probe reads it in ``latent``.
        subject: (B,) 1 for the object, 0 for the tip.
        goal: (B, 3) m.
    """
    way = (goal - read) * POSITION_SCALE
    return torch.cat([latent, goal * POSITION_SCALE, way, subject[:, None]], dim=-1)


def latent_goal_features(latent: Tensor, goal: Tensor) -> Tensor:
    """(B, 2*D): the latent and the way from it to the goal's, (B, D) each or (D,)."""
    return torch.cat([latent, goal - latent], dim=-1)


def mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """Three hidden layers, each normalised."""
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.LayerNorm(width),
        nn.GELU(),
        nn.Linear(width, width),
        nn.LayerNorm(width),
        nn.GELU(),
        nn.Linear(width, width),
        nn.LayerNorm(width),
        nn.GELU(),
        nn.Linear(width, outputs),
    )


class Mixture(nn.Module):
    """Mixture density over action blocks.

    Args:
        inputs: N, numbers it is told. block: K*A, values of an action block.
        width: hidden size. modes: M. largest: bound on the means.
        min_log_std: floor on the log standard deviation; without it modes collapse.
    """

    def __init__(
        self,
        inputs: int,
        block: int,
        width: int,
        largest: float,
        modes: int = 6,
        min_log_std: float = -1.6,
    ) -> None:
        super().__init__()
        self.block, self.modes, self.min_log_std = block, modes, min_log_std
        self.largest = largest
        self.net = mlp(inputs, width, modes * (2 * block + 1))

    def density(self, told: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mixture logits (B, M), means and log standard deviations (B, M, K*A).

        ``told``: (B, N).
        """
        out = self.net(told)
        size = self.modes * self.block
        logits, mean, log_std = out.split([self.modes, size, size], dim=-1)
        shape = (-1, self.modes, self.block)
        log_std = self.min_log_std + nn.functional.softplus(log_std.view(shape))
        return logits, torch.tanh(mean.view(shape)) * self.largest, log_std

    def log_density(self, told: Tensor, action: Tensor) -> Tensor:
        """(B,) of ``action`` (B, K*A)."""
        logits, mean, log_std = self.density(told)
        error = (action[:, None] - mean) * torch.exp(-log_std)
        log_mode = (-0.5 * error**2 - log_std - 0.9189385).sum(-1)
        return torch.logsumexp(torch.log_softmax(logits, -1) + log_mode, -1)

    def draw(self, told: Tensor, gumbel: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K*A), a mode by its weight, then a sample of it; and 0, NaN where it is broken.

        Args:
            told: (B, N).
            gumbel: (B, M) of the standard Gumbel distribution: the mode is one by its weight
                (Gumbel-max trick); zeros: the one with the largest weight.
            noise: (B, K*A) in standard deviations from its mean.
        """
        logits, mean, log_std = self.density(told)
        mode = (logits + gumbel).argmax(-1)[:, None, None].expand(-1, 1, self.block)
        mean, log_std = mean.gather(1, mode)[:, 0], log_std.gather(1, mode)[:, 0]
        broken = 0.0 * (log_std + logits.sum(-1, keepdim=True))
        return mean + torch.exp(log_std) * noise, broken


class Actor(Mixture):
    """Action blocks that lead to a goal in a given time.

    Args:
        latent: D. block: K*A, values of an action block. goal: G, features of the goal.
        width: hidden size.
    """

    def __init__(
        self, latent: int, block: int, goal: int = POSITION_FEATURES, width: int = 256
    ) -> None:
        super().__init__(2 * latent + goal + 1, block, width, largest=1.2)

    def forward(
        self, features: Tensor, velocity: Tensor, remaining: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``Mixture.density``.

        Args:
            features: (B, D + G) of ``goal_features`` or ``latent_goal_features``.
            velocity: (B, D), latent minus the one a model step earlier.
            remaining: (B,) share of the longest hindsight horizon left, in [0, 1].
        """
        return self.density(torch.cat([features, velocity, remaining[:, None]], dim=-1))

    def log_prob(
        self, features: Tensor, velocity: Tensor, remaining: Tensor, action: Tensor
    ) -> Tensor:
        """(B,) log density of ``action`` (B, K*A)."""
        told = torch.cat([features, velocity, remaining[:, None]], dim=-1)
        return self.log_density(told, action)

    def pick(
        self,
        features: Tensor,
        velocity: Tensor,
        remaining: Tensor,
        gumbel: Tensor,
        noise: Tensor,
    ) -> Tensor:
        """(B, K*A) in [-1, 1]: a sample.

        Args:
            features, velocity, remaining: see ``forward``. gumbel, noise: see ``Mixture.draw``.
        """
        told = torch.cat([features, velocity, remaining[:, None]], dim=-1)
        sample, broken = self.draw(told, gumbel, noise)
        return bounded(sample, -1.0, 1.0) + broken  # NaN goes through


class Twin(nn.Module):
    """Minus the discounted number of model steps to a goal; twin, the lower one counts.

    Args:
        inputs: N, numbers it is told. width: hidden size.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.first, self.second = mlp(inputs, width, 1), mlp(inputs, width, 1)

    def both(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The two estimates, (B,) each, of what is told (B, N)."""
        return self.first(features)[:, 0], self.second(features)[:, 0]

    def forward(self, features: Tensor) -> Tensor:
        """(B,) the lower of the two estimates."""
        first, second = self.both(features)
        return (first + second - (first - second).abs()) / 2.0  # compiled minima lose NaN


class Value(Twin):
    """Of a goal in latents (D) that is told by ``goal`` features."""

    def __init__(self, latent: int, goal: int = POSITION_FEATURES, width: int = 256) -> None:
        super().__init__(latent + goal, width)


class Heads(nn.Module):
    """Actor and value that belong to one world model.

    Args:
        latent: D. block: K*A. max_steps: control steps of the longest hindsight.
        of_latents: whether they are told goals as latents, not as positions.
    """

    def __init__(self, latent: int, block: int, max_steps: int, of_latents: bool = False) -> None:
        super().__init__()
        self.max_steps, self.of_latents = max_steps, of_latents
        goal = latent if of_latents else POSITION_FEATURES
        self.actor = Actor(latent, block, goal)
        self.value = Value(latent, goal)

    def know(self, goal: Goal) -> bool:
        """Whether it is the kind of goal that they were trained for."""
        return isinstance(goal, LatentGoal) == self.of_latents


def load_heads(checkpoint: Checkpoint) -> Heads | None:
    """The heads of a checkpoint, in eval mode; None if it has none.

    Raises:
        CheckpointError: the heads' file is broken or belongs to another model.
    """
    if 'heads' not in checkpoint.info:
        return None
    model = checkpoint.model
    heads = Heads(model.latent, model.block_width, int(checkpoint.info['heads']['max_steps']))
    load_module(checkpoint.folder, 'heads', heads)
    return heads
