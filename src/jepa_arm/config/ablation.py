"""Variants of the world model, trained and measured alike."""

from __future__ import annotations

from dataclasses import dataclass

from .loading import ConfigError


@dataclass(frozen=True)
class AblationRow:
    """One variant of the world model.

    Attributes:
        name: of the row, letters, digits and ``_``.
        changes: to the base, each ``part.key=value`` with the value in YAML; parts are
            model, train and heads (see ``ModelFile``), planner and time.
    """

    name: str
    changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ConfigError(f'ablation row: expected a name like latent_128, got {self.name!r}')


@dataclass(frozen=True)
class AblationConfig:
    """Variants of a world model, trained and measured alike.

    Attributes:
        base: ``config/model/BASE.yaml``, what the rows change.
        minutes: processor minutes of training.
        seeds: of weights, windows, split and heads; each gives a run of each row.
        probe_steps, heads_steps: optimiser steps of each probe, of actor and of value.
        reach, push: development scenes of each task; scene_seed: of the first of them.
    """

    base: str
    minutes: float
    seeds: tuple[int, ...]
    probe_steps: int
    heads_steps: int
    reach: int
    push: int
    scene_seed: int
    rows: tuple[AblationRow, ...]

    def __post_init__(self) -> None:
        counts = (self.probe_steps, self.heads_steps, self.reach, self.push, len(self.seeds))
        if min(counts) < 1 or not self.minutes > 0.0:
            raise ConfigError(
                'ablation: expected positive minutes, steps and scenes and at least one seed, got '
                f'{self.minutes} minutes and {counts}'
            )
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ConfigError(f'ablation: expected a name of its own for each row, got {names}')
