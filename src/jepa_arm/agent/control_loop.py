"""Control loop in lock-step: observe, decide, let the guard check the proposal, move.

Evaluation, benchmarks and tests run it. On ROS 2 the same ``Agent`` and ``Guard`` live in two
nodes.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from jepa_arm.core.types import FloatArray, GuardState, JointSample, Proposal
from jepa_arm.guard.guard import Guard
from jepa_arm.planning.planner import PlanningError

from .decision import Decision, DecisionMaker, StepFeedback

if TYPE_CHECKING:
    from jepa_arm.sim.bullet import BulletWorld

DROPPED = (GuardState.STOPPING, GuardState.HOLDING)
"""States in which the guard has dropped every proposal it had accepted."""


class ControlLoop:
    """Closed loop of agent, guard and robot."""

    def __init__(
        self,
        agent: DecisionMaker,
        guard: Guard,
        robot: BulletWorld,
        ticks: int,
        delay: float = 0.0,
        is_delay_known: bool = True,
    ) -> None:
        """Connect the parts.

        Args:
            agent, guard, robot: already reset to the same joints.
            ticks: number of guard ticks per control step.
            delay: s from an observation until the guard has the proposal.
            is_delay_known: whether the agent plans for ``delay``.
        """
        self._agent, self._guard, self._robot, self._ticks = agent, guard, robot, ticks
        self._delay = delay
        self._sent: deque[tuple[float, Proposal]] = deque()  # arrival times and proposals
        self._known_delay = delay if is_delay_known else 0.0
        self._held_at: FloatArray | None = None

    def step(self, is_blind: bool = False) -> Decision:
        """Run one control step and return its decision.

        Args:
            is_blind: whether the agent gets only the measured joints, without an image.

        Raises:
            PlanningError: the agent found no plan.
        """
        robot, now = self._robot, self._robot.time
        observation = JointSample(*robot.joints(), now) if is_blind else robot.observe()
        held_at, self._held_at = self._held_at, None
        feedback = StepFeedback(held_at, is_continued=held_at is None, delay=self._known_delay)
        decision = self._agent.assess(self._agent.step(observation, feedback))
        if decision.problem:
            raise PlanningError(decision.problem)
        if decision.proposal is not None:
            self._sent.append((now + self._delay, decision.proposal))
        for _ in range(self._ticks):
            self._tick()
        if self._guard.state in DROPPED:
            self._replan_from_held_joints()
        return decision

    def _tick(self) -> None:
        """Let the guard check newly arrived proposals and command the robot for one tick."""
        guard, robot = self._guard, self._robot
        while self._sent and self._sent[0][0] <= robot.time + 1e-6:
            _, proposal = self._sent.popleft()
            if guard.submit(proposal, now=robot.time, ros_now=robot.time).reasons:
                self._replan_from_held_joints()
        guard.observe(JointSample(*robot.joints(), robot.time), now=robot.time)
        command = guard.tick(now=robot.time).command
        if command is not None:
            robot.command(command.position, command.velocity)
        robot.step()

    def _replan_from_held_joints(self) -> None:
        """Start the next plan where the guard holds the arm, because it dropped the proposals."""
        if self._guard.command is not None:
            self._held_at = self._guard.command.position
