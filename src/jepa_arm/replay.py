"""Plans again from what a recorded planner saw, step by step; imports no ROS 2, moves nothing.

Each decision is made from the recorded image and joints, and from where the arm was really told
to go before: where a new decision differs, the next one starts from what was recorded. So
differences do not add up, and an unchanged planner decides as it did.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from .agent import Agent
from .arm import Arm
from .belief import KEPT_S
from .config import CameraConfig
from .data.mcap_file import RecordingError
from .data.recording import Asked, PlannerState, Recording, Step
from .decision import Decision
from .goals import GoalError, PositionGoal
from .planning.planner import PlanningError
from .sight import camera_difference
from .types import FloatArray, Observation

WARM_UP_S = 1.0
"""For which a goal that began before the recording is pursued without being compared: the belief
of the recorded planner is older than the recording."""
CLOCK = 'the clock allowed for another number of candidates'


@dataclass(frozen=True)
class Redone:
    """One step and what was decided anew.

    Attributes:
        step: as recorded.
        goal: index of the goal that was pursued; None: none.
        decision: the new one; None: there was none, see ``problem``.
        is_compared: whether both are of the same moment of the same pursuit.
        excuse: why they may differ though the planners are alike; empty: they may not.
    """

    step: Step
    goal: int | None
    decision: Decision | None
    problem: str = ''
    is_compared: bool = False
    excuse: str = ''


def check_camera(recording: Recording, camera: CameraConfig) -> None:
    """Compares the recorded camera with that of a model.

    Raises:
        RecordingError: its size or intrinsics differ.
    """
    info = recording.camera_info
    fault = '' if info is None else camera_difference(info, camera)
    if fault:
        raise RecordingError(f'{recording.path}: {fault}')


class Replay:
    """Feeds a recording to an agent.

    Attributes:
        read: what each goal was read into, or why it was refused.
        behind_s: longest time by which a step was late, with a speed.
    """

    def __init__(self, recording: Recording, agent: Agent, arm: Arm) -> None:
        """Begins where the recording does.

        Args:
            recording: of an arm and camera as in the agent's contract.
            agent: that decides anew; it is reset, and prices as many candidates a sweep as were
                recorded, if its configuration leaves that to the machine.
            arm: its kinematics.
        """
        self._recording, self._agent, self._arm = recording, agent, arm
        self._asked = deque(enumerate(recording.goals))
        self._goal: int | None = None
        self._stamp = -np.inf
        self._is_in_step = self._is_new_goal = False
        self._last: Step | None = None
        self.read: list[PositionGoal | str] = []
        self.behind_s = 0.0
        self._late = deque(recording.unplanned)
        self._seen_at, self._is_timed = -np.inf, False
        self._doubt, self._excused = ('', -np.inf), ''
        agent.reset(_joints(recording.steps[0]))
        planned = (step for step in recording.steps if step.has_plan)
        self._search_as(next(planned, recording.steps[0]))  # to change that later takes seconds

    def run(self, speed: float | None = None) -> list[Redone]:
        """Every step of the recording, decided anew.

        Args:
            speed: times that of the recording, with the planner's own deadline. None: as fast
                as it goes, each plan with as many candidates as the recorded one, so that the
                result does not depend on the machine's speed.
        """
        began, first = time.perf_counter(), self._recording.steps[0].published
        self._is_timed = speed is not None
        done = []
        for step in self._recording.steps:
            if speed is None:
                self._agent.effort = step.candidates
            else:
                due = began + (step.published - first) / speed
                self.behind_s = max(self.behind_s, time.perf_counter() - due)
                time.sleep(max(0.0, due - time.perf_counter()))
            done.append(self._redo(step))
        return done

    def _redo(self, step: Step) -> Redone:
        while self._asked and self._asked[0][1].published <= step.published:
            self._begin(*self._asked.popleft())
        if step.state is PlannerState.IDLE and not step.has_plan and self._goal is not None:
            self._goal = None
            self._agent.set_goal(None)
        self._look_back(step)
        self._notice_jump(step)
        self._search_as(step)
        if step.told is not None:
            self._agent.start_from(step.told, step.is_continued or self._takes_over(step.told))
            self._is_in_step = self._is_in_step or not step.is_continued
        if step.latency_s > 0.0 or step.state is not PlannerState.IDLE:  # else it is not told
            self._agent.latency, self._agent.speed = step.latency_s, step.speed
        refused = '' if self._goal is None else self.read[self._goal]
        decision, problem = None, refused if isinstance(refused, str) else ''
        try:
            if isinstance(step.seen, Observation):
                decision = self._agent.decide(step.seen)
            else:
                decision = self._agent.decide_blind(step.seen)
        except (PlanningError, ValueError) as error:
            problem = problem or str(error)
        self._last, self._is_new_goal = step, False
        excuse = self._excuse(step, decision)
        return Redone(step, self._goal, decision, problem, self._is_comparable(step), excuse)

    def _search_as(self, step: Step) -> None:
        """Prices as many candidates a sweep as at ``step``, where the planner has the choice."""
        if not step.sweeps:
            return
        candidates, rest = divmod(step.candidates, step.sweeps)
        if not rest and candidates in self._agent.planners.sweep_sizes:
            self._agent.planners.sweep_size = candidates

    def _begin(self, index: int, asked: Asked) -> None:
        """Reads a goal and pursues it, as the planner does."""
        try:
            goal = self._read(asked)
        except GoalError as error:
            self.read.append(str(error))
            goal = None
        else:
            self.read.append(goal)
        self._agent.set_goal(goal)
        self._goal, self._is_new_goal = index, True

    def _read(self, asked: Asked) -> PositionGoal:
        if asked.place is not None:
            return PositionGoal(asked.subject, asked.place, asked.yaw)
        assert asked.shown is not None
        goal = self._agent.goal_images.read(asked.shown, asked.subject, asked.wants_yaw)
        if goal.subject == 'tip':
            return PositionGoal('tip', self._arm.clip_to_workspace(goal.position))
        return goal

    def _takes_over(self, told: FloatArray) -> bool:
        """Whether a new goal is pursued from where the last one was about to send the arm.

        What was sent for that is on its way then, as it is where a plan is continued.
        """
        last = self._last
        if not self._is_new_goal or last is None or not last.has_plan:
            return False
        goes_on = self._agent.told
        if last.proposal is not None:
            goes_on = last.proposal.positions[0]
        return np.array_equal(told, goes_on)  # a guard's command is the same but for rounding

    def _look_back(self, step: Step) -> None:
        """Shows the agent images that came after what they show was planned without them."""
        for observation in step.late or ():
            self._show_late(observation)
        if step.late is not None:
            return
        took_s = step.plan_ms / 1000.0 if np.isfinite(step.plan_ms) else 0.0
        while self._late and self._late[0][0] <= step.published - took_s:
            observation = self._late.popleft()[1]
            if self._seen_at < observation.stamp <= self._stamp:
                self._show_late(observation)

    def _show_late(self, observation: Observation) -> None:
        with suppress(ValueError):  # the belief begins later
            self._agent.observe(observation)
            self._seen_at = observation.stamp

    def _excuse(self, step: Step, decision: Decision | None) -> str:
        """Why the new decision may differ from the recorded one; empty: it may not.

        What the belief lacks counts as long as it remembers, and a plan that may differ does as
        long as the next ones go on from it.
        """
        if step.lacks:
            self._doubt = f'{step.lacks} is not in the recording', step.seen.stamp + KEPT_S
        reason, until = self._doubt
        plan = None if decision is None else decision.plan
        if step.seen.stamp <= until:
            self._excused = reason
        elif self._is_timed and plan is not None and plan.candidates != step.candidates:
            self._excused = CLOCK
        elif not step.is_continued:
            self._excused = ''
        return self._excused

    def _notice_jump(self, step: Step) -> None:
        """Starts the belief anew where the clock jumped back, as the planner does."""
        stamp = step.seen.stamp
        if stamp <= self._stamp:
            goal = self._agent.goal
            self._agent.reset(_joints(step))
            self._agent.set_goal(goal)
            self._seen_at, self._doubt = -np.inf, ('', -np.inf)
        self._stamp = stamp
        if isinstance(step.seen, Observation):
            self._seen_at = stamp

    def _is_comparable(self, step: Step) -> bool:
        """Not while the recorded plan goes on from one before the recording.

        Neither that plan nor the random numbers drawn for it are known.
        """
        if self._goal is None or step.proposal is None or not self._is_in_step:
            return False
        start = self._recording.began
        is_whole = self._recording.goals[self._goal].published >= start
        return is_whole or step.published > start + WARM_UP_S


def _joints(step: Step) -> FloatArray:
    """(J,) rad, measured at a step."""
    return step.seen.joints if isinstance(step.seen, Observation) else step.seen.position
