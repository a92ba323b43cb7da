"""What a guard on ROS 2 must notice beside proposals and joints: rivals, clock jumps, pauses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from time import monotonic

import numpy as np
from rclpy.clock import JumpThreshold, TimeJump  # pyright: ignore[reportPrivateImportUsage]
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.subscription import Subscription

from ..config import ConfigError
from ..guard import Guard
from ..types import FloatArray, GuardState, JointSample
from .compat import count_clients
from .parameters import COMMAND

LISTEN_S, LISTEN_LONGER_S = 1.0, 2.0
"""How long commands of others are listened for before the first own one: where none is known of,
and where one is, which may have died and is still listed."""
LOOK_EVERY_S = 0.05
JUMP_S = 0.5
"""By how much ROS time may go ahead at once; a message of the clock may be lost."""
BACK_S = 0.05
PAUSE_S = 0.1
"""Without a tick after which the robot's side has stopped the arm by itself."""
SETTLE_S = 0.2
"""Of rest after a clock jump: for which proposals of the time before may still come."""
DRAIN_S = 0.05
"""After a pause: for which joint states may be old ones that had waited."""


class Others(ABC):
    """Others who command the robot: one that comes later is news."""

    def __init__(self, kind: str, where: str) -> None:
        """Knows of none yet.

        Args:
            kind: of end, 'publisher on' or 'client of'. where: name of the topic or action.
        """
        self._kind, self._where = kind, where
        self._looked_at, self._known = -np.inf, 0

    @abstractmethod
    def count(self) -> int:
        """Others that are there."""

    def problem(self) -> str:
        """For ``/diagnostics``; empty if nobody else is there."""
        count, (kind, joint) = self.count(), self._kind.split()
        return f'{count} other {kind}s {joint} {self._where}' if count else ''

    def news(self, now: float) -> str:
        """What to hold for, when another came since the last look; else empty."""
        if now - self._looked_at < LOOK_EVERY_S:
            return ''
        self._looked_at = now
        known, self._known = self._known, self.count()
        if self._known <= known:
            return ''
        return (
            f'held: another {self._kind} {self._where}, expected this guard alone; end it, then '
            'call guard/resume'
        )


class Rivals(Others):
    """Other publishers of commands: none may be there at the start, a later one is news.

    Attributes:
        topic: of the commands, as remapped: publishers are counted by that name alone.
    """

    def __init__(self, node: Node, kind: type, topic: str, own: int = 1) -> None:
        """Listens to ``topic``, whose messages are of ``kind``; ``own`` publishers are known."""
        self._node, self.topic, self._own = node, node.resolve_topic_name(topic), own
        super().__init__('publisher on', self.topic)
        self._began = self._looked_at = monotonic()
        self._listener: Subscription | None = node.create_subscription(
            kind, topic, self._on_other, COMMAND
        )

    @property
    def is_clear(self) -> bool:
        """Whether nobody has been heard for long enough to start."""
        others = self._node.count_publishers(self.topic)
        return monotonic() - self._began > (LISTEN_LONGER_S if others else LISTEN_S)

    def stop_listening(self) -> None:
        """From now on the commands are the node's own."""
        self._known = self._node.count_publishers(self.topic)
        self.close()

    def close(self) -> None:
        """Listens no more."""
        if self._listener is not None:
            self._node.destroy_subscription(self._listener)
            self._listener = None

    def count(self) -> int:
        """Other publishers that are there."""
        return max(0, self._node.count_publishers(self.topic) - self._own)

    def _on_other(self, msg: object) -> None:
        raise ConfigError(
            f'expected to be the only publisher of {self.topic}, but commands come on it: is '
            'another guard up? End it, or choose another namespace or ROS_DOMAIN_ID'
        )


class OtherClients(Others):
    """Other clients of an action: a later one is news. What they ask for cannot be heard.

    rclpy counts them from ROS 2 Iron on; before, none is seen.
    """

    def __init__(self, node: Node, action: str) -> None:
        super().__init__('client of', action)
        self._node, self._service = node, f'{action}/_action/send_goal'

    def begin(self) -> None:
        """Those that are there now are no news."""
        self._known = self.count()

    def count(self) -> int:
        """Others that are there."""
        return max(0, count_clients(self._node, self._service) - 1)


class ClockJumps:
    """Stops the arm when ROS time jumps; stamps of the time before mean nothing after it.

    Attributes:
        reason: why every proposal is to be refused now; empty if none is.
    """

    def __init__(self, node: Node) -> None:
        threshold = JumpThreshold(
            min_forward=Duration(seconds=JUMP_S),
            min_backward=Duration(seconds=-BACK_S),
            on_clock_change=False,
        )
        self.reason = self._news = ''
        self._rest_since: float | None = None
        self._handle = node.get_clock().create_jump_callback(
            threshold, post_callback=self._on_jump
        )

    def watch(self, guard: Guard, now: float) -> None:
        """Stops ``guard`` after a jump; when the arm has rested it starts anew where it stands."""
        if self._news and guard.state is not GuardState.INACTIVE:
            self.reason = self._news
            guard.halt(self.reason)
        self._news = ''
        is_at_rest = guard.state in (GuardState.IDLE, GuardState.HOLDING)
        if not self.reason or not is_at_rest or guard.is_blocked or guard.command is None:
            self._rest_since = None
        elif self._rest_since is None:
            self._rest_since = now
        elif now - self._rest_since >= SETTLE_S:
            guard.reset(guard.command.position, now)
            self.reason = ''

    def close(self) -> None:
        """Watches no more."""
        self._handle.unregister()

    def _on_jump(self, jump: TimeJump) -> None:
        seconds = jump.delta.nanoseconds / 1e9
        direction = 'ahead' if seconds > 0.0 else 'back'
        self._news = f'clock: ROS time jumped {direction} by {abs(seconds):.2f} s'


def start_anew(guard: Guard, position: FloatArray, now: float, reason: str) -> bool:
    """Has ``guard`` take over the arm where it was measured, (J,) rad; whether it could."""
    was_blocked = guard.is_blocked
    try:
        guard.reset(position, now)
    except ValueError:  # joints that cannot be: better ones may come
        return False
    if was_blocked:
        guard.hold(f'held: it was blocked before; {reason}')
    else:
        guard.halt(reason)
    return True


class Pause:
    """Whether the process did not run for a while: SIGSTOP, or a machine that hung."""

    def __init__(self) -> None:
        self.reason = ''
        self._until = 0.0

    def see(self, gap: float, now: float) -> None:
        """Notes a gap (s) between two ticks."""
        if gap > PAUSE_S:
            self.reason = f'paused: the guard did not run for {gap:.2f} s'
            self._until = now + DRAIN_S

    def end(self, guard: Guard, sample: JointSample, now: float) -> None:
        """Has ``guard`` take over the arm anew where it stands, by a ``sample`` of now."""
        if now < self._until or not np.all(np.isfinite(sample.position)):
            return
        if start_anew(guard, sample.position, now, self.reason):
            self.reason = ''
