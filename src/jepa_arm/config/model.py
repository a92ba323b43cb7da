"""Model configuration: sizes of world models, and the training of models and heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from .loading import convert
from .robot import MAX_SIZE
from .rules import (
    OPEN_SHARE,
    YAW_TOLERANCE,
    Checked,
    ConfigError,
    Count,
    Positive,
    Rule,
    at_least,
    between,
    require,
)

MAX_LAYERS = 64
MAX_DECODER_LAYERS = 8
SIZE = between(1, MAX_SIZE)
Size = Annotated[int, SIZE]


@dataclass(frozen=True)
class ModelConfig(Checked):
    """Sizes of the compact world model; its inputs and actions are given by the ``Contract``.

    Attributes:
        conv_channels: output channels of the strided 3x3 convolutions, each of which halves the
            image.
        image_features, proprio_features: numbers of features of image and proprioception. Both are
            batch-normalised, so that the many pixels do not outweigh the few joint values.
        encoder_width: hidden size of the layers that fuse both.
        latent_dim: latent dimension D.
        predictor_width, predictor_blocks: hidden size and number of the predictor's residual
            blocks.
        image_size: (h, w) px to which images are downsampled first; empty: not resized.
        uses_proprioception: whether proprioception is an input besides the image.
        history: number of latents, 1 to 3, that the predictor receives; the current one counts.
        inverse_dynamics_width: hidden size of the network that infers the actions between two
            latents, see ``TrainConfig.inverse_dynamics_weight``; 0: no such network.
    """

    name: str
    conv_channels: Annotated[tuple[int, ...], SIZE]
    image_features: Size
    proprio_features: Size
    encoder_width: Size
    latent_dim: Size
    predictor_width: Size
    predictor_blocks: Size
    image_size: Annotated[tuple[int, ...], SIZE] = ()
    uses_proprioception: bool = True
    history: Annotated[int, between(1, 3)] = 2
    inverse_dynamics_width: Annotated[int, between(0, MAX_SIZE)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = len(self.conv_channels), self.predictor_blocks
        is_allowed = 1 <= min(layers) and max(layers) <= MAX_LAYERS
        require(is_allowed, 'conv_channels, predictor_blocks', f'1 to {MAX_LAYERS} layers', layers)
        require(len(self.image_size) in (0, 2), 'image_size', '0 or 2 values', self.image_size)

    @property
    def past(self) -> int:
        """Return the number of previous latents in ``z_prev``, at least 1."""
        return max(1, self.history - 1)


@dataclass(frozen=True)
class LewmConfig(Checked):
    """Sizes of LeWorldModel as published; its inputs and actions are given by the ``Contract``.

    Attributes:
        image_size, patch_size: px, sides of the square image and of its square patches.
        encoder_blocks, encoder_heads: numbers of blocks and attention heads of the vision
            transformer.
        latent_dim: latent dimension D, also the width of encoder and predictor.
        projector_width: hidden size of the projectors after the encoder and the predictor.
        predictor_blocks, predictor_heads, head_width, predictor_width: numbers of blocks and
            attention heads of the predictor, width of a head, and hidden size of its MLPs.
        dropout: dropout probability in the predictor during training.
        history: number of latents the predictor receives.
        action_channels: width of the first linear layer on an action block.
    """

    name: str
    image_size: Count
    patch_size: Count
    encoder_blocks: Count
    encoder_heads: Count
    latent_dim: Count
    projector_width: Count
    predictor_blocks: Count
    predictor_heads: Count
    head_width: Count
    predictor_width: Count
    dropout: Annotated[float, Rule('in [0, 1)', lambda value: 0.0 <= value < 1.0)]
    history: Count
    action_channels: Count

    def __post_init__(self) -> None:
        super().__post_init__()
        for whole, part in (('image_size', 'patch_size'), ('latent_dim', 'encoder_heads')):
            value, divisor = getattr(self, whole), getattr(self, part)
            require(value % divisor == 0, whole, f'a multiple of {part} ({divisor})', value)


MIN_PROBE_LABELS = 50
"""Smallest number of labels with which a probe can be trained and calibrated."""
PROBE_LABELS = Rule(
    f'0 (all) or at least {MIN_PROBE_LABELS}', lambda n: n == 0 or n >= MIN_PROBE_LABELS
)


@dataclass(frozen=True)
class TrainConfig(Checked):
    """Training of the world model and its probes.

    Attributes:
        steps: optimiser steps, over which the learning rate falls to zero.
        batch: windows per step.
        window: number of frames L in a window.
        learning_rate: peak learning rate, reached after ``warmup_steps``.
        weight_decay, clip_norm: weight decay of AdamW, and norm to which gradients are clipped.
        sigreg_weight, sigreg_projections, sigreg_knots: loss weight, number of random projections
            and number of knots of SIGReg.
        inverse_dynamics_weight: loss weight of the error of actions inferred from two latents;
            0: not trained.
        held_out: share of episodes kept for validation.
        validate_every: steps between two validations.
        save_every_s: s between two saved training states.
        colour_augmentation: whether the hues of each training frame are rotated at random.
        windows_per_episode: number of windows in a batch that come from the same episode.
        probe_labels: number of frames whose object position the training may use; 0: all frames.
        probe_steps, tip_probe_steps: optimiser steps of the probes of object and tip.
        localiser_steps: optimiser steps of the object localiser, which labels the other frames if
            ``probe_labels`` limits them.
    """

    steps: Count
    batch: Annotated[int, at_least(2)]
    window: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    sigreg_weight: float
    sigreg_projections: Count
    sigreg_knots: Annotated[int, at_least(2)]
    inverse_dynamics_weight: float
    held_out: Annotated[float, OPEN_SHARE]
    validate_every: Count
    save_every_s: float
    colour_augmentation: bool
    windows_per_episode: int
    probe_labels: Annotated[int, PROBE_LABELS]
    probe_steps: Count
    tip_probe_steps: Count
    localiser_steps: Count


@dataclass(frozen=True)
class PredictorConfig(Checked):
    """Further training of the predictor alone, on frozen latents.

    Attributes:
        steps: optimiser steps, over which the learning rate falls to zero.
        batch: windows per step.
        window: frames in a window.
        learning_rate: initial learning rate.
    """

    steps: Count
    batch: Count
    window: int
    learning_rate: Positive


@dataclass(frozen=True)
class ActorCriticConfig(Checked):
    """Training of actor and value on frozen latents.

    Attributes:
        actor_steps, value_steps: optimiser steps.
        batch: transitions per step.
        learning_rate: initial learning rate, which falls to zero.
        max_steps: largest time to a hindsight goal, in control steps.
        discount: discount factor per model step.
        expectile: expectile that the value network regresses.
        target_update_rate: fraction by which the target network moves towards the value network
            at each step.
        goal_tolerance: m, distance at which a goal counts as reached.
    """

    actor_steps: Count
    value_steps: Count
    batch: Count
    learning_rate: float
    max_steps: Count
    discount: Annotated[float, OPEN_SHARE]
    expectile: Annotated[float, Rule('in [0.5, 1)', lambda value: 0.5 <= value < 1.0)]
    target_update_rate: float
    goal_tolerance: float


@dataclass(frozen=True)
class PoseConfig(ActorCriticConfig):
    """Training of the networks for pushing an object to a position and a yaw.

    Attributes:
        yaw_probe_steps, yaw_probe_batch, yaw_probe_learning_rate: optimiser steps, images per step
            and peak learning rate of the yaw probe.
        yaw_change_steps: optimiser steps of the network that predicts the change of the yaw.
        yaw_tolerance_deg: degrees; a goal counts as reached if the yaw error is below this and the
            distance below ``goal_tolerance``.
    """

    yaw_probe_steps: Count
    yaw_probe_batch: Count
    yaw_probe_learning_rate: float
    yaw_change_steps: Count
    yaw_tolerance_deg: Annotated[float, YAW_TOLERANCE]


@dataclass(frozen=True)
class BeliefConfig(Checked):
    """Training of the belief heads on frozen latents.

    Attributes:
        blind_steps: model steps without images in a latent window.
        windows: latent windows that train ``PositionStdHead`` and ``ContactHead``.
        expected_error_episodes: largest number of episodes used to train the heads that predict
            expected values and errors.
        steps, batch, learning_rate: optimiser steps, samples per step and initial learning rate of
            the heads, unless a field below overrides them.
        push_steps, push_batch: ``steps`` and ``batch`` for ``PushDynamics``.
        state_encoder_steps: ``steps`` for ``StateEncoder``.
        tip_motion_steps: ``steps`` for ``TipMotionHead``.
        camera_pose_steps: ``steps`` for ``CameraPoseHead``.
    """

    blind_steps: Annotated[int, at_least(5)]
    windows: Count
    expected_error_episodes: Count
    steps: Count
    batch: Count
    learning_rate: float
    push_steps: Count
    push_batch: Count
    state_encoder_steps: Count
    tip_motion_steps: Count
    camera_pose_steps: Count


@dataclass(frozen=True)
class DecoderConfig(Checked):
    """Training of the decoder on frozen latents.

    Attributes:
        channels: numbers of feature channels, from coarse to fine; each layer doubles the
            resolution, and the last one outputs the image.
        steps: optimiser steps.
        batch: frames per step.
        learning_rate: peak learning rate.
    """

    channels: Annotated[tuple[int, ...], SIZE]
    steps: Count
    batch: Count
    learning_rate: float

    def __post_init__(self) -> None:
        super().__post_init__()
        is_allowed = 1 <= len(self.channels) <= MAX_DECODER_LAYERS
        require(is_allowed, 'channels', f'1 to {MAX_DECODER_LAYERS} values', self.channels)


@dataclass(frozen=True)
class ModelFile:
    """Content of ``config/model/*.yaml``: a world model, its training and that of its heads."""

    model: ModelConfig | LewmConfig
    train: TrainConfig
    actor_critic: ActorCriticConfig
    predictor: PredictorConfig | None = None
    pose: PoseConfig | None = None
    belief: BeliefConfig | None = None
    decoder: DecoderConfig | None = None

    def __post_init__(self) -> None:
        has_width = bool(getattr(self.model, 'inverse_dynamics_width', 0))
        if self.train.inverse_dynamics_weight and not has_width:
            raise ConfigError(
                'train.inverse_dynamics_weight: expected 0 without inverse_dynamics_width'
            )
        if isinstance(self.model, LewmConfig):
            frames = self.model.history + 1
            expected = f'{frames} frames (history and the next)'
            require(self.train.window == frames, 'train.window', expected, self.train.window)
            if self.predictor is not None:
                raise ConfigError('predictor: expected none: LeWorldModel is trained as a whole')
            return
        fewest = self.model.past + 2
        for name, part in (('train', self.train), ('predictor', self.predictor)):
            if part is not None:
                expected = f'>= {fewest} frames (z_prev, z, targets)'
                require(part.window >= fewest, f'{name}.window', expected, part.window)


def model_config(values: Any) -> ModelConfig | LewmConfig:
    """Return a ``ModelConfig`` or ``LewmConfig`` from plain values, as strictly as ``load``."""
    return convert(ModelConfig | LewmConfig, values, 'model')
