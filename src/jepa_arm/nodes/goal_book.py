"""What became of the goals that were sent to a controller's action server. No ROS."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

ANSWER_S = 0.07
"""s in which a goal is answered; then the robot begins the stop of the one before, and a goal that
is accepted later would begin with a step."""
MOST_UNANSWERED = 3
"""Goals at once, of which the last ones only where a stop begins."""
SUCCEEDED, CANCELED, ABORTED = 4, 5, 6
"""Of action_msgs/GoalStatus: how a goal ends."""
ENDINGS = {CANCELED: 'canceled', ABORTED: 'aborted'}
VIOLATED = (-4, -5)
"""Of FollowJointTrajectory: a tolerance of the path, or of its end, was violated."""


@dataclass(frozen=True)
class Trouble:
    """Why the guard cannot rely on the robot to do what it was told.

    Attributes:
        reason: 'code: text'.
        is_over_alone: whether the guard goes on by itself once the cause is gone; else somebody
            is to look, and call ``guard/resume``.
    """

    reason: str
    is_over_alone: bool = False


class GoalBook:
    """Counts goals, times their answers, and finds trouble in them.

    A goal is replaced by the next one, and a server may end it as canceled or aborted then. The
    end of the newest one is nobody's but the server's or another client's.

    Attributes:
        latencies_ms: of the last answers.
        sent: goals so far.
    """

    def __init__(self, server: str) -> None:
        """Nothing was sent.

        Args:
            server: name of the action, for reasons.
        """
        self._server = server
        self.latencies_ms: deque[float] = deque(maxlen=200)
        self.sent = 0
        self.forget()

    def forget(self) -> None:
        """What becomes of the goals sent until now is nothing to this guard any more."""
        self._unanswered: dict[int, float] = {}
        self._oldest = self.sent
        self._trouble: Trouble | None = None
        self.is_accepted = False

    def may_send(self, is_urgent: bool) -> bool:
        """Whether one more goal may be under way, if ``is_urgent`` beside others."""
        return len(self._unanswered) < (MOST_UNANSWERED if is_urgent else 1)

    def send(self, now: float) -> int:
        """A goal is sent at ``now`` (s, steady clock); its number."""
        self.sent += 1
        self._unanswered[self.sent] = now
        return self.sent

    def answered(self, number: int, is_accepted: bool, now: float) -> None:
        """The server has accepted or rejected a goal."""
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

    def ended(self, number: int, status: int, code: int, text: str) -> None:
        """A goal has ended, with the result's ``code`` and ``text``."""
        is_replaced = number < self.sent and code not in VIOLATED
        if status == SUCCEEDED or number <= self._oldest or is_replaced:
            return
        ending = ENDINGS.get(status, f'ended with status {status}')
        cause = text[:200] or 'by another client, or by the controller'
        self._note(f'{ending} the motion it carried out (code {code}: {cause})')

    def trouble(self, now: float) -> Trouble | None:
        """What was found until ``now`` (s, steady clock), the first of it."""
        waiting = now - min(self._unanswered.values(), default=now)
        if self._trouble is None and waiting > ANSWER_S:
            text = f'controller: {self._server} has not answered for {ANSWER_S} s'
            self._trouble = Trouble(text, is_over_alone=True)
        return self._trouble

    def _note(self, text: str) -> None:
        self._trouble = self._trouble or Trouble(f'controller: {self._server} {text}')
