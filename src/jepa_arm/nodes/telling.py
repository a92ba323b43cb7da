"""What the planning thread tells of each of its steps."""

from __future__ import annotations

from collections import deque

import numpy as np
from jepa_arm_msgs.msg import PlannerStatus

from ..agent import Agent
from ..decision import Decision
from ..types import JointSample, Observation
from .goal_server import Pursuit
from .plan_view import PlanView

SURPRISES = {
    'world': 'the world as it is now',
    'outlook': 'how the world went on',
    'body': 'how the arm moves',
    'sight': 'where the image shows the arm',
    'background': 'what looked the same before',
    'view': 'where the camera looks from',
    'palette': 'a colour that was not there',
    'motion': 'how much of the image moves',
}
"""In words, each channel of ``Decision.channel``."""


class Telling:
    """Status, markers and feedback; counts the plans it tells of.

    Attributes:
        late_plans: that took longer than their deadline, so far.
        slowest_ms: of a plan since somebody set it to 0. latencies_ms: of the newest ones.
    """

    def __init__(self, agent: Agent, view: PlanView, level: float, is_dry: bool) -> None:
        """Has told nothing yet.

        Args:
            agent: that decides. view: that publishes.
            level: from which a surprise is told. is_dry: whether no proposal is sent.
        """
        self._agent, self._view = agent, view
        self._level, self._is_dry = level, is_dry
        self.late_plans, self.slowest_ms = 0, 0.0
        self.latencies_ms: deque[float] = deque(maxlen=100)

    def step(
        self,
        state: int,
        reason: str,
        seen: Observation | JointSample,
        decision: Decision,
        late: list[float],
        age: float = np.nan,
        replans: int = 0,
    ) -> None:
        """Tells all that is needed to decide a step again.

        Args:
            state, reason: of ``PlannerStatus``. seen: what was decided from.
            late: s, stamps of images that came late, see ``Seen``; emptied.
            age: s, of what was seen when the proposal was sent. replans: made for the goal.
        """
        joints = seen.joints if isinstance(seen, Observation) else seen.position
        latency, speed = self._agent.latency, self._agent.speed
        self._view.status(
            state, reason, seen.stamp, decision, age, replans, latency, speed, joints, late
        )
        late.clear()

    def plan(
        self,
        seen: Observation | JointSample,
        decision: Decision,
        late: list[float],
        age: float,
        pursuit: Pursuit,
        note: str,
    ) -> None:
        """Tells of a step with a plan for ``pursuit``, see ``step``; ``note``: how it was seen."""
        assert pursuit.goal is not None and decision.plan is not None
        latency_ms = decision.plan.latency_ms
        self.late_plans += latency_ms > self._agent.planners.deadline_ms
        self.latencies_ms.append(latency_ms)
        self.slowest_ms = max(self.slowest_ms, latency_ms)
        state, reason = PlannerStatus.HOLDING, 'dry run: nothing is sent'
        if pursuit.progress.is_waiting:
            reason = f'no nearer for {pursuit.progress.stuck:.1f} s: waiting'
        elif not self._is_dry:
            if decision.surprise > self._level:
                note = f'surprised by {SURPRISES[decision.channel]} ({decision.surprise:.1f})'
            state, reason = PlannerStatus.PLANNING, note
        self.step(state, reason, seen, decision, late, age, pursuit.replans)
        others = self._agent.tip_paths(decision.plan.others)
        self._view.plan(decision, others, pursuit.goal, pursuit.reach, seen.stamp)
        if self._is_dry and decision.proposal is not None:
            self._view.preview(decision.proposal)
        pursuit.feedback(
            distance=decision.distance,
            predicted_distance=decision.predicted_distance,
            turn=decision.turn,
            surprise=decision.surprise,
            risk=decision.contact,
            plan_ms=latency_ms,
            observation_age_ms=age * 1000.0,
        )
