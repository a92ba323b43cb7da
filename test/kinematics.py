"""Forward kinematics of single links, for tests."""

import numpy as np
import pinocchio as pin

from jepa_arm.core.types import FloatArray
from jepa_arm.robot.arm import Arm


def link_pose(arm: Arm, q: FloatArray, link: str) -> FloatArray:
    """Return the pose (4, 4) of ``link`` in the base frame at joints ``q`` (J,) rad."""
    data = arm.model.createData()
    pin.framesForwardKinematics(arm.model, data, arm.to_model(q))
    base = data.oMf[arm.model.getFrameId(arm.config.base_link)]
    return np.array(base.actInv(data.oMf[arm.model.getFrameId(link)]).homogeneous)
