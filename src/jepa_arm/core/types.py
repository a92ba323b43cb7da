"""Value types shared by all packages: frozen dataclasses of numpy arrays.

Conventions: SI units, right-handed frames (REP 103), joint positions in rad in the order of
``ArmConfig.joints``, stamps in seconds of the ROS clock, images ``(h, w, 3)`` uint8 RGB. ``J`` is
the number of joints, ``A`` the action width.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
ImageArray = NDArray[np.uint8]


@dataclass(frozen=True)
class Observation:
    """Camera image and joint positions at one stamp.

    Attributes:
        image: (h, w, 3) uint8 RGB.
        joints: (J,) rad, interpolated at ``stamp``.
        stamp: s, the image's stamp on the ROS clock.
    """

    image: ImageArray
    joints: FloatArray
    stamp: float


@dataclass(frozen=True)
class JointSample:
    """One measured joint state.

    Attributes:
        position: (J,) rad.
        velocity: (J,) rad/s; zeros if the robot does not report it.
        stamp: s on the ROS clock.
    """

    position: FloatArray
    velocity: FloatArray
    stamp: float


@dataclass(frozen=True)
class Proposal:
    """A joint trajectory that the planner asks the guard to execute.

    From ``times[i-1]`` to ``times[i]`` after acceptance, the guard moves towards waypoint ``i``
    with limited velocity, acceleration and jerk.

    Attributes:
        joint_names: names of the J joints, in the order of the columns of ``positions``.
        positions: (N, J) rad.
        times: (N,) s from acceptance, strictly increasing, positive.
        stamp: s, stamp of the observation that the plan was made from.
        valid_for: s after ``stamp`` during which the proposal may be followed without a
            newer one.
    """

    joint_names: tuple[str, ...]
    positions: FloatArray
    times: FloatArray
    stamp: float
    valid_for: float


class GuardState(Enum):
    """State of the guard; the values equal those of ``GuardStatus.msg``."""

    INACTIVE = 0
    IDLE = 1
    FOLLOWING = 2
    STOPPING = 3
    HOLDING = 4
    LATCHED = 5


@dataclass(frozen=True)
class Command:
    """Joint command of one tick in the stream to the robot.

    Attributes:
        position: (J,) rad.
        velocity: (J,) rad/s.
        acceleration: (J,) rad/s^2.
    """

    position: FloatArray
    velocity: FloatArray
    acceleration: FloatArray


@dataclass(frozen=True)
class Verdict:
    """Decision of the guard about a proposal or a tick.

    Attributes:
        command: command to send in this tick; None if nothing may be sent, or after a proposal.
        state: the guard's state after the decision.
        reasons: why a proposal was rejected, or why the arm stops or holds; empty if all is well.
    """

    command: Command | None
    state: GuardState
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrajectoryCommand:
    """A trajectory for a joint controller, in the arm's joint order.

    Attributes:
        positions: (N, J) rad.
        velocities: (N, J) rad/s; None: the controller interpolates linearly.
        times: (N,) s from ``start``.
        start: s on the ROS clock; 0 means on arrival.
    """

    positions: FloatArray
    velocities: FloatArray | None
    times: FloatArray
    start: float
