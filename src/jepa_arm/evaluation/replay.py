"""Replay: repeats the decisions of a recorded planner, step by step, without ROS 2.

Each decision is made from the recorded image, joints and setpoint, so a different decision does
not affect the next one: differences do not add up, and an unchanged planner decides as before.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepa_arm.agent.agent import Agent
from jepa_arm.agent.decision import Decision, StepFeedback
from jepa_arm.belief.belief import HISTORY_S
from jepa_arm.config import CameraConfig
from jepa_arm.core.goals import HOLD_STEPS, GoalError, PositionGoal
from jepa_arm.core.types import FloatArray, Observation
from jepa_arm.datasets.mcap_file import RecordingError
from jepa_arm.datasets.recording import PlannerRecording, PlannerState, RecordedGoal, RecordedStep
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.camera_checks import camera_difference

from .episode import first_held

WARM_UP_S = 1.0
"""Time at the start of a recording in which a goal set earlier is not compared: the belief of the
recorded planner then still depends on images from before the recording."""
DEADLINE_CAUSE = 'the clock allowed for another number of candidates'
TOLERANCE_CM = 0.1
"""Distance at the tip up to which two decisions are equal."""
MIN_EQUAL = 0.95
"""Smallest share of equal decisions for which two planners are judged to be equal."""
MIN_COMPARED = 0.5
"""Smallest share of compared decisions that must be left after excusing some; see ``compare``."""
TIME_SLACK_S = 1e-6
PERCENTILES = {'p50': 50, 'p90': 90, 'p99': 99, 'max': 100}


@dataclass(frozen=True)
class ReplayedStep:
    """A recorded step and the decision that the replay made for it.

    Attributes:
        step: the recorded step.
        goal_index: index of the active goal among the recorded ones; None without a goal.
        decision: the new decision; None if there is none, see ``problem``.
        problem: why there is no decision.
        is_compared: whether both decisions start from the same state with the same goal.
        allowed_cause: why the decisions may differ although the planners are equal; empty if
            they may not.
    """

    step: RecordedStep
    goal_index: int | None
    decision: Decision | None
    problem: str = ''
    is_compared: bool = False
    allowed_cause: str = ''


def check_camera(recording: PlannerRecording, camera: CameraConfig) -> None:
    """Check that the recorded camera matches the ``camera`` of a model.

    Raises:
        RecordingError: its size or intrinsics differ.
    """
    info = recording.camera_info
    difference = '' if info is None else camera_difference(info, camera)
    if difference:
        raise RecordingError(f'{recording.path}: {difference}')


class Replay:
    """Replay of a recording by an agent.

    Attributes:
        goals: for each recorded goal, the goal that the agent pursues or why it was refused.
        behind_s: s, most that a step was behind schedule in a replay at a given speed.
    """

    def __init__(self, recording: PlannerRecording, agent: Agent, arm: Arm) -> None:
        """Begin at the first step.

        Args:
            recording: recording made with the arm and camera of the agent's contract.
            agent: makes the decisions again. It is reset; if its configuration lets the machine
                choose the number of candidates per iteration, the recorded number is used.
            arm: kinematics of the arm.
        """
        self._recording, self._agent, self._arm = recording, agent, arm
        self._pending_goals = deque(enumerate(recording.goals))
        self._goal_index: int | None = None
        self._stamp = -np.inf
        self._has_synchronised = self._is_new_goal = False
        self._last: RecordedStep | None = None
        self.goals: list[PositionGoal | str] = []
        self.behind_s = 0.0
        self._is_timed = False
        self._delay, self._speed_scale = 0.0, 1.0
        self._missing_cause, self._missing_until = '', -np.inf
        self._allowed_cause = ''
        agent.reset(recording.steps[0].joints)
        planned = (step for step in recording.steps if step.has_plan)
        self._set_candidates(next(planned, recording.steps[0]))  # changing it later takes seconds

    def run(self, speed: float | None = None) -> list[ReplayedStep]:
        """Decide every step of the recording again.

        Args:
            speed: speed relative to the recording; the planner's own deadline applies. None: as
                fast as possible, each plan with the recorded number of candidates, so that the
                result does not depend on the speed of the machine.
        """
        began, first = time.perf_counter(), self._recording.steps[0].published
        self._is_timed = speed is not None
        replayed = []
        for step in self._recording.steps:
            if speed is not None:
                due = began + (step.published - first) / speed
                self.behind_s = max(self.behind_s, time.perf_counter() - due)
                time.sleep(max(0.0, due - time.perf_counter()))
            replayed.append(self._replay(step))
        return replayed

    def _replay(self, step: RecordedStep) -> ReplayedStep:
        """Let the agent plan again at one recorded step."""
        while self._pending_goals and self._pending_goals[0][1].published <= step.published:
            self._start_goal(*self._pending_goals.popleft())
        is_idle = step.state is PlannerState.IDLE and not step.has_plan
        if is_idle and self._goal_index is not None:
            self._goal_index = None
            self._agent.set_goal(None)
        late = () if self._restarts_at(step) else step.late_observations
        self._set_candidates(step)
        feedback = self._feedback(step, late)
        goal = '' if self._goal_index is None else self.goals[self._goal_index]
        decision, problem = None, goal if isinstance(goal, str) else ''
        try:
            decision = self._agent.assess(self._agent.step(step.observation, feedback))
        except ValueError as error:
            problem = problem or str(error)
        if decision is not None and decision.problem:
            decision, problem = None, problem or decision.problem
        self._last, self._is_new_goal = step, False
        cause = self._update_allowed_cause(step, decision)
        is_compared = self._is_comparable(step)
        return ReplayedStep(step, self._goal_index, decision, problem, is_compared, cause)

    def _set_candidates(self, step: RecordedStep) -> None:
        """Use as many candidates per iteration as at ``step``, if the planner may choose."""
        if not step.iterations:
            return
        candidates, rest = divmod(step.candidates, step.iterations)
        if not rest and candidates in self._agent.planners.candidate_range:
            self._agent.planners.candidates_per_iteration = candidates

    def _start_goal(self, index: int, recorded: RecordedGoal) -> None:
        """Read a recorded goal and give it to the agent, as the planner does."""
        try:
            goal = self._read(recorded)
        except GoalError as error:
            goal = str(error)
        self.goals.append(goal)
        self._agent.set_goal(None if isinstance(goal, str) else goal)
        self._goal_index, self._is_new_goal = index, True

    def _read(self, recorded: RecordedGoal) -> PositionGoal:
        if recorded.position is not None:
            return PositionGoal(recorded.subject, recorded.position, recorded.yaw)
        shown = recorded.goal_observation
        assert shown is not None
        goal = self._agent.goal_images.read(shown, recorded.subject, recorded.has_yaw)
        if goal.subject == 'tip':
            return PositionGoal('tip', self._arm.clip_to_workspace(goal.position))
        return goal

    def _continues_last_goal(self, setpoint: FloatArray) -> bool:
        """Return whether a new goal starts from the setpoint of the previous goal's last proposal.

        That proposal is then still being executed, as when a plan is continued.
        """
        last = self._last
        if not self._is_new_goal or last is None or not last.has_plan:
            return False
        sent = self._agent.setpoint
        if last.proposal is not None:
            sent = last.proposal.positions[0]
        return np.array_equal(setpoint, sent)  # exact: a guard's command differs by rounding

    def _feedback(self, step: RecordedStep, late: tuple[Observation, ...]) -> StepFeedback:
        """Return the recorded planner's feedback at ``step``, with its ``late`` observations."""
        is_continued = True
        if step.setpoint is not None:
            is_continued = step.is_continued or self._continues_last_goal(step.setpoint)
            self._has_synchronised = self._has_synchronised or not step.is_continued
        if step.delay > 0.0 or step.state is not PlannerState.IDLE:  # else it is not recorded
            self._delay, self._speed_scale = step.delay, step.speed_scale
        return StepFeedback(
            setpoint=step.setpoint,
            is_continued=is_continued,
            late_observations=late,
            speed_scale=self._speed_scale,
            delay=self._delay,
            max_candidates=None if self._is_timed else step.candidates,
        )

    def _update_allowed_cause(self, step: RecordedStep, decision: Decision | None) -> str:
        """Return why the new decision may differ from the recorded one; '' if it may not.

        Missing data excuses differences for as long as the belief remembers it (``HISTORY_S``). A
        plan that may differ excuses differences of the plans that continue it.
        """
        stamp, plan = step.observation.stamp, None if decision is None else decision.plan
        if step.missing:
            self._missing_cause = f'{step.missing} is not in the recording'
            self._missing_until = stamp + HISTORY_S
        if stamp <= self._missing_until:
            self._allowed_cause = self._missing_cause
        elif self._is_timed and plan is not None and plan.candidates != step.candidates:
            self._allowed_cause = DEADLINE_CAUSE
        elif not step.is_continued:
            self._allowed_cause = ''
        return self._allowed_cause

    def _restarts_at(self, step: RecordedStep) -> bool:
        """Reset the agent if the clock jumped back, as the planner does; return whether it did."""
        stamp = step.observation.stamp
        is_restarted = stamp <= self._stamp
        if is_restarted:
            goal = self._agent.goal
            self._agent.reset(step.joints)
            self._agent.set_goal(goal)
            self._missing_cause, self._missing_until = '', -np.inf
        self._stamp = stamp
        return is_restarted

    def _is_comparable(self, step: RecordedStep) -> bool:
        """Return whether the new decision starts from the state of the recorded one.

        It does not while the recorded plan continues one from before the recording, whose actions
        and random numbers are unknown.
        """
        if self._goal_index is None or step.proposal is None or not self._has_synchronised:
            return False
        start = self._recording.start
        is_complete = self._recording.goals[self._goal_index].published >= start
        return is_complete or step.published > start + WARM_UP_S


def proposal_difference(replayed: ReplayedStep, arm: Arm) -> tuple[float, float]:
    """Return how the new proposal differs from the recorded one.

    Returns:
        largest difference of a joint, rad, and of the tip, cm, over waypoints at the same time.
        Both are infinite if a proposal is missing or no two waypoints have the same time.
    """
    old = replayed.step.proposal
    new = None if replayed.decision is None else replayed.decision.proposal
    if old is None or new is None or sorted(old.joint_names) != sorted(new.joint_names):
        return np.inf, np.inf
    orders = ([list(p.joint_names).index(name) for name in arm.joint_names] for p in (old, new))
    before, after = (p.positions[:, order] for p, order in zip((old, new), orders, strict=True))
    is_same_time = np.abs(np.subtract.outer(old.times, new.times)) < TIME_SLACK_S
    rad = tip_cm = -np.inf
    for i, j in np.argwhere(is_same_time):
        rad = max(rad, float(np.abs(before[i] - after[j]).max()))
        tip = arm.tip_position(before[i]) - arm.tip_position(after[j])
        tip_cm = max(tip_cm, float(np.linalg.norm(tip)) * 100.0)
    return (rad, tip_cm) if is_same_time.any() else (np.inf, np.inf)


def compare(
    recording: PlannerRecording,
    replayed: Sequence[ReplayedStep],
    goals: Sequence[PositionGoal | str],
    arm: Arm,
    tolerance_cm: float = TOLERANCE_CM,
    min_equal: float = MIN_EQUAL,
) -> dict[str, Any]:
    """Return a report; ``passed`` tells whether both planners are judged to be equal.

    They are if enough decisions are equal and all goals end alike. Decisions that differ for an
    allowed cause (see ``ReplayedStep``) do not count.

    Args:
        recording: the recording that was replayed.
        replayed: steps returned by ``Replay.run``.
        goals: see ``Replay.goals``.
        arm: kinematics of the arm.
        tolerance_cm: distance at the tip up to which two decisions are equal.
        min_equal: smallest share of equal decisions to pass.
    """
    compared = [step for step in replayed if step.is_compared]
    found = np.array([proposal_difference(s, arm) for s in compared]).reshape(-1, 2)
    is_equal = found[:, 1] <= tolerance_cm
    is_counted = is_equal | np.array([not s.allowed_cause for s in compared], dtype=bool)
    steps = [s for s, counts in zip(compared, is_counted, strict=True) if counts]
    excused = [s.allowed_cause for s, c in zip(compared, is_counted, strict=True) if not c]
    joints_rad, tip_cm = found[is_counted].T
    goal_reports = [
        _goal_report(recorded, goal, [s for s in replayed if s.goal_index == i])
        for i, (recorded, goal) in enumerate(zip(recording.goals, goals, strict=False))
    ]
    is_enough = len(steps) >= max(1.0, MIN_COMPARED * len(compared))
    equal = int(is_equal.sum())
    share = equal / len(steps) if steps else 0.0
    pairs = [(s.step, s.decision) for s in steps if s.decision is not None]
    distances = [abs(new.distance - old.distance) * 100.0 for old, new in pairs]
    return {
        'steps': len(replayed),
        'unplanned_images': recording.unplanned_images,
        'compared': len(steps),
        'equal': equal,
        'equal_share': round(share, 4),
        'excused': dict(Counter(excused)),
        'missing': int(np.isinf(tip_cm).sum()),
        'problems': dict(Counter(s.problem for s in steps if s.problem)),
        'tip_cm': _percentiles(tip_cm),
        'joints_rad': _percentiles(joints_rad),
        'distance_cm': _percentiles(distances),
        'plan_ms': {
            'recorded': _percentiles([s.step.plan_ms for s in steps]),
            'replayed': _percentiles([new.plan.latency_ms for _, new in pairs if new.plan]),
        },
        'goals': goal_reports,
        'tolerance_cm': tolerance_cm,
        'min_equal': min_equal,
        'is_enough': is_enough,
        'passed': is_enough and share >= min_equal and all(goal['alike'] for goal in goal_reports),
    }


def _goal_report(
    recorded: RecordedGoal, goal: PositionGoal | str, steps: Sequence[ReplayedStep]
) -> dict[str, Any]:
    """Return the report of one goal; ``alike``: accepted, and reached by both or by neither."""
    old = [s.step.distance for s in steps]
    new = [np.nan if s.decision is None else s.decision.distance for s in steps]
    is_taken = isinstance(goal, PositionGoal)
    read_cm = None
    if is_taken and recorded.estimated_position is not None:
        error = goal.position - recorded.estimated_position
        read_cm = round(float(np.linalg.norm(error)) * 100.0, 3)
    reached = [
        first_held((d <= recorded.tolerance for d in distances), HOLD_STEPS) is not None
        for distances in (old, new)
    ]
    return {
        'subject': recorded.subject,
        'steps': len(steps),
        'outcome': recorded.outcome or 'not recorded',
        'reached': {'recorded': reached[0], 'replayed': reached[1]},
        'read_difference_cm': read_cm,
        'refused': '' if is_taken else goal,
        'alike': is_taken and reached[0] == reached[1],
    }


def _percentiles(values: Sequence[float] | FloatArray) -> dict[str, float]:
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        return {}
    found = np.percentile(finite, tuple(PERCENTILES.values()))
    return {k: float(f'{value:.4g}') for k, value in zip(PERCENTILES, found, strict=True)}


def format_replay(report: Mapping[str, Any]) -> str:
    """Return the report as text for a terminal."""
    plan_ms = report['plan_ms']
    lines = [
        f'{report["equal"]} of {report["compared"]} decisions equal within '
        f'{report["tolerance_cm"]:g} cm at the tip ({report["equal_share"]:.1%}); '
        f'{report["steps"]} steps, {report["unplanned_images"]} images were not planned from',
        f'  tip, cm:        {_join(report["tip_cm"])}',
        f'  joints, rad:    {_join(report["joints_rad"])}',
        f'  distance, cm:   {_join(report["distance_cm"])}',
        f'  plan, ms:       {_join(plan_ms["replayed"])}; recorded: {_join(plan_ms["recorded"])}',
    ]
    for cause, count in report['excused'].items():
        lines.append(f'  {count} others differ and are not counted: {cause}')
    for problem, count in report['problems'].items():
        lines.append(f'  {count} steps without a decision: {problem}')
    lines += [_goal_line(number, goal) for number, goal in enumerate(report['goals'], 1)]
    if not report['compared'] and not report['excused']:
        lines.append('nothing to compare: every plan continues one from before the recording')
    elif not report['is_enough']:
        lines.append('too few decisions are left to judge by')
    else:
        lines.append('the planners decide alike' if report['passed'] else 'the planners DIFFER')
    return '\n'.join(lines)


def _goal_line(number: int, goal: Mapping[str, Any]) -> str:
    reached, read_cm = goal['reached'], goal['read_difference_cm']
    text = (
        f'  goal {number}, {goal["subject"]}: {goal["outcome"]}, {goal["steps"]} steps, estimated '
        f'as reached: {_yes(reached["replayed"])}, recorded: {_yes(reached["recorded"])}'
    )
    if read_cm is not None:
        text += f', read {read_cm:.2f} cm from the recorded reading'
    return f'{text}; refused: {goal["refused"]}' if goal['refused'] else text


def _join(values: Mapping[str, float]) -> str:
    return ', '.join(f'{key} {value:g}' for key, value in values.items()) or 'none'


def _yes(value: bool) -> str:
    return 'yes' if value else 'no'
