"""Action space: tip displacements, converted to joint setpoints by inverse kinematics."""

from __future__ import annotations

from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from jepa_arm.config import ArmConfig, Contract, TimeConfig
from jepa_arm.core.types import FloatArray

from .arm import Arm

ACTION_METRES = 0.025
"""Tip displacement (m) per control step at an action of 1."""
OUTSIDE_M = 0.005
"""Distance beyond the workspace from which a tip counts as outside."""


def make_contract(arm: ArmConfig, time: TimeConfig) -> Contract:
    """Return the contract that data, model and robot must share to be used together."""
    return Contract(
        arm=arm.name,
        joints=arm.joints,
        camera=arm.camera,
        action_space=TipMotion.name,
        action_width=TipMotion.width,
        action_scale=ACTION_METRES,
        time=time,
    )


Floats = TypeVar('Floats', bound=NDArray[np.floating])


def proprioception(joints: Floats, tip_position: Floats, tip_setpoint: Floats) -> Floats:
    """Return the proprioception (..., P): joints, tip, and the setpoint's lead over the tip.

    Args:
        joints: (..., J) rad.
        tip_position: (..., 3) m, measured.
        tip_setpoint: (..., 3) m, commanded. The tip follows it about a control step later, so the
            lead tells what the tip will do next.
    """
    parts = [joints, tip_position, tip_setpoint - tip_position]
    return cast(Floats, np.concatenate(parts, axis=-1))


class TipMotion:
    """Action space ``tip_delta_xyz``: actions (A=3,) in [-1, 1] displace the tip's setpoint.

    An action of 1 displaces it by ``ACTION_METRES`` in one control step along base x, y or z. The
    setpoint stays inside the arm's workspace; joints follow by differential inverse kinematics.

    Attributes:
        joints: (J,) rad, commanded joint positions.
        target: (3,) m, commanded tip position.
    """

    name = 'tip_delta_xyz'
    width = 3

    def __init__(self, arm: Arm) -> None:
        self._arm = arm
        self.reset(arm.home)

    def reset(self, q: FloatArray) -> None:
        """Start from joints ``q`` (J,) rad at rest."""
        self.joints = np.array(q, dtype=float)
        self.target = self._arm.clip_to_workspace(self._arm.tip_position(q))

    def apply(self, action: FloatArray) -> FloatArray:
        """Move the target by one action (3,) and return the joint setpoint (J,) rad."""
        step = np.clip(action, -1.0, 1.0) * ACTION_METRES
        self.target = self._arm.clip_to_workspace(self.target + step)
        self.joints, _ = self._arm.ik(self.target, self.joints)
        return self.joints.copy()

    @property
    def is_outside(self) -> bool:
        """True if the commanded tip is outside the workspace; the next action brings it inside."""
        tip = self._arm.tip_position(self.joints)
        return bool(np.abs(self._arm.clip_to_workspace(tip) - tip).max() > OUTSIDE_M)

    def action_bounds(self) -> FloatArray:
        """Return bounds (2, A) on the sum of actions that keep the setpoint in the workspace."""
        low, high = self._arm.workspace_min, self._arm.workspace_max
        return np.stack([low - self.target, high - self.target]) / ACTION_METRES

    def preview(self, actions: FloatArray) -> FloatArray:
        """Return the joint setpoints (N, J) rad that ``actions`` (N, 3) would give."""
        target, joints = self.target, self.joints
        waypoints = []
        for action in np.clip(actions, -1.0, 1.0):
            target = self._arm.clip_to_workspace(target + action * ACTION_METRES)
            joints, _ = self._arm.ik(target, joints)
            waypoints.append(joints)
        return np.array(waypoints).reshape(len(actions), len(joints))
