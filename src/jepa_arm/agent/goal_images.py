"""Goal images: goals read from observations in which the goal is reached."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from jepa_arm.config import PlannerConfig
from jepa_arm.core.goals import GoalError, LatentGoal, PositionGoal
from jepa_arm.core.types import ImageArray, Observation
from jepa_arm.model.checkpoint import Checkpoint
from jepa_arm.robot.arm import Arm

from .encoder import ObservationEncoder
from .planners import Planners

MAX_YAW_STD = 0.15
"""rad; a goal yaw that is read from an image with a larger error is refused."""


class GoalImageReader:
    """Reads goals from observations.

    The arm is assumed to rest where it was commanded to be.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        arm: Arm,
        config: PlannerConfig,
        encoder: ObservationEncoder,
        planners: Planners,
    ) -> None:
        self._probes, self._arm, self._config = checkpoint.probes, arm, config
        self._encoder, self._planners = encoder, planners

    @torch.inference_mode()
    def read(self, observation: Observation, subject: str, with_yaw: bool = False) -> PositionGoal:
        """Return the position of ``subject`` in a goal observation, and the object's yaw if asked.

        The object's position is read from the latent by its probe; the tip's follows from the
        joints by forward kinematics.

        Raises:
            GoalError: the object or its yaw cannot be read reliably enough, or a goal with a yaw
                cannot be pursued there.
        """
        if subject == 'tip':
            return PositionGoal(subject, self._arm.tip_position(observation.joints))
        encoded = self._encoder.encode(observation)
        z = encoded.z
        spread, limit = float(self._probes.expected_error(subject, z)), self._config.max_goal_std
        if spread > limit:
            raise GoalError(
                f'goal image: expected the {subject} to be read to {limit * 100:g} cm, got '
                f'{spread * 100:.1f} cm; show it unhidden, or give its position'
            )
        goal = PositionGoal(subject, self._probes.read(subject, z)[0].numpy().astype(float))
        return self._with_yaw(goal, encoded.image[0]) if with_yaw else goal

    @torch.inference_mode()
    def latent(self, observation: Observation) -> LatentGoal:
        """Return the latent of a goal observation; it also encodes the arm's pose."""
        return LatentGoal(self._encoder.encode(observation).z[0].numpy())

    def _with_yaw(self, goal: PositionGoal, image: ImageArray) -> PositionGoal:
        with_yaw = replace(goal, yaw=0.0)
        self._planners.check(with_yaw)
        tracker = self._planners.yaw_tracker
        assert tracker is not None
        yaw, std = tracker.read(image, goal.position)
        if std > MAX_YAW_STD:
            raise GoalError(
                f'goal image: expected the yaw to be read to {np.degrees(MAX_YAW_STD):.1f} '
                f'degrees, got {np.degrees(std):.1f}; show the object unhidden, or give its yaw'
            )
        return replace(with_yaw, yaw=yaw)
