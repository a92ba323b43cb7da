"""Observation encoder: the only path from an observation to a latent."""

from __future__ import annotations

import torch
from torch import Tensor

from jepa_arm.belief.belief import EncodedObservation
from jepa_arm.core.types import FloatArray, Observation
from jepa_arm.model.checkpoint import Checkpoint
from jepa_arm.model.world_model import WorldModel
from jepa_arm.robot.action_space import proprioception
from jepa_arm.robot.arm import Arm

from .obstacle_mask import ObstacleMask


class ObservationEncoder:
    """Encoder that masks declared obstacles first, because the model was trained without any.

    Attributes:
        mask: removes the declared obstacles from images; None without obstacles.
    """

    def __init__(self, checkpoint: Checkpoint, arm: Arm) -> None:
        self._model, self._arm = checkpoint.model, arm
        self.mask: ObstacleMask | None = None

    def proprioception(self, joints: FloatArray, tip_setpoint: FloatArray | None = None) -> Tensor:
        """Return the proprioception (1, P) of an arm.

        Args:
            joints: (J,) rad.
            tip_setpoint: (3,) m, commanded tip position; None: the tip's current position.
        """
        tip = self._arm.tip_position(joints)
        setpoint = tip if tip_setpoint is None else tip_setpoint
        return torch.tensor(proprioception(joints, tip, setpoint)[None], dtype=torch.float32)

    def encode(
        self, observation: Observation, proprio: Tensor | None = None
    ) -> EncodedObservation:
        """Encode an observation.

        Args:
            observation: its image may show declared obstacles.
            proprio: (1, P); None: computed as if the arm rested at its commanded position.

        Raises:
            ValueError: the image or the joints do not have the size that the model expects.
        """
        if proprio is None:
            proprio = self.proprioception(observation.joints)
        image = observation.image if self.mask is None else self.mask.apply(observation.image)
        image, features = image[None], None
        if isinstance(self._model, WorldModel):
            z, features = self._model.encode_with_features(image, proprio)
        else:
            z = self._model.encode(image, proprio)
        return EncodedObservation(observation.stamp, image, proprio, z, features)
