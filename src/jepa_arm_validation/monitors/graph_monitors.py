"""Graph monitors of the commands to the robot and of the memory of the processes."""

from __future__ import annotations

from time import monotonic
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.core.types import Command, FloatArray
from jepa_arm.robot.arm import Arm
from jepa_arm.ros.graph.supervisor import Supervisor
from jepa_arm.ros.runtime.node_contract import COMMAND_TOPIC
from jepa_arm.ros.runtime.process import resident_mb

from .stream_oracle import StreamOracle

MAX_GROWTH = 0.02
"""Share by which the memory of a process may grow after its warm-up."""
RESTART_VELOCITY = 1e-5
"""Velocity (rad/s) below which a jump of the command counts as a restart of the stream."""
RESTART_TOLERANCE_RAD = 1e-6
MOVING_VELOCITY = 1e-4
"""Velocity above which a command counts as motion, rad/s."""
MAX_EXAMPLES = 20
MIN_SAMPLES = 4


class CommandMonitor:
    """Monitor of every command that the robot gets.

    Attributes:
        commands: number of commands judged. lost: number of commands lost, by sequence numbers.
        restarts: number of jumps from rest to rest, each allowed only after a reset of the guard;
            compare with the number of resets.
        violations: number of violations. examples: the first ``MAX_EXAMPLES`` of them.
        position: (J,) rad, newest command; None before the first.
        moving_at: arrival (s, ``time.monotonic``) of the newest command that moves.
    """

    def __init__(self, node: Node, arm: Arm, dt: float, ignored_frame: str = '') -> None:
        """Subscribe to the robot's command topic.

        Args:
            node: node that subscribes.
            arm: arm whose limits apply. dt: s between commands.
            ignored_frame: ``frame_id`` of commands that are not the guard's; '': none.
        """
        self._arm, self._dt, self._ignored_frame = arm, dt, ignored_frame
        self._oracle = StreamOracle(arm, dt)
        self.commands = self.lost = self.restarts = self.violations = 0
        self.examples: list[str] = []
        self.position: FloatArray | None = None
        self.moving_at = -np.inf
        self._velocity: FloatArray | None = None
        self._number, self._is_first = -1, True
        qos = QoSProfile(depth=1000)
        node.create_subscription(JointTrajectory, COMMAND_TOPIC, self._on_command, qos)

    def findings(self, resets: int) -> list[str]:
        """Return the example violations, and any restarts in excess of the guard's ``resets``."""
        extra = self.restarts - resets
        jumps = [f'{extra} jumps of the command without a reset of the guard']
        return self.examples + jumps * (extra > 0)

    def _on_command(self, msg: JointTrajectory, info: Any) -> None:
        if self._ignored_frame and msg.header.frame_id == self._ignored_frame:
            return
        self.commands += 1
        width = len(self._arm.joint_names)
        points = msg.points
        if len(points) != 1 or {len(points[0].positions), len(points[0].velocities)} != {width}:
            self._add_violation(f'form: a command of {len(points)} points')
            return
        number = info['publication_sequence_number']
        if self._number >= 0:
            self.lost += max(0, number - self._number - 1)
        self._judge(np.array(points[0].positions), np.array(points[0].velocities), number)

    def _judge(self, position: FloatArray, velocity: FloatArray, number: int) -> None:
        """Judge the command with sequence ``number``, using differences to its predecessor only.

        After a lost message or a restart there is no predecessor to compare with.
        """
        is_next = number == self._number + 1 and self._velocity is not None
        if is_next and self._is_restart(position, velocity):
            self.restarts += 1
            is_next = False
        acceleration = np.zeros_like(velocity)
        if is_next and self._velocity is not None:  # the mean over a tick obeys the same limits
            acceleration = (velocity - self._velocity) / self._dt
        if self._is_first or not is_next:
            self._oracle.restart()
        for violation in self._oracle.judge(Command(position, velocity, acceleration)):
            self._add_violation(violation)
        self._is_first = not is_next
        if np.abs(velocity).max() > MOVING_VELOCITY:
            self.moving_at = monotonic()
        self.position, self._velocity, self._number = position, velocity, number

    def _is_restart(self, position: FloatArray, velocity: FloatArray) -> bool:
        """Return True if the command jumped from one rest position to another within one tick."""
        assert self.position is not None and self._velocity is not None
        is_at_rest = max(np.abs(velocity).max(), np.abs(self._velocity).max()) < RESTART_VELOCITY
        reachable = self._arm.jerk_limit * self._dt**3 / 6.0 + RESTART_TOLERANCE_RAD
        return bool(is_at_rest and np.any(np.abs(position - self.position) > reachable))

    def _add_violation(self, text: str) -> None:
        self.violations += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(f'command {self.commands}: {text}')


class MemoryMonitor:
    """Monitor of the resident memory of each process of a graph (Linux)."""

    def __init__(self, graph: Supervisor) -> None:
        self._graph = graph
        self._samples: dict[tuple[str, int], list[tuple[float, float]]] = {}

    def sample(self, at: float) -> None:
        """Record the memory of each process at time ``at``, in any unit that increases."""
        for name, process in self._graph.processes.items():
            used = resident_mb(process.pid)
            if used is not None:
                self._samples.setdefault((name, process.pid), []).append((at, used))

    def growth(self, warm_up: float, share: float = 0.1) -> dict[str, dict[str, float]]:
        """Return the memory (MB) after the warm-up and at the end, and the relative growth.

        A restarted process counts from its restart.

        Args:
            warm_up: end of the warm-up, in the unit of ``sample``.
            share: share of the time after the warm-up, at its start and at its end, over which
                the medians are taken.
        """
        figures = {}
        for (name, _), samples in self._samples.items():
            samples = [(at, mb) for at, mb in samples if at >= warm_up]
            if len(samples) < MIN_SAMPLES:
                continue
            begin, end = samples[0][0], samples[-1][0]
            span = (end - begin) * share
            first = float(np.median([mb for at, mb in samples if at <= begin + span]))
            last = float(np.median([mb for at, mb in samples if at >= end - span]))
            figures[name] = {
                'first_mb': round(first, 1),
                'last_mb': round(last, 1),
                'growth': round(last / first - 1.0, 4),
            }
        return figures


def excessive_growth(memory: dict[str, dict[str, float]]) -> list[str]:
    """Return a message for each process in ``MemoryMonitor.growth`` that grew too much."""
    return [f'memory of {name}: {m}' for name, m in memory.items() if m['growth'] > MAX_GROWTH]
