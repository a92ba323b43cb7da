"""Goals from observations that show them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from .arm import Arm
from .config import PlannerConfig
from .erasing import Eraser
from .goals import GoalError, LatentGoal, PositionGoal
from .model.checkpoint import Checkpoint
from .motion import proprioception
from .planners import Planners
from .types import ImageArray, Observation

MAX_TURN = 0.15
"""rad, rms error to be expected of a goal's yaw that is read from an image, at most."""


class GoalImages:
    """What observations look like to the model, and the goals that it reads in them.

    Attributes:
        eraser: of declared obstacles, which the model never saw; None where there are none.
    """

    def __init__(
        self, checkpoint: Checkpoint, arm: Arm, config: PlannerConfig, planners: Planners
    ) -> None:
        self._model, self._probes = checkpoint.model, checkpoint.probes
        self._arm, self._config, self._planners = arm, config, planners
        self.eraser: Eraser | None = None

    @torch.inference_mode()
    def read(self, observation: Observation, subject: str, with_yaw: bool = False) -> PositionGoal:
        """The place of ``subject`` in a goal observation, and of the object the yaw if asked.

        The object is read from image and joints by its probe, the tip from the joints by
        forward kinematics.

        Raises:
            GoalError: the object, or its yaw, cannot be told from the image.
        """
        if subject == 'tip':
            return PositionGoal(subject, self._arm.tip_position(observation.joints))
        z = self._encode(observation)
        spread, limit = float(self._probes.spread(subject, z)), self._config.max_goal_spread
        if spread > limit:
            raise GoalError(
                f'goal image: expected the {subject} to be read to {limit * 100:g} cm, got '
                f'{spread * 100:.1f} cm; show it unhidden, or give its place'
            )
        goal = PositionGoal(subject, self._probes.read(subject, z)[0].numpy().astype(float))
        return self._with_yaw(goal, observation) if with_yaw else goal

    @torch.inference_mode()
    def latent(self, observation: Observation) -> LatentGoal:
        """All that a goal observation shows, the arm's pose too."""
        return LatentGoal(self._encode(observation)[0].numpy())

    def image(self, observation: Observation) -> ImageArray:
        """(1, h, w, 3), without declared obstacles."""
        image, eraser = observation.image, self.eraser
        return (image if eraser is None else eraser.erase(image))[None]

    def _with_yaw(self, goal: PositionGoal, observation: Observation) -> PositionGoal:
        self._planners.check(asked := replace(goal, yaw=0.0))
        assert self._planners.turning is not None
        yaw, spread = self._planners.turning.read(self.image(observation)[0], goal.position)
        if spread > MAX_TURN:
            raise GoalError(
                f'goal image: expected the yaw to be read to {np.degrees(MAX_TURN):.1f} '
                f'degrees, got {np.degrees(spread):.1f}; show the object unhidden, or give its yaw'
            )
        return replace(asked, yaw=yaw)

    def _encode(self, observation: Observation) -> torch.Tensor:
        """(1, D); the arm is taken to stand where it was told to."""
        tip = self._arm.tip_position(observation.joints)
        velocity = np.zeros_like(observation.joints) if self._model.sees_velocity else None
        proprio = proprioception(observation.joints, tip, tip, velocity)
        return self._model.encode(self.image(observation), proprio[None])
