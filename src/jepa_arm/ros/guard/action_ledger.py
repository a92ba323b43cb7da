"""Action ledger: outcome of the goals that were sent to a controller's action server. No ROS."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

ANSWER_S = 0.07
"""Time within which the server must answer a goal. Later, the robot begins the stop at the end of
the previous goal, and a goal accepted then would begin with a jump."""
MAX_UNANSWERED = 3
"""Largest number of unanswered goals; while there is one, only stops are sent."""
SUCCEEDED, CANCELED, ABORTED = 4, 5, 6
"""Final states of a goal (action_msgs/GoalStatus)."""
OUTCOMES = {CANCELED: 'canceled', ABORTED: 'aborted'}
TOLERANCE_VIOLATED = (-4, -5)
"""Error codes of FollowJointTrajectory: path tolerance or goal tolerance violated."""


@dataclass(frozen=True)
class ControllerFault:
    """Reason to assume that the robot does not execute what it was sent.

    Attributes:
        reason: 'code: text'.
        is_transient: the guard continues by itself once the cause is gone; otherwise an operator
            must find the cause and call ``guard/resume``.
    """

    reason: str
    is_transient: bool = False


class ActionLedger:
    """Counts goals, times their answers and finds faults in them.

    Each goal replaces the previous one, which the server may then end as canceled or aborted. If
    the newest goal ends like that, the server itself or another client ended it: a fault.

    Attributes:
        latencies_ms: times from sending a goal to its answer, for the last 200 answers.
        sent: number of goals sent.
        is_accepted: whether a goal was accepted since the last ``clear``.
    """

    def __init__(self, server: str) -> None:
        """Create an empty ledger.

        Args:
            server: name of the action, used in the reasons of faults.
        """
        self._server = server
        self.latencies_ms: deque[float] = deque(maxlen=200)
        self.sent = 0
        self._unanswered: dict[int, float] = {}
        self._last_cleared = 0
        self._fault: ControllerFault | None = None
        self.is_accepted = False

    def clear(self) -> None:
        """Ignore the outcome of all goals sent so far, and forget the fault."""
        self._unanswered = {}
        self._last_cleared = self.sent
        self._fault = None
        self.is_accepted = False

    def may_send(self, is_urgent: bool) -> bool:
        """Return whether a goal may be sent now; while one is unanswered, only urgent ones may."""
        return len(self._unanswered) < (MAX_UNANSWERED if is_urgent else 1)

    def record_sent(self, now: float) -> int:
        """Record a goal sent at ``now`` (s, steady clock) and return its number."""
        self.sent += 1
        self._unanswered[self.sent] = now
        return self.sent

    def record_answer(self, number: int, is_accepted: bool, now: float) -> None:
        """Record that the server accepted or rejected goal ``number`` at ``now`` (s)."""
        sent_at = self._unanswered.pop(number, None)
        if sent_at is None:
            return
        self.latencies_ms.append((now - sent_at) * 1000.0)
        if is_accepted:
            self.is_accepted = True
        else:
            self._note(
                'rejected a goal: is the controller active, are its joints those of the arm, and '
                'do the clocks agree? Its log says more'
            )

    def record_result(self, number: int, status: int, code: int, text: str) -> None:
        """Record the final ``status`` of goal ``number``, and its result's error code and text."""
        is_replaced = number < self.sent and code not in TOLERANCE_VIOLATED
        if status == SUCCEEDED or number <= self._last_cleared or is_replaced:
            return
        outcome = OUTCOMES.get(status, f'ended with status {status}')
        cause = text[:200] or 'by another client, or by the controller'
        self._note(f'{outcome} the motion it carried out (code {code}: {cause})')

    def fault(self, now: float) -> ControllerFault | None:
        """Return the first fault found up to ``now`` (s, steady clock), or None."""
        waiting = now - min(self._unanswered.values(), default=now)
        if self._fault is None and waiting > ANSWER_S:
            text = f'controller: {self._server} has not answered for {ANSWER_S} s'
            self._fault = ControllerFault(text, is_transient=True)
        return self._fault

    def _note(self, text: str) -> None:
        self._fault = self._fault or ControllerFault(f'controller: {self._server} {text}')
