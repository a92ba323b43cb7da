"""Goal server: the action ``move_to_goal``, one active goal at a time.

Callbacks store requests and cancellations; the planning thread takes, pursues and ends goals.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from jepa_arm_msgs.action import MoveToGoal
from jepa_arm_msgs.msg import Goal
from rclpy.action.server import ActionServer, CancelResponse, GoalResponse, ServerGoalHandle
from rclpy.node import Node

from jepa_arm.ros.runtime.conversions import OUTCOME_NAMES

from .active_goal import ActiveGoal, Outcome

JOINTS_NOTE = '; of a JOINTS goal only the position of the tip counts'


class GoalServer:
    """Server of ``move_to_goal``; a new goal preempts the previous one.

    Attributes:
        rejection: why goals are rejected; empty while they are accepted.
        active: the goal being pursued, or None; set by the planning thread.
    """

    def __init__(self, node: Node, rejection: str, on_accepted: Callable[[], None]) -> None:
        """Start the server; ``on_accepted`` is called when a goal is accepted."""
        self._node, self.rejection, self._notify = node, rejection, on_accepted
        self._lock = Lock()
        self._requested: ActiveGoal | None = None
        self.active: ActiveGoal | None = None
        self._unanswered: dict[bytes, ActiveGoal] = {}
        self._server = ActionServer(
            node,
            MoveToGoal,
            'move_to_goal',
            self._execute,
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel,
        )

    def take_request(self) -> ActiveGoal | None:
        """Return the newest accepted goal that was not taken before, or None."""
        with self._lock:
            requested, self._requested = self._requested, None
        return requested

    def activate(self, goal: ActiveGoal) -> None:
        """Make ``goal`` the active goal; the previous one ends as preempted."""
        if self.active is not None:
            self.active.end(Outcome.PREEMPTED, 'a newer goal took over')
        self.active = goal

    def end_all(self, outcome: int, message: str) -> None:
        """End every goal with the same outcome."""
        for goal in list(self._unanswered.values()):
            goal.end(outcome, message)

    @property
    def is_idle(self) -> bool:
        """Return whether every accepted goal has returned its result."""
        return not self._unanswered

    def destroy(self) -> None:
        """Stop the server."""
        self._server.destroy()

    def _on_goal(self, request: MoveToGoal.Goal) -> GoalResponse:
        if not self.rejection:
            return GoalResponse.ACCEPT
        self._node.get_logger().warning(f'goal rejected: {self.rejection}')
        return GoalResponse.REJECT

    def _on_accepted(self, handle: ServerGoalHandle) -> None:
        goal = ActiveGoal(handle.request, handle)
        self._unanswered[bytes(handle.goal_id.uuid)] = goal
        with self._lock:
            replaced, self._requested = self._requested, goal
        self._notify()
        if replaced is not None:
            replaced.end(Outcome.PREEMPTED, 'a newer goal took over')
        handle.execute()

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        goal = self._unanswered.get(bytes(handle.goal_id.uuid))
        if goal is None:
            return CancelResponse.REJECT
        goal.end(Outcome.CANCELED, 'canceled; the arm comes to a stop')
        return CancelResponse.ACCEPT

    async def _execute(self, handle: ServerGoalHandle) -> MoveToGoal.Result:
        key = bytes(handle.goal_id.uuid)
        goal = self._unanswered[key]
        await goal.ended
        outcome, message = goal.outcome, goal.message
        if handle.request.goal.kind == Goal.JOINTS:
            message += JOINTS_NOTE
        if outcome == Outcome.SUCCEEDED:
            handle.succeed()
        elif outcome == Outcome.CANCELED and handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        del self._unanswered[key]
        self._node.get_logger().info(f'goal ended: {OUTCOME_NAMES[outcome]}: {message}')
        return MoveToGoal.Result(
            outcome=outcome,
            message=message,
            final_distance=float(goal.distance),
            replans=goal.replans,
        )
