"""How plans are searched for."""

from __future__ import annotations

from dataclasses import dataclass

from .loading import ConfigError

OPTIMIZERS = ('local', 'actor', 'icem', 'cem', 'mppi')
"""Searches of the planner; the first two need heads."""
RUNTIMES = ('openvino', 'torch', 'cuda')
"""What can run the networks of a plan."""


@dataclass(frozen=True)
class ActorConfig:
    """The actor alone.

    Attributes:
        steps: control steps in which it is told to be at the goal.
    """

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f'actor.steps: expected >= 1, got {self.steps}')


@dataclass(frozen=True)
class CemConfig:
    """The cross-entropy method.

    Attributes:
        candidates: priced in a sweep; sweeps: how many at most; elites: that form the next.
        std: of the first sweep's noise.
    """

    candidates: int
    sweeps: int
    elites: int
    std: float

    def __post_init__(self) -> None:
        if self.sweeps < 1 or not 2 <= self.elites < self.candidates or not self.std > 0.0:
            raise ConfigError(
                f'cem: expected sweeps >= 1, 2 <= elites < candidates and std > 0, got {self}'
            )


@dataclass(frozen=True)
class MppiConfig:
    """Model predictive path integral control.

    Attributes:
        candidates: priced in a sweep; sweeps: how many at most.
        temperature: cost by which a candidate may be worse and still has 1/e of the weight.
        std: of the noise on actions; noise_exponent: of its power spectrum, 0 for white.
    """

    candidates: int
    sweeps: int
    temperature: float
    std: float
    noise_exponent: float

    def __post_init__(self) -> None:
        if self.sweeps < 1 or self.candidates < 2 or not min(self.temperature, self.std) > 0.0:
            raise ConfigError(
                f'mppi: expected sweeps >= 1, candidates >= 2, temperature and std > 0, got {self}'
            )


@dataclass(frozen=True)
class PlannerConfig:
    """How a plan is searched for.

    Attributes:
        optimizer: 'local' (actor proposals and local search), 'actor' alone, 'icem', 'cem' or
            'mppi'. Where goal or model have no heads, the first two give way to iCEM.
        horizon: H, model steps looked ahead.
        candidates: action sequences priced in a sweep; sweeps: how many at most.
        fewest_candidates: that a planner node may price in a sweep instead, where a search of all
            sweeps would outlast the deadline on its machine; 0: ``candidates``, whatever it takes.
        elites: the best, around which the next sweep searches.
        noise_min, noise_std: finest and coarsest strength of the coloured noise on actions;
            noise_exponent: of its power spectrum.
        temperature: of the actor's samples.
        icem_std, icem_sweeps: start spread and sweeps of iCEM.
        actor, cem, mppi: of those searches.
        value_weight: per model step of value; distance_weight: per m of read distance;
            latent_weight: per mean square of the way to a goal latent, beside a value of it.
        turn_weight: per rad between the yaw of the object and that of its goal.
        press_weight: per m that the tip would be inside the object, taken for an upright cylinder
            of press_radius, press_height (m).
        away_weight: per m that the object would be nearer than edge_room (m) to the edge of the
            tip's workspace, or beyond.
        tip_margin, object_margin: m, how far tip and object's middle keep from declared
            obstacles. obstacle_weight: per m that they would be nearer, the mean over the path;
            obstacle_slack: m nearer that the tip may be, more only where nothing else is found.
        lead: m that the tip or the object is at least planned for on its way round obstacles.
        deadline_ms: a new sweep starts only if it will end by then; infinite: all are made.
        max_goal_spread: m, rms error to be expected of a goal read from an image, at most.
        valid_for: s after its observation that a proposal may be followed.
        waypoints: control steps handed to the guard at once.
        threads: of the planner's networks.
        runtime: what runs the networks of a plan: 'openvino', compiled for the processor,
            'torch', or 'cuda', graphs on a GPU.
        timeout: s for a goal without one of its own.
    """

    optimizer: str
    horizon: int
    candidates: int
    sweeps: int
    elites: int
    noise_min: float
    noise_std: float
    noise_exponent: float
    temperature: float
    icem_std: float
    icem_sweeps: int
    actor: ActorConfig
    cem: CemConfig
    mppi: MppiConfig
    value_weight: float
    distance_weight: float
    press_weight: float
    press_radius: float
    press_height: float
    away_weight: float
    edge_room: float
    tip_margin: float
    object_margin: float
    obstacle_weight: float
    obstacle_slack: float
    lead: float
    deadline_ms: float
    max_goal_spread: float
    valid_for: float
    waypoints: int
    threads: int
    timeout: float
    latent_weight: float = 1.0
    turn_weight: float = 2.0
    runtime: str = 'openvino'
    fewest_candidates: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(
                f'optimizer: expected one of {", ".join(OPTIMIZERS)}, got {self.optimizer!r}'
            )
        if self.runtime not in RUNTIMES:
            raise ConfigError(
                f'runtime: expected one of {", ".join(RUNTIMES)}, got {self.runtime!r}'
            )
        for key in ('horizon', 'candidates', 'sweeps', 'elites', 'icem_sweeps', 'waypoints'):
            if getattr(self, key) < 1:
                raise ConfigError(f'{key}: expected >= 1, got {getattr(self, key)}')
        if self.elites > self.candidates // 2:
            raise ConfigError(
                f'elites: expected at most half of the {self.candidates} candidates, got '
                f'{self.elites}'
            )
        fewest = self.fewest_candidates or self.candidates
        if not 2 * self.elites <= fewest <= self.candidates:
            raise ConfigError(
                f'fewest_candidates: expected 0, or {2 * self.elites} (twice the elites) to '
                f'{self.candidates} (the candidates), got {self.fewest_candidates}'
            )
        if min(self.deadline_ms, self.valid_for, self.max_goal_spread) <= 0:
            raise ConfigError('deadline_ms, valid_for, max_goal_spread: expected positive numbers')

    @property
    def sweep_sizes(self) -> range:
        """Numbers of candidates in a sweep that are left to choose from on the machine."""
        is_open = self.fewest_candidates and self.optimizer == 'local'
        return range(self.fewest_candidates if is_open else self.candidates, self.candidates + 1)
