"""The belief: the latent now and a model step ago, from samples that come when they come."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class Belief:
    """Recent latents with their stamps.

    The predictor wants the latent exactly one model step before the newest; samples that came
    early, late or not at all are bridged by linear interpolation between their neighbours.
    """

    def __init__(self, model_dt: float, control_dt: float, past: int = 1) -> None:
        """``past``: latents that the predictor wants before the newest, a model step apart."""
        self._model_dt, self._past = model_dt, past
        self._samples: deque[tuple[float, Tensor]] = deque(
            maxlen=(past + 2) * max(1, round(model_dt / control_dt)) + 2
        )

    def reset(self) -> None:
        """Forgets everything."""
        self._samples.clear()

    def update(self, stamp: float, z: Tensor) -> None:
        """Takes the latent ``z`` (1, D) of an observation made at ``stamp`` (s).

        Raises:
            ValueError: ``stamp`` is not newer than the last one.
        """
        if self._samples and stamp <= self._samples[-1][0]:
            raise ValueError(
                f'expected an observation newer than {self._samples[-1][0]:.3f} s, got '
                f'{stamp:.3f} s: the clock jumped back or a message came twice'
            )
        self._samples.append((stamp, z))

    @property
    def stamp(self) -> float | None:
        """s, of the newest sample; None before the first."""
        return self._samples[-1][0] if self._samples else None

    def now(self) -> tuple[Tensor, Tensor]:
        """(z, z_prev), (1, D) and (1, past*D): the newest latent and those before."""
        return self.at(0)

    def at(self, steps_ago: int) -> tuple[Tensor, Tensor]:
        """(z, z_prev) as they were ``steps_ago`` model steps before the newest sample."""
        stamp = self._samples[-1][0] - steps_ago * self._model_dt
        stamps = [stamp - ago * self._model_dt for ago in range(1, self._past + 1)]
        return self._interpolate(stamp), torch.cat([self._interpolate(s) for s in stamps], dim=-1)

    @property
    def span(self) -> float:
        """s between the oldest and the newest sample kept."""
        return self._samples[-1][0] - self._samples[0][0] if self._samples else 0.0

    def _interpolate(self, stamp: float) -> Tensor:
        later_stamp, later = self._samples[-1]
        for early_stamp, early in reversed(self._samples):
            if early_stamp <= stamp:
                gap = later_stamp - early_stamp
                share = (stamp - early_stamp) / gap if gap > 0 else 0.0
                return torch.lerp(early, later, share)
            later_stamp, later = early_stamp, early
        return self._samples[0][1]
