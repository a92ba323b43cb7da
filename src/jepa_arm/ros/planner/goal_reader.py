"""Goal reader: converts and validates goal messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jepa_arm_msgs.msg import Goal

from jepa_arm.agent.agent import Agent
from jepa_arm.core.geometry import QUARTER
from jepa_arm.core.goals import GoalError, PositionGoal
from jepa_arm.core.types import FloatArray, Observation
from jepa_arm.ros.runtime import conversions as convert

WORKSPACE_MARGIN_M = {'tip': 0.001, 'object': 0.02}
"""Largest distance of a goal outside the tip's workspace. The tip can push an object without
reaching its centre."""
IMAGE_MARGIN_M = 0.03
"""Largest distance outside the workspace for goals that are read from an image."""
JOINT_MARGIN_RAD = 0.01


class GoalReader:
    """Reader that converts goal messages into goal positions of the object or the tip."""

    def __init__(self, agent: Agent, saved: Mapping[str, Observation]) -> None:
        """Create a reader; ``saved`` are observations by name, for goals of kind SAVED."""
        self._agent, self._arm, self._saved = agent, agent.arm, saved
        self._camera = agent.checkpoint.contract.camera

    def read(self, msg: Goal) -> PositionGoal:
        """Return the goal position of ``msg``.

        Raises:
            GoalError, ConversionError: the goal is malformed, unknown or outside the workspace.
        """
        if msg.kind == Goal.IMAGE:
            size = self._camera.width, self._camera.image_size[0]
            pixels = convert.image_from_msg(msg.image, size)
            taken_s = convert.to_seconds(msg.image.header.stamp)
            return self._read_observation(msg, Observation(pixels, self._joints(msg), taken_s))
        if msg.kind == Goal.SAVED:
            return self._read_observation(msg, self._saved_observation(msg.saved_name))
        if msg.kind == Goal.JOINTS:
            goal = PositionGoal('tip', self._arm.tip_position(self._joints(msg)))
        elif msg.kind in (Goal.OBJECT_POSE, Goal.TIP_POSE):
            goal = convert.position_goal_from_msg(msg, self._arm.config.base_link)
        else:
            raise GoalError(f'goal kind: expected 0 (IMAGE) to 4 (JOINTS), got {msg.kind}')
        self._check_position(goal, WORKSPACE_MARGIN_M[goal.subject])
        _check_yaw_tolerance(msg, goal)
        return goal

    def to_self_contained(self, msg: Goal) -> Goal:
        """Return ``msg`` with a saved state replaced by its image and joints."""
        if msg.kind != Goal.SAVED:
            return msg
        saved = self._saved_observation(msg.saved_name)
        subject = 'object' if msg.subject == Goal.SUBJECT_OBJECT else 'tip'
        return convert.image_goal_to_msg(
            subject, saved, self._arm.joint_names, self._camera.frame_id
        )

    def _read_observation(self, msg: Goal, observation: Observation) -> PositionGoal:
        subjects = {Goal.SUBJECT_OBJECT: 'object', Goal.SUBJECT_TIP: 'tip'}
        if msg.subject not in subjects:
            raise GoalError(f'goal subject: expected 0 (object) or 1 (tip), got {msg.subject}')
        with_yaw = msg.yaw_tolerance != 0.0 and msg.subject == Goal.SUBJECT_OBJECT
        goal = self._agent.goal_images.read(observation, subjects[msg.subject], with_yaw)
        self._check_position(goal, IMAGE_MARGIN_M)
        if goal.subject == 'tip':
            goal = replace(goal, position=self._arm.clip_to_workspace(goal.position))
        _check_yaw_tolerance(msg, goal)
        return goal

    def _saved_observation(self, name: str) -> Observation:
        if name not in self._saved:
            raise GoalError(
                f'saved state: expected one of {sorted(self._saved)}, got {name!r}; save one '
                'with planner/save_state'
            )
        return self._saved[name]

    def _joints(self, msg: Goal) -> FloatArray:
        joints = convert.joints_from_msg(msg.joints, self._arm.joint_names).position
        lower = self._arm.lower - JOINT_MARGIN_RAD
        if not np.all((joints > lower) & (joints < self._arm.upper + JOINT_MARGIN_RAD)):
            raise GoalError(
                f'goal joints: expected finite positions within the limits of '
                f'{self._arm.config.name}, got {np.round(joints, 3).tolist()}'
            )
        return joints

    def _check_position(self, goal: PositionGoal, margin: float) -> None:
        if not self._arm.in_workspace(goal.position, margin):
            raise GoalError(
                f'goal: expected a position for the {goal.subject} in the workspace '
                f'{self._arm.config.workspace_min} to {self._arm.config.workspace_max} m, got '
                f'{np.round(goal.position, 3).tolist()}'
            )


def _check_yaw_tolerance(msg: Goal, goal: PositionGoal) -> None:
    tolerance = msg.yaw_tolerance
    if not 0.0 <= tolerance < QUARTER / 2.0 or (tolerance and goal.yaw is None):
        raise GoalError(
            'goal yaw_tolerance: expected 0, or less than an eighth of a turn (0.785 rad) for '
            f'the object, got {tolerance} for the {goal.subject}'
        )
