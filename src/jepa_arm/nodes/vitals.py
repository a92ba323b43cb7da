"""What a running graph must keep however it is treated: limits of commands, memory, processes."""

from __future__ import annotations

from time import monotonic
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile
from trajectory_msgs.msg import JointTrajectory

from ..arm import Arm
from ..fuzzing.oracle import StreamOracle
from ..types import Command, FloatArray
from .graph import Supervisor
from .parameters import COMMAND_TOPIC
from .process import resident_mb

GROWTH = 0.02
"""Share by which a process's memory may grow after its warm-up."""
STILL = 1e-5
"""rad/s below which a command is at rest."""
ROUNDING_RAD = 1e-6
AT_REST = 1e-4
"""rad/s."""
KEPT = 20


class CommandWatch:
    """Judges every command that the guard sends, as the robot gets it.

    Attributes:
        commands: judged so far. unseen: lost on the way here, by their numbers.
        jumps: how often the stream began anew elsewhere, which it may only after a reset of the
            guard: compare with the number of those.
        wrong: the first violations. count: of all of them.
        position: (J,) rad, the newest command; None before the first.
        moving_at: s, steady clock, when the newest command with a velocity came.
    """

    def __init__(self, node: Node, arm: Arm, dt: float, foreign: str = '') -> None:
        """Listens from now on.

        Args:
            node: to listen with. arm: whose limits count. dt: s between commands.
            foreign: frame of commands that are not the guard's; '' if there are none.
        """
        self._arm, self._dt, self._foreign = arm, dt, foreign
        self._oracle = StreamOracle(arm, dt)
        self.commands = self.unseen = self.jumps = self.count = 0
        self.wrong: list[str] = []
        self.position: FloatArray | None = None
        self._velocity: FloatArray | None = None
        self._number, self._is_first = -1, True
        self.moving_at = -np.inf
        qos = QoSProfile(depth=1000)
        node.create_subscription(JointTrajectory, COMMAND_TOPIC, self._on_command, qos)

    def _on_command(self, msg: JointTrajectory, info: Any) -> None:
        if self._foreign and msg.header.frame_id == self._foreign:
            return
        self.commands += 1
        width = len(self._arm.joint_names)
        points = msg.points
        if len(points) != 1 or {len(points[0].positions), len(points[0].velocities)} != {width}:
            self._note(f'form: a command of {len(points)} points')
            return
        number = info['publication_sequence_number']
        if self._number >= 0:
            self.unseen += max(0, number - self._number - 1)
        self._judge(np.array(points[0].positions), np.array(points[0].velocities), number)

    def _judge(self, position: FloatArray, velocity: FloatArray, number: int) -> None:
        """Differences are only taken between commands that follow each other."""
        follows = number == self._number + 1 and self._velocity is not None
        if follows and self._begins_anew(position, velocity):
            self.jumps += 1
            follows = False
        acceleration = np.zeros_like(velocity)
        if follows and self._velocity is not None:  # the mean over the tick keeps the same limits
            acceleration = (velocity - self._velocity) / self._dt
        if self._is_first or not follows:
            self._oracle.restart()
        for text in self._oracle.judge(Command(position, velocity, acceleration)):
            self._note(text)
        self._is_first = not follows
        if np.abs(velocity).max() > AT_REST:
            self.moving_at = monotonic()
        self.position, self._velocity, self._number = position, velocity, number

    def _begins_anew(self, position: FloatArray, velocity: FloatArray) -> bool:
        """Whether the commands went elsewhere from rest to rest in one tick: after a reset."""
        assert self.position is not None and self._velocity is not None
        is_still = max(np.abs(velocity).max(), np.abs(self._velocity).max()) < STILL
        within_limits = self._arm.jerk_limit * self._dt**3 / 6.0 + ROUNDING_RAD
        return bool(is_still and np.any(np.abs(position - self.position) > within_limits))

    def _note(self, text: str) -> None:
        self.count += 1
        if len(self.wrong) < KEPT:
            self.wrong.append(f'command {self.commands}: {text}')


class MemoryLog:
    """Memory of each process of a graph over time, from /proc (Linux)."""

    def __init__(self, graph: Supervisor) -> None:
        self._graph = graph
        self._samples: dict[tuple[str, int], list[tuple[float, float]]] = {}

    def sample(self, at: float) -> None:
        """Notes what each process uses now, at ``at`` (of any unit that grows)."""
        for name, process in self._graph.processes.items():
            used = resident_mb(process.pid)
            if used is not None:
                self._samples.setdefault((name, process.pid), []).append((at, used))

    def growth(self, warm: float, share: float = 0.1) -> dict[str, dict[str, float]]:
        """MB by node after ``warm`` and at the end, and the share by which it grew.

        Each is the median over ``share`` of the time between; a process that was started again
        counts from then on.
        """
        out = {}
        for (name, _), samples in self._samples.items():
            late = [(at, mb) for at, mb in samples if at >= warm]
            if len(late) < 4:
                continue
            span = (late[-1][0] - late[0][0]) * share
            first = float(np.median([mb for at, mb in late if at <= late[0][0] + span]))
            last = float(np.median([mb for at, mb in late if at >= late[-1][0] - span]))
            out[name] = {
                'first_mb': round(first, 1),
                'last_mb': round(last, 1),
                'growth': round(last / first - 1.0, 4),
            }
        return out
