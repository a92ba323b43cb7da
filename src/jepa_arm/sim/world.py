"""What lies in the world and what its state is: values the physics and the tasks share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..types import FloatArray


@dataclass(frozen=True)
class Scene:
    """How an episode starts.

    Attributes:
        joints: (J,) rad, the arm at rest.
        object_position: (2,) m, centre of the object on the table, base frame.
        object_yaw: rad.
        object_rgb: (3,) in [0, 1].
        goal: (3,) m, where the task wants the tip or the object.
        goal_joints: (J,) rad, the arm as it stands in the goal image.
    """

    joints: FloatArray
    object_position: FloatArray
    object_yaw: float
    object_rgb: FloatArray
    goal: FloatArray
    goal_joints: FloatArray


@dataclass(frozen=True)
class WorldState:
    """Ground truth, for scripted policies, labels and evaluation; never for the planner.

    Attributes:
        joints, joint_velocity: (J,) rad, rad/s.
        tip_position: (3,) m.
        object_position: (3,) m; object_quaternion: (4,) xyzw.
        contact: whether the arm touches the object.
        time: s since reset.
    """

    joints: FloatArray
    joint_velocity: FloatArray
    tip_position: FloatArray
    object_position: FloatArray
    object_quaternion: FloatArray
    contact: bool
    time: float

    @property
    def object_yaw(self) -> float:
        """rad, rotation of the object about base z."""
        x, y, z, w = self.object_quaternion
        return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))
