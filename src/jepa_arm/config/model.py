"""World models, and how they and their heads are trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from .loading import ConfigError, convert
from .robot import LARGEST

MOST_LAYERS = 64
MOST_HALVINGS = 8


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the world model; what it sees and does comes from the ``Contract``.

    Attributes:
        channels: outputs of the strided convolutions, each halving the image.
        kernels: sides of their kernels, px: 3, or 2 where pieces side by side do (of an odd
            number of rows the last one is then not seen); empty: 3 each.
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
    kernels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        features = (self.image_width, self.proprio_width, self.encoder_width, self.latent)
        sizes = (*self.channels, *features, self.predictor_width, self.predictor_blocks)
        sizes += (*self.image_size, *self.vit, max(1, self.inverse_width))
        if not self.channels or min(sizes) < 1 or max(sizes) > LARGEST:
            raise ConfigError(f'model {self.name}: expected sizes 1..{LARGEST}, got {self}')
        if len(self.channels) > MOST_LAYERS or self.predictor_blocks > MOST_LAYERS:
            raise ConfigError(f'model {self.name}: expected <= {MOST_LAYERS} layers, got {self}')
        is_whole = len(self.kernels) in (0, len(self.channels))
        if not is_whole or set(self.kernels) - {2, 3}:
            raise ConfigError(
                f'model {self.name}: expected {len(self.channels)} kernels of 2 or 3, one for '
                f'each of the channels, or none, got {self.kernels}'
            )
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


LEAST_LABELS = 50
"""That probes can be taught and calibrated by."""


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
        probe_labels: frames whose object's place its probe may be taught by; 0 for all.
        probe_steps: optimiser steps of each probe; tip_probe_steps: of the tip's, if not 0.
        pointer_steps: of what labels the other frames, where not all may be used.
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
    pointer_steps: int = 2500
    tip_probe_steps: int = 0

    def __post_init__(self) -> None:
        if self.batch < 2 or self.steps < 1 or not 0.0 < self.held_out < 1.0:
            raise ConfigError(
                'train: expected batch >= 2, steps >= 1, held_out in (0, 1), got '
                f'{self.batch}, {self.steps}, {self.held_out}'
            )
        if not (self.probe_labels == 0 or self.probe_labels >= LEAST_LABELS):
            raise ConfigError(
                f'train: expected probe_labels of 0 (all) or {LEAST_LABELS} and more, got '
                f'{self.probe_labels}: a fifth of them calibrates'
            )
        if self.validate_every < 1 or self.sigreg_knots < 2 or self.sigreg_projections < 1:
            raise ConfigError(
                'train: expected validate_every >= 1, sigreg_knots >= 2, sigreg_projections >= 1, '
                f'got {self.validate_every}, {self.sigreg_knots}, {self.sigreg_projections}'
            )


@dataclass(frozen=True)
class PredictorConfig:
    """How the predictor goes on alone, on frozen latents; see ``training.predictor``.

    Attributes:
        steps: optimiser steps. batch: windows in a step; window: frames in a window.
        learning_rate: at first; it falls to zero over the steps.
    """

    steps: int
    batch: int
    window: int
    learning_rate: float

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1 or not self.learning_rate > 0.0:
            raise ConfigError(
                f'predictor: expected steps and batch >= 1, learning_rate > 0, got {self}'
            )


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

    PART: ClassVar[str] = 'heads'

    def __post_init__(self) -> None:
        if min(self.actor_steps, self.value_steps, self.batch, self.max_steps) < 1:
            raise ConfigError(f'{self.PART}: expected steps, batch and max_steps >= 1, got {self}')
        if not (0.0 < self.discount < 1.0 and 0.5 <= self.expectile < 1.0):
            raise ConfigError(
                f'{self.PART}: expected discount in (0, 1) and expectile in [0.5, 1), got '
                f'{self.discount}, {self.expectile}'
            )


@dataclass(frozen=True)
class PoseConfig(HeadsConfig):
    """How what pushes objects to a place and a yaw is taught; see ``training.pose``.

    Attributes:
        reader_steps, reader_batch, reader_rate: of what reads the yaw off images.
        turn_steps: of what predicts it. turned_within_deg: when a goal counts as reached, beside
            ``reached_within``. The others are of actor and value.
    """

    reader_steps: int
    reader_batch: int
    reader_rate: float
    turn_steps: int
    turned_within_deg: float

    PART: ClassVar[str] = 'pose'

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.reader_steps, self.reader_batch, self.turn_steps) < 1:
            raise ConfigError(f'pose: expected steps and reader_batch >= 1, got {self}')
        if not 0.0 < self.turned_within_deg < 45.0:
            raise ConfigError(
                f'pose.turned_within_deg: expected in (0, 45), got {self.turned_within_deg}'
            )


@dataclass(frozen=True)
class BeliefConfig:
    """How the belief heads are trained on frozen latents; see ``training.belief``.

    Attributes:
        chain_steps: model steps a belief goes blind for in training.
        push_batch, push_updates: chains in an optimiser step of how objects are pushed, and steps.
        chains: of which doubt and contact are taught. usual_episodes: whose frames tell what is
            usual, at most. steps, batch: of each other head; state_steps: of what latents are of;
            body_steps: of how the tip moves; view_steps: of where the camera looks from.
    """

    chain_steps: int
    push_batch: int
    push_updates: int
    chains: int
    usual_episodes: int
    steps: int
    state_steps: int
    body_steps: int
    view_steps: int
    batch: int
    learning_rate: float

    def __post_init__(self) -> None:
        pushes = self.push_batch, self.push_updates
        steps = self.steps, self.state_steps, self.body_steps, self.view_steps
        counts = *pushes, self.chains, *steps, self.usual_episodes, self.batch
        if self.chain_steps < 5 or min(counts) < 1:
            raise ConfigError(f'belief: expected chain_steps >= 5 and counts >= 1, got {self}')


@dataclass(frozen=True)
class DecoderConfig:
    """How pictures of latents are taught on frozen latents; see ``decoding``.

    Attributes:
        channels: of the features from the coarsest to the finest, each twice as large as the
            one before; the picture is twice as large as the last.
        steps: optimiser steps; batch: frames in a step; learning_rate: peak.
    """

    channels: tuple[int, ...]
    steps: int
    batch: int
    learning_rate: float

    def __post_init__(self) -> None:
        sizes = (*self.channels, self.steps, self.batch)
        if not 1 <= len(self.channels) <= MOST_HALVINGS or min(sizes) < 1:
            raise ConfigError(
                f'decoder: expected 1..{MOST_HALVINGS} channels and counts >= 1, got {self}'
            )
        if max(self.channels) > LARGEST:
            raise ConfigError(f'decoder: expected channels <= {LARGEST}, got {self.channels}')


@dataclass(frozen=True)
class ModelFile:
    """The content of ``config/model/*.yaml``: a model and how it and its heads are trained."""

    model: ModelConfig | LewmConfig
    train: TrainConfig
    heads: HeadsConfig
    predictor: PredictorConfig | None = None
    pose: PoseConfig | None = None
    belief: BeliefConfig | None = None
    decoder: DecoderConfig | None = None

    def __post_init__(self) -> None:
        if isinstance(self.model, LewmConfig) and self.train.window != self.model.history + 1:
            raise ConfigError(
                f'train.window: expected {self.model.history + 1} frames (history and the next), '
                f'got {self.train.window}'
            )
        if self.train.inverse_weight and not getattr(self.model, 'inverse_width', 0):
            raise ConfigError('train.inverse_weight: expected none where inverse_width is 0')
        if isinstance(self.model, LewmConfig):
            if self.predictor is not None:
                raise ConfigError('predictor: expected none: LeWorldModel is taught as a whole')
            return
        for name, part in (('train', self.train), ('predictor', self.predictor)):
            if part is not None and part.window < self.model.past + 2:
                raise ConfigError(
                    f'{name}.window: expected >= {self.model.past + 2} frames (z_prev, z, '
                    f'targets), got {part.window}'
                )


def model_config(values: Any) -> ModelConfig | LewmConfig:
    """The sizes of a world model, of either architecture, from plain values; see ``load``."""
    return convert(ModelConfig | LewmConfig, values, 'model')
