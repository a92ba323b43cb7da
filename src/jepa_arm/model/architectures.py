"""The two sizes of world model behind the same verbs: ``encode``, ``predict``, ``rollout``."""

from __future__ import annotations

from ..config import Contract, LewmConfig, ModelConfig
from .lewm import LeWorldModel
from .world_model import Normaliser, WorldModel

AnyWorldModel = WorldModel | LeWorldModel


def build(
    config: ModelConfig | LewmConfig, contract: Contract, normaliser: Normaliser
) -> AnyWorldModel:
    """The world model of this configuration, with fresh weights."""
    if isinstance(config, LewmConfig):
        return LeWorldModel(config, contract, normaliser)
    return WorldModel(config, contract, normaliser)
