"""What a stop was like, measured from what was recorded of it. Pure: numpy only.

Times are s on the steady clock, by arrival at the recorder. ``N`` commands, ``M`` joint states,
``K`` states of the guard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .arm import Arm
from .types import FloatArray, GuardState

STOPPED = tuple(s.value for s in (GuardState.STOPPING, GuardState.HOLDING, GuardState.LATCHED))
AT_REST_COMMANDS = 1e-6
"""rad/s, below which a command is at rest."""
AT_REST_JOINTS = 0.05
"""rad/s, below which a measured joint is: the virtual servo's spring is slower than this."""
IN_A_ROW = 5
"""Samples at rest that count as a hold."""
INTERRUPTED_S = 0.1
"""A gap between commands after which the robot's side has taken over."""
SLACK = 1.001
"""Share of a limit that rounding may add."""


@dataclass(frozen=True)
class Recording:
    """What was heard from the graph around one fault.

    Attributes:
        command_at, command_position, command_velocity: (N,), (N, J) rad, (N, J) rad/s.
        joints_at, joint_position, joint_velocity: (M,), (M, J), (M, J); may hold NaN.
        guard_at, guard_state: (K,), (K,) values of ``GuardState``.
    """

    command_at: FloatArray
    command_position: FloatArray
    command_velocity: FloatArray
    joints_at: FloatArray
    joint_position: FloatArray
    joint_velocity: FloatArray
    guard_at: FloatArray
    guard_state: FloatArray


@dataclass(frozen=True)
class Peaks:
    """Largest values of any joint, and as shares of its limit (1 is the limit).

    Attributes:
        velocity, acceleration, jerk: of the commands; rad/s, rad/s^2, rad/s^3.
        measured_velocity: rad/s, of the measured joints.
        jump: rad, from the last command before the stream was interrupted to the first after.
        shares: by name of the above, without ``jump``.
    """

    velocity: float = 0.0
    acceleration: float = 0.0
    jerk: float = 0.0
    measured_velocity: float = 0.0
    jump: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)

    def crossed(self, by_joints: bool = False) -> list[str]:
        """The limits that were crossed, in words.

        Args:
            by_joints: whether measured joints are judged too. Contacts make them fast, which no
                command can prevent.
        """
        return [
            f'{name.replace("_", " ")} {share:.2f} of the limit'
            for name, share in self.shares.items()
            if share > SLACK and (by_joints or name != 'measured_velocity')
        ]


def start_of_stop(recording: Recording, onset: float) -> float:
    """s from ``onset`` until the guard stops the arm, or until commands cease; NaN: neither."""
    at, state = recording.guard_at, recording.guard_state
    stopping = at[(at >= onset) & np.isin(state, STOPPED)]
    if len(stopping):
        return float(stopping[0] - onset)
    at = recording.command_at
    has_ceased = len(at) and len(recording.joints_at) and at[-1] + 0.1 < recording.joints_at[-1]
    return max(0.0, float(at[-1] - onset)) if has_ceased else np.nan


def time_to_hold(recording: Recording, onset: float, by_joints: bool = False) -> float:
    """s from ``onset`` until the arm is first at rest for ``IN_A_ROW`` samples; NaN: never.

    Args:
        recording: around the fault.
        onset: of the fault.
        by_joints: whether measured joints count, not commands: where these cease.
    """
    if by_joints:
        at, velocity, limit = recording.joints_at, recording.joint_velocity, AT_REST_JOINTS
    else:
        at, velocity, limit = recording.command_at, recording.command_velocity, AT_REST_COMMANDS
    is_at_rest = (np.abs(velocity).max(axis=1, initial=0.0) < limit) & (at >= onset)
    for i in range(len(at) - IN_A_ROW + 1):
        if np.all(is_at_rest[i : i + IN_A_ROW]):
            return float(at[i] - onset)
    return np.nan


def peaks(recording: Recording, onset: float, until: float, arm: Arm, dt: float) -> Peaks:
    """Peaks between ``onset`` and ``until``.

    The velocity is the larger of what commands say and what their positions make of it;
    acceleration and jerk are differences over a tick of ``dt`` (s). Where the stream was
    interrupted no difference is taken: ``jump`` says how far it went on from there.
    """
    at = recording.command_at
    chosen = (at >= onset - 3 * dt) & (at <= until)
    at = at[chosen]
    position, velocity = recording.command_position[chosen], recording.command_velocity[chosen]
    is_next = np.diff(at) < INTERRUPTED_S
    moved = np.diff(position, axis=0)
    speed = np.vstack([np.abs(velocity), np.abs(moved[is_next]) / dt])
    acceleration = np.diff(velocity, axis=0) / dt
    jerk = np.diff(acceleration, axis=0)[is_next[1:] & is_next[:-1]] / dt
    at = recording.joints_at
    measured = recording.joint_velocity[(at >= onset) & (at <= until)]
    measured = np.where(np.isfinite(measured), measured, 0.0)
    values = {
        'velocity': (speed, arm.velocity_limit),
        'acceleration': (acceleration[is_next], arm.braking_limit),
        'jerk': (jerk, arm.jerk_limit),
        'measured_velocity': (measured, arm.velocity_limit / arm.config.velocity_scale),
    }
    largest = {name: float(np.abs(v).max(initial=0.0)) for name, (v, _) in values.items()}
    shares = {
        name: float((np.abs(v) / limit).max(initial=0.0)) for name, (v, limit) in values.items()
    }
    jump = float(np.abs(moved[~is_next]).max(initial=0.0))
    return Peaks(**largest, jump=jump, shares=shares)


def tip_travel(
    at: FloatArray,
    positions: FloatArray,
    onset: float,
    until: float,
    tip_position: Callable[[FloatArray], FloatArray],
) -> float:
    """m, length of the tip's path between ``onset`` and ``until``; 0 without finite joints.

    Args:
        at: (N,) s. positions: (N, J) rad, of commands or measured.
        onset, until: s.
        tip_position: (3,) m at joints (J,).
    """
    chosen = (at >= onset) & (at <= until) & np.isfinite(positions).all(axis=1)
    if chosen.sum() < 2:
        return 0.0
    tips = np.array([tip_position(q) for q in positions[chosen]])
    return float(np.linalg.norm(np.diff(tips, axis=0), axis=1).sum())
