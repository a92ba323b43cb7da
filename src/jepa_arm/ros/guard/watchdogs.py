"""Watchdogs of the guard's node: competing commanders, clock jumps and pauses of the process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic

import numpy as np
from rclpy.clock import JumpThreshold, TimeJump  # pyright: ignore[reportPrivateImportUsage]
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.subscription import Subscription

from jepa_arm.config import ConfigError
from jepa_arm.core.types import FloatArray, GuardState, JointSample
from jepa_arm.guard.guard import Guard
from jepa_arm.ros.runtime.compat import count_clients
from jepa_arm.ros.runtime.qos import COMMAND_QOS

LISTEN_S, LISTEN_LONGER_S = 1.0, 2.0
"""Time without commands of other nodes before the guard sends its first; the longer one applies if
another publisher, which may have died, is still listed."""
CHECK_PERIOD_S = 0.05
MAX_CLOCK_JUMP_S = 0.5
"""Largest forward step of ROS time that is no jump; a clock message may be lost."""
MAX_CLOCK_STEP_BACK_S = 0.05
PAUSE_S = 0.1
"""Time without a tick after which the robot's controller has stopped the arm by itself."""
SETTLE_S = 0.2
"""Time at rest after a clock jump in which proposals with old stamps may still arrive."""
DRAIN_S = 0.05
"""Time after a pause in which arriving joint states may be old ones from the queue."""


class CompetingCommanders:
    """Other nodes that command the robot, counted in the ROS graph."""

    def __init__(self, kind: str, where: str, count: Callable[[], int], own: int) -> None:
        """Start without known competitors.

        Args:
            kind: kind of endpoint, 'publisher' or 'client'.
            where: preposition and topic or action, such as 'on /commands', for messages.
            count: returns the number of endpoints, the node's own included.
            own: number of those that belong to the node itself.
        """
        self._kind, self._where, self._count_all, self._own = kind, where, count, own
        self._checked_at, self._known = -np.inf, 0

    def count(self) -> int:
        """Return the current number of competitors."""
        return max(0, self._count_all() - self._own)

    def accept(self, count: int) -> None:
        """Treat ``count`` competitors as known, so that ``check`` only reports further ones."""
        self._known = count

    def problem(self) -> str:
        """Return a problem for ``/diagnostics``, or '' if there are no competitors."""
        count = self.count()
        return f'{count} other {self._kind}s {self._where}' if count else ''

    def check(self, now: float) -> str:
        """Return the reason to hold if a competitor has appeared since the last check, or ''."""
        if now - self._checked_at < CHECK_PERIOD_S:
            return ''
        self._checked_at = now
        known, self._known = self._known, self.count()
        if self._known <= known:
            return ''
        return (
            f'held: another {self._kind} {self._where}, expected this guard alone; end it, then '
            'call guard/resume'
        )


class CompetingClients(CompetingCommanders):
    """Other clients of an action, whose goals cannot be observed.

    rclpy counts clients from ROS 2 Iron on; earlier versions find none.
    """

    def __init__(self, node: Node, action: str) -> None:
        service = f'{action}/_action/send_goal'
        super().__init__('client', f'of {action}', lambda: count_clients(node, service), own=1)


class CompetingPublishers(CompetingCommanders):
    """Other publishers of commands; if one sends any before the guard does, the node ends.

    Attributes:
        topic: name of the commands' topic after remapping.
    """

    def __init__(self, node: Node, kind: type, topic: str, own: int = 1) -> None:
        """Listen to ``topic``.

        Args:
            node: node that will publish.
            kind: type of the messages.
            topic: topic before remapping.
            own: number of the node's own publishers.
        """
        self._node, self.topic = node, node.resolve_topic_name(topic)
        count = partial(node.count_publishers, self.topic)
        super().__init__('publisher', f'on {self.topic}', count, own)
        self._began = self._checked_at = monotonic()
        self._listener: Subscription | None = node.create_subscription(
            kind, topic, self._on_command, COMMAND_QOS
        )

    @property
    def is_clear(self) -> bool:
        """True once no other node has sent a command for long enough to start."""
        return monotonic() - self._began > (LISTEN_LONGER_S if self._count_all() else LISTEN_S)

    def stop_listening(self) -> None:
        """Stop listening: from now on the commands are the node's own."""
        self.accept(self._count_all())
        self.close()

    def close(self) -> None:
        """Destroy the subscription."""
        if self._listener is not None:
            self._node.destroy_subscription(self._listener)
            self._listener = None

    def _on_command(self, msg: object) -> None:
        raise ConfigError(
            f'expected to be the only publisher of {self.topic}, but commands come on it: is '
            'another guard up? End it, or choose another namespace or ROS_DOMAIN_ID'
        )


class ClockJumpMonitor:
    """Stops the arm when ROS time jumps: earlier stamps can no longer be compared with it.

    Attributes:
        reason: why every proposal is rejected now; '' if none is.
    """

    def __init__(self, node: Node) -> None:
        threshold = JumpThreshold(
            min_forward=Duration(seconds=MAX_CLOCK_JUMP_S),
            min_backward=Duration(seconds=-MAX_CLOCK_STEP_BACK_S),
            on_clock_change=False,
        )
        self.reason = self._new_jump = ''
        self._rest_since: float | None = None
        self._handle = node.get_clock().create_jump_callback(
            threshold, post_callback=self._on_jump
        )

    def check(self, guard: Guard, now: float) -> None:
        """Stop ``guard`` after a jump; restart it in place once the arm has rested a while."""
        if self._new_jump and guard.state is not GuardState.INACTIVE:
            self.reason = self._new_jump
            guard.stop(self.reason)
        self._new_jump = ''
        is_at_rest = guard.state in (GuardState.IDLE, GuardState.HOLDING)
        if not self.reason or not is_at_rest or guard.is_locked_out or guard.command is None:
            self._rest_since = None
        elif self._rest_since is None:
            self._rest_since = now
        elif now - self._rest_since >= SETTLE_S:
            guard.reset(guard.command.position, now)
            self.reason = ''

    def close(self) -> None:
        """Stop monitoring the clock."""
        self._handle.unregister()

    def _on_jump(self, jump: TimeJump) -> None:
        seconds = jump.delta.nanoseconds / 1e9
        direction = 'ahead' if seconds > 0.0 else 'back'
        self._new_jump = f'clock: ROS time jumped {direction} by {abs(seconds):.2f} s'


class PauseMonitor:
    """Detects that the process did not run for a while, due to SIGSTOP or a machine that hung.

    Attributes:
        reason: why the guard is paused; '' if it is not.
    """

    def __init__(self) -> None:
        self.reason = ''
        self._drained_at = 0.0

    def record_gap(self, gap: float, now: float) -> None:
        """Record a ``gap`` (s) between two ticks, the second at ``now`` (s)."""
        if gap > PAUSE_S:
            self.reason = f'paused: the guard did not run for {gap:.2f} s'
            self._drained_at = now + DRAIN_S

    def try_restart(self, guard: Guard, sample: JointSample, now: float) -> None:
        """Restart ``guard`` from the measured joints, if they are newer than the pause.

        Args:
            guard: guard to restart.
            sample: measured joints.
            now: s, when ``sample`` was received.
        """
        if now < self._drained_at or not np.all(np.isfinite(sample.position)):
            return
        if restart_at(guard, sample.position, now, self.reason):
            self.reason = ''


def restart_at(guard: Guard, position: FloatArray, now: float, reason: str) -> bool:
    """Reset ``guard`` to the arm's measured ``position`` (J,) rad, and stop it for ``reason``.

    A guard that was locked out is held again.

    Returns:
        whether the position was plausible; if not, try again with the next one.
    """
    was_locked_out = guard.is_locked_out
    try:
        guard.reset(position, now)
    except ValueError:
        return False
    if was_locked_out:
        guard.hold(f'held: it was blocked before; {reason}')
    else:
        guard.stop(reason)
    return True
