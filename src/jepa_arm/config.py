"""Frozen, validated configuration: one dataclass a part, values in ``config/*.yaml``.

``load(cls, path)`` reads YAML strictly: an unknown or missing key, or a value of the wrong
type, is an error that names the file, what was expected and what came.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .resources import FileError, read_text

T = TypeVar('T')
MOST_LAYERS = 64
LARGEST = 8192
"""Of any size in a model's configuration, and pixels of an image's side."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says what to change and where."""


def steps_per(outer_s: float, inner_s: float, what: str) -> int:
    """Whole number of ``inner_s`` periods in ``outer_s``.

    Raises:
        ConfigError: if the ratio is not a whole number >= 1.
    """
    ratio = outer_s / inner_s
    steps = round(ratio)
    if steps < 1 or abs(ratio - steps) > 1e-6:
        raise ConfigError(
            f'{what}: expected a whole number of periods, got {outer_s} s / {inner_s} s '
            f'= {ratio:g} (config/sim.yaml)'
        )
    return steps


@dataclass(frozen=True)
class TimeConfig:
    """The explicit time chain, in seconds.

    ``physics_dt`` x substeps = ``stream_dt`` x ticks = ``control_dt`` x ``frame_skip``
    = ``model_dt``. Ratios that are not whole numbers are refused.
    """

    physics_dt: float
    stream_dt: float
    control_dt: float
    frame_skip: int

    def __post_init__(self) -> None:
        if self.frame_skip < 1:
            raise ConfigError(f'frame_skip: expected >= 1, got {self.frame_skip}')
        _ = self.substeps, self.ticks

    @property
    def substeps(self) -> int:
        """Physics steps in one stream tick."""
        return steps_per(self.stream_dt, self.physics_dt, 'stream_dt / physics_dt')

    @property
    def ticks(self) -> int:
        """Stream ticks in one control step."""
        return steps_per(self.control_dt, self.stream_dt, 'control_dt / stream_dt')

    @property
    def model_dt(self) -> float:
        """Seconds in one step of the world model."""
        return self.control_dt * self.frame_skip


@dataclass(frozen=True)
class CameraConfig:
    """A pinhole camera without distortion, posed in the arm's base frame.

    Attributes:
        width, height: pixels.
        fov_deg: vertical field of view, degrees.
        position, look_at: (x, y, z) m in the base frame; image up is base +z.
        frame_id: name of the optical frame.
    """

    width: int
    height: int
    fov_deg: float
    position: tuple[float, float, float]
    look_at: tuple[float, float, float]
    frame_id: str

    def __post_init__(self) -> None:
        if not (16 <= self.width <= LARGEST and 16 <= self.height <= LARGEST):
            raise ConfigError(
                f'camera size: expected 16..{LARGEST} px, got {self.width}x{self.height}'
            )
        if not 1.0 <= self.fov_deg <= 170.0:
            raise ConfigError(f'fov_deg: expected 1..170 degrees, got {self.fov_deg}')


@dataclass(frozen=True)
class ArmConfig:
    """One arm: where its URDF is, which joints move, how fast, and where its tip may go.

    Joint position, velocity and effort limits come from the URDF; the values below may tighten
    them, never widen.

    Attributes:
        urdf: file name in ``urdf/`` or an absolute path; ``.xacro`` is expanded in ``urdf/`` only.
        joints: names in command order (J,).
        base_link, tip_link: frames of the URDF; tip poses are given in ``base_link``.
        controller: name of the trajectory controller that the arm's driver starts.
        home: (J,) rad.
        acceleration: (J,) rad/s^2, the maker's limits.
        jerk: (J,) rad/s^3, the maker's limits.
        velocity_scale, acceleration_scale, jerk_scale: share of the limits used, in (0, 1].
        workspace_min, workspace_max: (x, y, z) m, box in which the tip may be, base frame.
        tool_axis: unit vector of the tip frame that is kept pointing down (base -z).
        allowed_contacts: pairs of links that always touch and are not self-collisions.
        position_min, position_max: (J,) rad, velocity_max: (J,) rad/s; empty: the URDF's.
    """

    name: str
    urdf: str
    joints: tuple[str, ...]
    base_link: str
    tip_link: str
    home: tuple[float, ...]
    acceleration: tuple[float, ...]
    jerk: tuple[float, ...]
    velocity_scale: float
    acceleration_scale: float
    jerk_scale: float
    workspace_min: tuple[float, float, float]
    workspace_max: tuple[float, float, float]
    tool_axis: tuple[float, float, float]
    camera: CameraConfig
    allowed_contacts: tuple[tuple[str, str], ...] = ()
    position_min: tuple[float, ...] = ()
    position_max: tuple[float, ...] = ()
    velocity_max: tuple[float, ...] = ()
    controller: str = 'joint_trajectory_controller'

    def __post_init__(self) -> None:
        n = len(self.joints)
        for key in ('position_min', 'position_max', 'velocity_max'):
            values = getattr(self, key)
            if values and len(values) != n:
                raise ConfigError(
                    f'{self.name}.{key}: expected {n} values (joints) or none, got {len(values)}'
                )
            if not all(map(math.isfinite, values)):
                raise ConfigError(f'{self.name}.{key}: expected finite values, got {values}')
        if any(v <= 0.0 for v in self.velocity_max):
            raise ConfigError(
                f'{self.name}.velocity_max: expected positive values, got {self.velocity_max}'
            )
        for key in ('home', 'acceleration', 'jerk'):
            got = len(getattr(self, key))
            if got != n:
                raise ConfigError(f'{self.name}.{key}: expected {n} values (joints), got {got}')
        for key in ('velocity_scale', 'acceleration_scale', 'jerk_scale'):
            value = getattr(self, key)
            if not 0.0 < value <= 1.0:
                raise ConfigError(f'{self.name}.{key}: expected a share in (0, 1], got {value}')
        if any(lo >= hi for lo, hi in zip(self.workspace_min, self.workspace_max, strict=True)):
            raise ConfigError(
                f'{self.name}.workspace: expected min < max on each axis, got '
                f'{self.workspace_min} .. {self.workspace_max}'
            )


@dataclass(frozen=True)
class SimConfig:
    """The virtual arm's physics and objects."""

    time: TimeConfig
    gravity: float
    solver_iterations: int
    position_gain: float
    velocity_gain: float
    object_size: float
    object_mass: float
    friction: float
    command_timeout: float


@dataclass(frozen=True)
class TaskConfig:
    """A task of the virtual arm.

    Attributes:
        kind: 'reach' (the tip goes to a place) or 'push' (the object goes to a place).
        tolerance: m; time_limit: s.
        hold_steps: control steps the tolerance must be held.
        object_min, object_max: (x, y) m, where objects and their goals lie, as far as the arm's
            workspace allows.
        distance_min, distance_max: m, from start to goal.
        obstacles: 1 where a post or a wall stands in the straight way from start to goal, or 0.
    """

    name: str
    kind: str
    tolerance: float
    time_limit: float
    hold_steps: int
    object_min: tuple[float, float]
    object_max: tuple[float, float]
    distance_min: float
    distance_max: float
    obstacles: int = 0

    def __post_init__(self) -> None:
        if self.obstacles not in (0, 1):
            raise ConfigError(f'{self.name}.obstacles: expected 0 or 1, got {self.obstacles}')
        if self.kind not in ('reach', 'push'):
            raise ConfigError(f'task kind: expected reach or push, got {self.kind!r}')
        if self.distance_min < 2 * self.tolerance:
            raise ConfigError(
                f'{self.name}.distance_min: expected at least twice the tolerance '
                f'({2 * self.tolerance} m), got {self.distance_min}'
            )


@dataclass(frozen=True)
class CollectConfig:
    """Play data to collect.

    Attributes:
        episodes, frames: how many, and observations in each (actions: one less).
        seed: episode ``i`` depends on (seed, i) alone, however many workers there are.
        object_min, object_max: (x, y) m, where objects start and are pushed to, as far as the
            arm's workspace allows.
        obstacle_share: of the episodes that have one or two posts or walls on the table.
        thing_share: of those with an object of any shape, size, mass and friction in place of
            the simulator's cube.
        light_share: of the episodes that are lit from anywhere above, in any brightness.
        camera_std: m, on each axis, by which the camera stands elsewhere in each episode.
    """

    episodes: int
    frames: int
    seed: int
    object_min: tuple[float, float]
    object_max: tuple[float, float]
    obstacle_share: float = 0.0
    thing_share: float = 0.0
    light_share: float = 0.0
    camera_std: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.camera_std < 0.1:
            raise ConfigError(f'camera_std: expected 0 to 0.1 m, got {self.camera_std}')
        for key in ('obstacle_share', 'thing_share', 'light_share'):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise ConfigError(f'{key}: expected a share in [0, 1], got {getattr(self, key)}')
        for key in ('episodes', 'frames'):
            if getattr(self, key) < (2 if key == 'frames' else 1):
                raise ConfigError(f'{key}: expected a positive number, got {getattr(self, key)}')


@dataclass(frozen=True)
class Contract:
    """What data was recorded with and a model was trained for; checked against the live robot.

    Attributes:
        arm: name of the arm; joints: their names, in the order of every joint vector.
        camera: size and pose of the one camera.
        action_space: name of the meaning of an action; action_width: A, its number of values.
        action_scale: what an action of 1 does in one control step, m or rad.
        time: the time chain; ``frame_skip`` control steps are one model step.
    """

    arm: str
    joints: tuple[str, ...]
    camera: CameraConfig
    action_space: str
    action_width: int
    action_scale: float
    time: TimeConfig

    @property
    def proprio_width(self) -> int:
        """P: joint positions, tip position, and how far the tip target leads the tip."""
        return len(self.joints) + 6

    @property
    def block_width(self) -> int:
        """Values of one model action: the actions of ``frame_skip`` control steps."""
        return self.action_width * self.time.frame_skip


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the world model; what it sees and does comes from the ``Contract``.

    Attributes:
        channels: outputs of the strided convolutions, each halving the image.
        image_width, proprio_width: features of image and proprioception, each normalised, so
            that a few numbers count beside the many pixels; encoder_width: of the fused layer.
        latent: D.
        predictor_width, predictor_blocks: hidden size and number of residual blocks.
        image_size: (h, w) px to which images are averaged first; empty: as they come.
        vit: patch size, width, blocks and heads of a vision transformer in place of the
            convolutions; empty: none.
        image_dropout: share of training frames whose image features are a learned token.
        sees_joints: whether proprioception is fused with the image.
        sees_velocity: whether joint velocities are part of proprioception.
        history: latents the predictor sees, 1 to 3: the present one and those before.
        is_residual: whether the predictor gives the change of the latent, or the latent.
        inverse_width: hidden size of a network that tells the actions between two latents, for
            ``TrainConfig.inverse_weight``; 0: none.
    """

    name: str
    channels: tuple[int, ...]
    image_width: int
    proprio_width: int
    encoder_width: int
    latent: int
    predictor_width: int
    predictor_blocks: int
    image_size: tuple[int, ...] = ()
    vit: tuple[int, ...] = ()
    image_dropout: float = 0.0
    sees_joints: bool = True
    sees_velocity: bool = False
    history: int = 2
    is_residual: bool = True
    inverse_width: int = 0

    def __post_init__(self) -> None:
        features = (self.image_width, self.proprio_width, self.encoder_width, self.latent)
        sizes = (*self.channels, *features, self.predictor_width, self.predictor_blocks)
        sizes += (*self.image_size, *self.vit, max(1, self.inverse_width))
        if not self.channels or min(sizes) < 1 or max(sizes) > LARGEST:
            raise ConfigError(f'model {self.name}: expected sizes 1..{LARGEST}, got {self}')
        if len(self.channels) > MOST_LAYERS or self.predictor_blocks > MOST_LAYERS:
            raise ConfigError(f'model {self.name}: expected <= {MOST_LAYERS} layers, got {self}')
        if len(self.image_size) not in (0, 2) or len(self.vit) not in (0, 4):
            raise ConfigError(
                f'model {self.name}: expected image_size of 2 values and vit of 4, or none, got '
                f'{self.image_size} and {self.vit}'
            )
        if not (0.0 <= self.image_dropout < 1.0 and 1 <= self.history <= 3):
            raise ConfigError(
                f'model {self.name}: expected image_dropout in [0, 1) and history 1..3, got '
                f'{self.image_dropout} and {self.history}'
            )

    @property
    def past(self) -> int:
        """Latents before the present one that a prediction is given as ``z_prev``, at least 1."""
        return max(1, self.history - 1)


@dataclass(frozen=True)
class LewmConfig:
    """Sizes of LeWorldModel as published; what it sees and does comes from the ``Contract``.

    Attributes:
        image_size, patch_size: px; encoder_blocks, encoder_heads: of the vision transformer.
        latent: D, also the width of encoder and predictor.
        projector_width: hidden size of the two projectors.
        predictor_blocks, predictor_heads, head_width, predictor_width: of the predictor; the
            last is the hidden size of its MLPs.
        dropout: in the predictor, while training.
        history: latents the predictor sees.
        action_channels: width to which an action block is brought first.
    """

    name: str
    image_size: int
    patch_size: int
    encoder_blocks: int
    encoder_heads: int
    latent: int
    projector_width: int
    predictor_blocks: int
    predictor_heads: int
    head_width: int
    predictor_width: int
    dropout: float
    history: int
    action_channels: int

    def __post_init__(self) -> None:
        sizes = [v for v in dataclasses.astuple(self) if type(v) is int]
        if min(sizes) < 1 or not 0.0 <= self.dropout < 1.0:
            raise ConfigError(
                f'model {self.name}: expected sizes >= 1 and dropout in [0, 1), got {self}'
            )
        if self.image_size % self.patch_size or self.latent % self.encoder_heads:
            raise ConfigError(
                f'model {self.name}: expected image_size a multiple of patch_size and latent one '
                f'of encoder_heads, got {self.image_size}, {self.patch_size}, {self.latent}, '
                f'{self.encoder_heads}'
            )


@dataclass(frozen=True)
class TrainConfig:
    """How the world model is trained.

    Attributes:
        steps: optimiser steps; the learning rate falls to zero over them.
        batch: windows in a step; window: frames L in a window, the first two give z_prev, z.
        learning_rate: peak; warmup_steps: linear rise to it; weight_decay; clip_norm.
        sigreg_weight, sigreg_projections, sigreg_knots: of SIGReg.
        held_out: share of episodes kept for validation.
        validate_every: steps; save_every_s: seconds between training states.
        probe_labels: frames with ground truth the probes may use; 0 for all.
        probe_steps: optimiser steps of each probe.
        shifts_colours: whether each training frame's hues are turned at random.
        windows_per_episode: windows of a batch that come from the same episode.
        inverse_weight: of the error of the actions told from two latents, see ``ModelConfig``.
        straightening_weight: of the bend of the latents' path.
    """

    steps: int
    batch: int
    window: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    sigreg_weight: float
    sigreg_projections: int
    sigreg_knots: int
    held_out: float
    validate_every: int
    save_every_s: float
    probe_labels: int
    probe_steps: int
    shifts_colours: bool
    windows_per_episode: int
    inverse_weight: float = 0.0
    straightening_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.batch < 2 or self.steps < 1 or not 0.0 < self.held_out < 1.0:
            raise ConfigError(
                'train: expected batch >= 2, steps >= 1, held_out in (0, 1), got '
                f'{self.batch}, {self.steps}, {self.held_out}'
            )
        if self.validate_every < 1 or self.sigreg_knots < 2 or self.sigreg_projections < 1:
            raise ConfigError(
                'train: expected validate_every >= 1, sigreg_knots >= 2, sigreg_projections >= 1, '
                f'got {self.validate_every}, {self.sigreg_knots}, {self.sigreg_projections}'
            )


OPTIMIZERS = ('local', 'actor', 'icem', 'cem', 'mppi')
"""Searches of the planner; the first two need heads."""


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
        elites: the best, around which the next sweep searches.
        noise_min, noise_std: finest and coarsest strength of the coloured noise on actions;
            noise_exponent: of its power spectrum.
        temperature: of the actor's samples.
        icem_std, icem_sweeps: start spread and sweeps of iCEM.
        actor, cem, mppi: of those searches.
        value_weight: per model step of value; distance_weight: per m of read distance.
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
        threads: torch threads of the planner process.
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

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(
                f'optimizer: expected one of {", ".join(OPTIMIZERS)}, got {self.optimizer!r}'
            )
        for key in ('horizon', 'candidates', 'sweeps', 'elites', 'icem_sweeps', 'waypoints'):
            if getattr(self, key) < 1:
                raise ConfigError(f'{key}: expected >= 1, got {getattr(self, key)}')
        if self.elites > self.candidates // 2:
            raise ConfigError(
                f'elites: expected at most half of the {self.candidates} candidates, got '
                f'{self.elites}'
            )
        if min(self.deadline_ms, self.valid_for, self.max_goal_spread) <= 0:
            raise ConfigError('deadline_ms, valid_for, max_goal_spread: expected positive numbers')


@dataclass(frozen=True)
class HeadsConfig:
    """How the goal-conditioned heads are trained on frozen latents.

    Attributes:
        actor_steps, value_steps: optimiser steps; batch: rows in a step.
        max_steps: control steps ahead from which hindsight goals are taken.
        discount: per model step; expectile: of the value's regression.
        target_rate: share of the value that flows into its target each step.
        reached_within: m, when a goal counts as reached.
    """

    actor_steps: int
    value_steps: int
    batch: int
    learning_rate: float
    max_steps: int
    discount: float
    expectile: float
    target_rate: float
    reached_within: float

    def __post_init__(self) -> None:
        if min(self.actor_steps, self.value_steps, self.batch, self.max_steps) < 1:
            raise ConfigError(f'heads: expected steps, batch and max_steps >= 1, got {self}')
        if not (0.0 < self.discount < 1.0 and 0.5 <= self.expectile < 1.0):
            raise ConfigError(
                'heads: expected discount in (0, 1) and expectile in [0.5, 1), got '
                f'{self.discount}, {self.expectile}'
            )


@dataclass(frozen=True)
class BeliefConfig:
    """How the belief heads are trained on frozen latents; see ``filtering``.

    Attributes:
        chain_steps: model steps a belief goes blind for in training.
        chain_batch, chain_updates: chains in an optimiser step of the correction, and steps.
        chains: of which the other heads are taught; steps, batch: of each of them.
    """

    chain_steps: int
    chain_batch: int
    chain_updates: int
    chains: int
    steps: int
    batch: int
    learning_rate: float

    def __post_init__(self) -> None:
        counts = (self.chain_batch, self.chain_updates, self.chains, self.steps, self.batch)
        if self.chain_steps < 5 or min(counts) < 1:
            raise ConfigError(f'belief: expected chain_steps >= 5 and counts >= 1, got {self}')


@dataclass(frozen=True)
class ModelFile:
    """The content of ``config/model/*.yaml``: a model and how it and its heads are trained."""

    model: ModelConfig | LewmConfig
    train: TrainConfig
    heads: HeadsConfig
    belief: BeliefConfig | None = None

    def __post_init__(self) -> None:
        if isinstance(self.model, LewmConfig) and self.train.window != self.model.history + 1:
            raise ConfigError(
                f'train.window: expected {self.model.history + 1} frames (history and the next), '
                f'got {self.train.window}'
            )
        if self.train.inverse_weight and not getattr(self.model, 'inverse_width', 0):
            raise ConfigError('train.inverse_weight: expected none where inverse_width is 0')
        if isinstance(self.model, ModelConfig) and self.train.window < self.model.past + 2:
            raise ConfigError(
                f'train.window: expected >= {self.model.past + 2} frames (z_prev, z, targets), '
                f'got {self.train.window}'
            )


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


@dataclass(frozen=True)
class ObstacleConfig:
    """Something fixed that no part of the arm may touch.

    Attributes:
        name: how reasons call it.
        shape: 'box' (size: x, y, z), 'sphere' (radius) or 'capsule' (radius, length between the
            centres of its half balls, along z); sizes in m.
        xyz: m, centre in the base frame; rpy: rad, turns about the fixed axes x, y, z.
    """

    name: str
    shape: str
    size: tuple[float, ...]
    xyz: tuple[float, float, float]
    rpy: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        counts = {'box': 3, 'sphere': 1, 'capsule': 2}
        if not self.name:
            raise ConfigError('obstacle: expected a name, got an empty one')
        if self.shape not in counts:
            raise ConfigError(
                f'obstacle {self.name}.shape: expected one of {list(counts)}, got {self.shape!r}'
            )
        count = counts[self.shape]
        if len(self.size) != count or not all(0.0 < s < float('inf') for s in self.size):
            raise ConfigError(
                f'obstacle {self.name}.size: expected {count} positive finite numbers (m) for a '
                f'{self.shape}, got {self.size}'
            )
        if not all(map(math.isfinite, (*self.xyz, *self.rpy))):
            raise ConfigError(
                f'obstacle {self.name}: expected finite xyz and rpy, got {self.xyz}, {self.rpy}'
            )


@dataclass(frozen=True)
class GuardConfig:
    """What the guard lets through to the robot. Limits of joints and workspace: ``ArmConfig``.

    Attributes:
        max_proposal_age: s, oldest observation a proposal may come from when it arrives.
        max_future: s, how far a proposal's stamp may lie ahead of the clock.
        max_validity: s after its stamp for which a proposal may be followed at most.
        ros_validity: s, the same for proposals over ROS, whose message has no field for it.
        late_validity: s after it came for which a proposal over ROS may be followed, where that
            is longer: images or plans may be late, but come in time one after the other.
        max_waypoints: longest proposal.
        max_joint_age: s without a joint state after which the arm is stopped.
        max_step: rad, from the present command to the first waypoint.
        workspace_margin: m by which the tip may leave the workspace box on its way.
        min_clearance: m, least height of the arm's lowest point above the table on its way; a
            stop may use it up, not more.
        obstacle_clearance: m, least distance of any part of the arm to a declared obstacle.
        sweep_step: m, farthest that any part of the arm moves between two checks of a path.
        approach_time: s, least time to a joint limit, a self-collision or a declared obstacle at
            the present closing speed; nearer, the arm goes slower.
        least_speed: share of the velocity limits below which the approach is not slowed.
        max_tracking_error: rad between the measured joints and the nearest recent command.
            Beyond it the arm yields.
        lost_tracking_error: rad beyond which the guard latches at once.
        tracking_window: s of commands that count as recent; more than the age of a joint
            state plus the arm's lag.
        max_yields: how often it yields within ``yield_memory`` (s) before the guard latches.
        max_rejections: refused proposals in a row after which the guard latches.
        obstacles: what stands in the arm's way.
    """

    max_proposal_age: float
    max_future: float
    max_validity: float
    ros_validity: float
    late_validity: float
    max_waypoints: int
    max_joint_age: float
    max_step: float
    workspace_margin: float
    min_clearance: float
    obstacle_clearance: float
    sweep_step: float
    approach_time: float
    least_speed: float
    max_tracking_error: float
    lost_tracking_error: float
    tracking_window: float
    max_yields: int
    yield_memory: float
    max_rejections: int
    obstacles: tuple[ObstacleConfig, ...] = ()

    def __post_init__(self) -> None:
        may_be_zero = ('max_future', 'workspace_margin', 'min_clearance', 'obstacle_clearance')
        for field in dataclasses.fields(self):
            if field.name == 'obstacles':
                continue
            value = getattr(self, field.name)
            least_ok = value >= 0 if field.name in may_be_zero else value > 0
            if not (least_ok and value < float('inf')):
                raise ConfigError(f'{field.name}: expected a positive number, got {value}')
        names = [obstacle.name for obstacle in self.obstacles]
        if len(set(names)) < len(names):
            raise ConfigError(f'obstacles: expected a name of its own for each, got {names}')
        if self.least_speed > 1.0:
            raise ConfigError(f'least_speed: expected a share in (0, 1], got {self.least_speed}')
        longest = self.max_proposal_age + self.late_validity
        if longest > self.max_validity + 1e-9:
            raise ConfigError(
                f'max_validity: expected at least max_proposal_age + late_validity ({longest:.3f} '
                f's), got {self.max_validity}'
            )
        if self.ros_validity > self.max_validity:
            raise ConfigError(
                f'ros_validity: expected at most max_validity ({self.max_validity} s), '
                f'got {self.ros_validity}'
            )
        if self.tracking_window < self.max_joint_age:
            raise ConfigError(
                f'tracking_window: expected at least max_joint_age ({self.max_joint_age} s), '
                f'got {self.tracking_window}'
            )


def load(cls: type[T], path: Path) -> T:
    """Reads ``path`` into the dataclass ``cls``.

    Raises:
        ConfigError: file missing or too large, not YAML, unknown or missing key, wrong type or
            value. Aliases (``*name``) are refused: a few of them can stand for gigabytes.
    """
    try:
        values = _PlainLoader(read_text(path)).get_single_data()
    except FileNotFoundError as error:
        there = sorted(p.name for p in path.parent.glob('*.yaml'))
        raise ConfigError(f'no {path.name} in {path.parent}; there are: {there}') from error
    except (yaml.YAMLError, FileError, RecursionError) as error:
        raise ConfigError(f'{path}: not YAML that can be used: {error}') from error
    try:
        return from_dict(cls, values)
    except ConfigError as error:
        raise ConfigError(f'{path}: {error}') from None


class _PlainLoader(yaml.SafeLoader):
    """Plain values only: no tags that make objects (SafeLoader), no aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError('expected plain values, got an alias')
        return super().compose_node(parent, index)


def from_dict(cls: type[T], values: Any, where: str = '') -> T:
    """Builds the dataclass ``cls`` from plain values, strictly; see ``load``."""
    if not isinstance(values, dict):
        raise ConfigError(f'{where or cls.__name__}: expected a mapping, got {values!r}')
    kinds = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f'unknown key {where}{unknown[0]}; expected one of {sorted(fields)}')
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f'missing key {where}{missing[0]}')
    return cls(**{k: _convert(kinds[k], v, f'{where}{k}') for k, v in values.items()})


def model_config(values: Any) -> ModelConfig | LewmConfig:
    """The sizes of a world model, of either architecture, from plain values; see ``load``."""
    return _convert(ModelConfig | LewmConfig, values, 'model')


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values of a configuration, ready for YAML or JSON."""
    return dataclasses.asdict(config)


def _convert(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return from_dict(typing.cast(type, kind), value, f'{where}.')
    if isinstance(kind, types.UnionType):
        if value is None and types.NoneType in kind.__args__:
            return None
        return _convert(_best_match(kind, value), value, where)
    if typing.get_origin(kind) is tuple:
        return _convert_tuple(kind, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (float, int, str, bool) and type(value) is kind:
        return value
    raise ConfigError(f'{where}: expected {getattr(kind, "__name__", kind)}, got {value!r}')


def _best_match(kind: types.UnionType, value: Any) -> Any:
    """The dataclass of a union that shares most keys with ``value``; errors then speak of it."""
    keys = set(value) if isinstance(value, dict) else set()
    classes = [c for c in kind.__args__ if dataclasses.is_dataclass(c)]
    return max(classes, key=lambda c: len(keys & {f.name for f in dataclasses.fields(c)}))


def _convert_tuple(kind: Any, value: Any, where: str) -> tuple[Any, ...]:
    args = typing.get_args(kind)
    if not isinstance(value, list | tuple):
        raise ConfigError(f'{where}: expected a list, got {value!r}')
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise ConfigError(f'{where}: expected {len(args)} values, got {len(value)}')
    pairs = zip(args, value, strict=True)
    return tuple(_convert(a, v, f'{where}[{i}]') for i, (a, v) in enumerate(pairs))
