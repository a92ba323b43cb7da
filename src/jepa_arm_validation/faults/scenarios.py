"""Fault scenarios: the arm moves, a fault is injected, the reaction is measured and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, sleep

import numpy as np
from std_srvs.srv import Trigger

from jepa_arm.core.types import GuardState
from jepa_arm.ros.client import SentGoal
from jepa_arm.ros.runtime.node_contract import GraphError

from .measurements import MotionPeaks, motion_peaks, time_to_rest, time_to_stop, tip_path_length
from .testbed import MOVING_VELOCITY, FaultTestbed

AFTER_REST_S = 0.1
"""Time (s) for which the arm at rest is recorded before the fault is ended."""
STILL_S, STILL_M = 0.6, 0.003
"""Time (s) for which an arm that must not move is watched, and largest motion (m) of its tip."""
RESUME_S = 5.0
"""Longest time (s) until the arm moves again."""
REASON_S = 2.5
"""Longest wait (s) for a reason: diagnostics are published once a second."""


@dataclass
class FaultResult:
    """Measurements of one fault, and deviations from the expected reaction.

    Attributes:
        stop_s, rest_s: time from the onset to the start of the stop, and to rest; NaN if not seen.
        peaks: motion peaks after the onset. distance_m: length of the tip's path after the onset.
        reasons: reasons reported by the graph. after: description of what followed.
        problems: deviations; the fault case passes if there are none.
    """

    stop_s: float = np.nan
    rest_s: float = np.nan
    peaks: MotionPeaks = field(default_factory=MotionPeaks)
    distance_m: float = np.nan
    reasons: list[str] = field(default_factory=list)
    after: str = ''
    problems: list[str] = field(default_factory=list)

    def expect(self, condition: object, problem: str) -> None:
        """Add ``problem`` unless ``condition`` holds."""
        if not condition:
            self.problems.append(problem)

    def expect_delays(self, stop_s: float, rest_s: float) -> None:
        """Expect the start of the stop within ``stop_s``, and rest within ``rest_s``."""
        limits = (('start of the stop', self.stop_s, stop_s), ('rest', self.rest_s, rest_s))
        for name, value, limit in limits:
            is_observed = np.isfinite(value)
            late = f'{name} after {value * 1000:.0f} ms'
            self.expect(value <= limit, late if is_observed else f'no {name} was observed')


@dataclass(frozen=True)
class Scenario:
    """Procedure that tries one fault.

    Attributes:
        expected: description of the expected reaction.
        run: tries the fault on a prepared testbed.
    """

    expected: str
    run: Callable[[FaultTestbed], FaultResult]


@dataclass(frozen=True)
class StopScenario:
    """A fault that must stop the moving arm.

    Attributes:
        inject: starts the fault; returns its onset (s, ``time.monotonic``).
        reasons: first words of the reasons that must be reported.
        stop_s, rest_s: longest times from the onset to the start of the stop, and to rest.
        after: key of ``FOLLOW_UPS`` for what must happen after the stop.
        end: ends the fault.
        prepare: called with the arm at rest, before it moves.
        moved_by_goal: the planner moves the arm towards a goal; else the testbed sends proposals.
        by_joints: judge rest by the measured joints, for faults that end the stream of commands.
        trusts_joints: the measured joints are valid during the fault.
    """

    inject: Callable[[FaultTestbed], float]
    reasons: tuple[str, ...]
    stop_s: float
    rest_s: float
    after: str = 'resumes'
    end: Callable[[FaultTestbed], object] = lambda testbed: None
    prepare: Callable[[FaultTestbed], object] = lambda testbed: None
    moved_by_goal: bool = True
    by_joints: bool = False
    trusts_joints: bool = True

    @property
    def expected(self) -> str:
        """Return a description of the expected reaction."""
        return (
            f'stop within {self.stop_s * 1000:.0f} ms, rest within {self.rest_s * 1000:.0f} ms, '
            f'reports {", ".join(self.reasons)}; then {FOLLOW_UPS[self.after][0]}'
        )

    def run(self, testbed: FaultTestbed) -> FaultResult:
        """Try the fault on a prepared testbed."""
        self.prepare(testbed)
        goal = None
        if self.moved_by_goal:
            goal = testbed.start_moving()
        else:
            testbed.drive()
        onset = self.inject(testbed)
        testbed.becomes(lambda: self._has_stopped(testbed, onset, goal), self.rest_s + 1.0)
        sleep(AFTER_REST_S)
        result = measure(testbed, onset, self.by_joints, self.trusts_joints)
        self.end(testbed)
        result.expect_delays(self.stop_s, self.rest_s)
        result.after, check = FOLLOW_UPS[self.after]
        problem = check(testbed, goal)
        result.expect(not problem, problem)
        reported = self._wait_for_reasons(testbed, onset, goal)
        for reason in self.reasons:
            result.expect(_has_reason(reported, reason), f'expected the reason {reason!r}')
        result.reasons = [r for r in reported if r.startswith(self.reasons)] or reported
        return result

    def _has_stopped(self, testbed: FaultTestbed, onset: float, goal: SentGoal | None) -> bool:
        """Return True if the arm rests and the guard is latched, where ``after`` demands a reset.

        For 'reset or new goal', an ended goal will do instead of a latched guard.
        """
        is_over = 'reset' not in self.after or testbed.state() is GuardState.LATCHED
        if self.after == 'reset or new goal' and goal is not None:
            is_over = is_over or goal.is_done
        recording = testbed.recording()
        return is_over and bool(np.isfinite(time_to_rest(recording, onset, self.by_joints)))

    def _wait_for_reasons(
        self, testbed: FaultTestbed, onset: float, goal: SentGoal | None
    ) -> list[str]:
        """Return the reported reasons, after waiting for the expected ones."""
        expected = [r for r in self.reasons if not r.startswith('goal')]
        testbed.becomes(
            lambda: all(_has_reason(testbed.reported_reasons(onset), r) for r in expected),
            REASON_S,
        )
        reported = testbed.reported_reasons(onset)
        if goal is not None and goal.is_done:
            reported.append(f'goal: {testbed.outcome(goal)}')
        return reported


def measure(
    testbed: FaultTestbed, onset: float, by_joints: bool = False, trusts_joints: bool = True
) -> FaultResult:
    """Measure the motion from ``onset`` until now; limits exceeded are reported as problems.

    Args:
        testbed: testbed that recorded the motion.
        onset: s, ``time.monotonic``, onset of the fault.
        by_joints: judge rest by the measured joints, for faults that end the stream of commands.
        trusts_joints: the measured joints are valid.
    """
    recording, until, arm = testbed.recording(), monotonic(), testbed.arm
    motions = [recording.commands, recording.joints] if trusts_joints else [recording.commands]
    peaks = motion_peaks(recording, onset, until, arm, testbed.time.stream_dt)
    return FaultResult(
        time_to_stop(recording, onset),
        time_to_rest(recording, onset, by_joints),
        peaks,
        max(tip_path_length(motion, onset, until, arm) for motion in motions),
        problems=peaks.exceeded_limits(by_joints),
    )


def moves_again(testbed: FaultTestbed) -> bool:
    """Return True if, within ``RESUME_S``, the guard follows and the arm moves by itself."""

    def has_resumed() -> bool:
        is_following = testbed.state() is GuardState.FOLLOWING
        return is_following and testbed.speed() > MOVING_VELOCITY / 2

    return testbed.becomes(has_resumed, RESUME_S)


def stays_still(testbed: FaultTestbed) -> bool:
    """Return True if the commanded tip stays within ``STILL_M`` for ``STILL_S``."""
    start = testbed.arm.tip_position(testbed.command())

    def has_moved() -> bool:
        tip = testbed.arm.tip_position(testbed.command())
        return float(np.linalg.norm(tip - start)) > STILL_M

    return not testbed.becomes(has_moved, STILL_S)


def _check_continues(testbed: FaultTestbed, goal: SentGoal | None) -> str:
    """Expect that the arm moves on towards the same goal, or follows the next valid proposals."""
    if goal is None:
        return _check_motion(testbed.drive, 'valid proposals do not move it')
    return '' if moves_again(testbed) else f'does not resume by itself: {testbed.outcome(goal)}'


def _check_new_goal(testbed: FaultTestbed, goal: SentGoal | None) -> str:
    """Expect no motion until a new goal."""
    if goal is not None:
        testbed.becomes(lambda: goal.is_done, RESUME_S)
    if not stays_still(testbed):
        return 'moves without a new goal'
    return _check_motion(testbed.start_moving, 'a new goal does not move it')


def _check_reset(testbed: FaultTestbed, goal: SentGoal | None) -> str:
    """Expect a latched guard that follows nothing until guard/reset."""
    if not _becomes_latched(testbed):
        return 'is not latched'
    if goal is not None:
        testbed.becomes(lambda: goal.is_done, RESUME_S)
    return _check_locked(testbed, 'latched', 'guard/reset')


def _check_reset_or_new_goal(testbed: FaultTestbed, goal: SentGoal | None) -> str:
    """Expect a latched guard, or a goal that ended as SURPRISED: an operator has to act."""
    if goal is not None and not _becomes_latched(testbed):
        if testbed.outcome(goal, RESUME_S).startswith('SURPRISED'):
            return _check_new_goal(testbed, goal)
    return _check_reset(testbed, goal)


def _check_needs_resume(testbed: FaultTestbed, goal: SentGoal | None) -> str:
    """Expect a held guard that follows nothing until guard/resume."""
    return _check_locked(testbed, 'held', 'guard/resume')


def _check_locked(testbed: FaultTestbed, state: str, service: str) -> str:
    """Expect that a valid proposal does not move the arm, but a goal does after ``service``."""
    testbed.send_proposal(testbed.proposal())
    if not stays_still(testbed):
        return f'moves although it is {state}'
    answer = testbed.client.call(Trigger, service)
    if not answer.success:
        return f'{service} failed: {answer.message}'
    return _check_motion(testbed.start_moving, 'a new goal does not move it')


def _check_motion(move: Callable[[], object], problem: str) -> str:
    """Return ``problem`` and its cause if ``move`` cannot move the arm, else ''."""
    try:
        move()
    except GraphError as error:
        return f'{problem}: {error}'
    return ''


def _becomes_latched(testbed: FaultTestbed) -> bool:
    return testbed.becomes(lambda: testbed.state() is GuardState.LATCHED, RESUME_S)


def _has_reason(reported: list[str], beginning: str) -> bool:
    return any(text.startswith(beginning) for text in reported)


FOLLOW_UPS: dict[str, tuple[str, Callable[[FaultTestbed, SentGoal | None], str]]] = {
    'resumes': ('resumes by itself', _check_continues),
    'new goal': ('moves on a new goal only', _check_new_goal),
    'reset': ('latched until guard/reset', _check_reset),
    'reset or new goal': (
        'latched until guard/reset, or the goal ended as SURPRISED',
        _check_reset_or_new_goal,
    ),
    'resume': ('held until guard/resume', _check_needs_resume),
}
"""What must follow a stop: a description, and a check that returns the deviation, or ''. The check
gets the goal that moved the arm, or None if proposals of the testbed did."""
