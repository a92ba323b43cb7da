"""Measurements of a stop: times, peaks and distance, from a recording of the graph.

Times are arrival times at the recorder in s, ``time.monotonic``. Shapes: ``N`` commands, ``M``
joint states, ``K`` states of the guard, ``J`` joints.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from jepa_arm.core.types import FloatArray, GuardState
from jepa_arm.evaluation.episode import first_held
from jepa_arm.robot.arm import Arm

STOPPED = tuple(s.value for s in (GuardState.STOPPING, GuardState.HOLDING, GuardState.LATCHED))
REST_COMMANDED = 1e-6
"""Velocity below which a command is at rest, rad/s."""
REST_MEASURED = 0.05
"""Velocity below which a measured joint is at rest, rad/s: the virtual servo settles slowly."""
REST_SAMPLES = 5
"""Consecutive samples at rest that count as a hold."""
INTERRUPTED_S = 0.1
"""Gap (s) between commands after which the controller holds the robot by itself."""
ROUNDING = 1.001
"""Share of a limit up to which an excess counts as a rounding error."""


@dataclass(frozen=True)
class RecordedMotion:
    """Samples of a motion.

    Attributes:
        times, position, velocity: (N,) s, (N, J) rad, (N, J) rad/s.
    """

    times: FloatArray
    position: FloatArray
    velocity: FloatArray


@dataclass(frozen=True)
class StopRecording:
    """Commands, joints and guard states around one fault.

    Attributes:
        commands: the N recorded commands.
        joints: the M recorded joint states, which may hold NaN.
        guard_times, guard_state: (K,) s, (K,) values of ``GuardState``.
    """

    commands: RecordedMotion
    joints: RecordedMotion
    guard_times: FloatArray
    guard_state: FloatArray


@dataclass(frozen=True)
class MotionPeaks:
    """Largest values over all joints, and their largest shares of the limits (1 is the limit).

    Attributes:
        velocity, acceleration, jerk: peaks of the commands; rad/s, rad/s^2, rad/s^3.
        measured_velocity: peak of the measured joints, rad/s.
        jump: largest change of the command across an interruption of the stream, rad.
        shares: shares of the limits by the names above, without ``jump``.
    """

    velocity: float = 0.0
    acceleration: float = 0.0
    jerk: float = 0.0
    measured_velocity: float = 0.0
    jump: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)

    def exceeded_limits(self, includes_measured: bool = False) -> list[str]:
        """Return a description of each limit that was exceeded.

        Args:
            includes_measured: also judge the measured joints. A contact may accelerate them,
                which no command can prevent.
        """
        return [
            f'{name.replace("_", " ")} {share:.2f} of the limit'
            for name, share in self.shares.items()
            if share > ROUNDING and (includes_measured or name != 'measured_velocity')
        ]


def time_to_stop(recording: StopRecording, onset: float) -> float:
    """Return the time (s) from ``onset`` until the guard stops the arm or commands cease.

    The result is NaN if neither happens.
    """
    times, state = recording.guard_times, recording.guard_state
    stopped = times[(times >= onset) & np.isin(state, STOPPED)]
    if len(stopped):
        return float(stopped[0] - onset)
    times, joint_times = recording.commands.times, recording.joints.times
    has_ceased = len(times) and len(joint_times) and times[-1] + INTERRUPTED_S < joint_times[-1]
    return max(0.0, float(times[-1] - onset)) if has_ceased else np.nan


def time_to_rest(recording: StopRecording, onset: float, by_joints: bool = False) -> float:
    """Return the time (s) from ``onset`` to the first of ``REST_SAMPLES`` samples at rest, or NaN.

    Args:
        recording: recording around the fault.
        onset: s, onset of the fault.
        by_joints: judge measured joints instead of commands, for faults that end the commands.
    """
    motion = recording.joints if by_joints else recording.commands
    limit = REST_MEASURED if by_joints else REST_COMMANDED
    is_slow = np.abs(motion.velocity).max(axis=1, initial=0.0) < limit
    count = first_held(is_slow & (motion.times >= onset), REST_SAMPLES)
    return np.nan if count is None else float(motion.times[count - REST_SAMPLES] - onset)


def motion_peaks(
    recording: StopRecording, onset: float, until: float, arm: Arm, dt: float
) -> MotionPeaks:
    """Return the motion peaks between ``onset`` and ``until``.

    The velocity is the larger of the commanded velocity and the differences of commanded
    positions; acceleration and jerk are differences over a tick of ``dt`` s. Differences across an
    interruption of the stream are left out and reported as ``jump``.
    """
    commands, joints = recording.commands, recording.joints
    selected = (commands.times >= onset - 3 * dt) & (commands.times <= until)
    position, velocity = commands.position[selected], commands.velocity[selected]
    is_next = np.diff(commands.times[selected]) < INTERRUPTED_S
    step = np.diff(position, axis=0)
    speed = np.vstack([np.abs(velocity), np.abs(step[is_next]) / dt])
    acceleration = np.diff(velocity, axis=0) / dt
    jerk = np.diff(acceleration, axis=0)[is_next[1:] & is_next[:-1]] / dt
    measured = joints.velocity[(joints.times >= onset) & (joints.times <= until)]
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
    jump = float(np.abs(step[~is_next]).max(initial=0.0))
    return MotionPeaks(**largest, jump=jump, shares=shares)


def tip_path_length(motion: RecordedMotion, onset: float, until: float, arm: Arm) -> float:
    """Return the length (m) of the tip's path between ``onset`` and ``until``.

    Samples with NaN are skipped.
    """
    is_known = np.isfinite(motion.position).all(axis=1)
    selected = (motion.times >= onset) & (motion.times <= until) & is_known
    if selected.sum() < 2:
        return 0.0
    tips = np.array([arm.tip_position(q) for q in motion.position[selected]])
    return float(np.linalg.norm(np.diff(tips, axis=0), axis=1).sum())
