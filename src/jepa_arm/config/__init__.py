"""Frozen, validated configuration: one dataclass per part, values in ``config/*.yaml``.

``load(cls, path)`` reads YAML strictly: an unknown or missing key, or a value of the wrong
type, is an error that names the file, what was expected and what was received.
"""

from .datasets import CollectConfig, RenderedScenesConfig
from .guard import GuardConfig, ObstacleConfig
from .loading import from_dict, load, read_plain, to_dict
from .model import (
    ActorCriticConfig,
    BeliefConfig,
    DecoderConfig,
    LewmConfig,
    ModelConfig,
    ModelFile,
    PoseConfig,
    PredictorConfig,
    TrainConfig,
    model_config,
)
from .planning import OPTIMIZERS, PlannerConfig
from .robot import ArmConfig, CameraConfig, Contract, TimeConfig, WristCameraConfig
from .rules import ConfigError
from .simulation import SimConfig, TaskConfig
