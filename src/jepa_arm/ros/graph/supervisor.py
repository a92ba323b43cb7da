"""Process supervisor: starts, watches and ends the processes of a graph."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rclpy.node import Node

from jepa_arm.ros.client import READY_S, GraphClient
from jepa_arm.ros.runtime.environment import end_with_parent, run_log_folder
from jepa_arm.ros.runtime.node_contract import DISCOVERY_LEASE_S, DUMP_STACKS_SIGNAL, GraphError

from .description import NodeSpec

DISCOVERY_S = 0.5
"""Shortest search for other nodes, s; most are discovered within 0.05 to 0.2 s."""
POLL_S = 0.1
END_SIGNALS = (
    (signal.SIGINT, 6.0),
    (signal.SIGTERM, 2.0),
    (DUMP_STACKS_SIGNAL, 0.5),
    (signal.SIGKILL, 2.0),
)
"""Signals sent in turn to end a process, each with the time in s to wait after it. A process that
hangs writes its stacks to its log before it is killed."""


class Supervisor:
    """Starts the processes of a graph, watches them, and ends them in reverse order.

    They also end when this process dies. As a context manager, it starts them on entry and ends
    them on exit.

    Attributes:
        processes: running processes by node name.
        exit_codes: exit codes of ended processes by node name.
        log_dir: folder with the output of each node.
    """

    def __init__(
        self,
        specs: Sequence[NodeSpec],
        namespace: str = '',
        log_dir: Path | None = None,
        observer: Node | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            specs: the nodes in the order in which they start.
            namespace: namespace of all nodes.
            log_dir: folder for their output; None for a new folder among the logs of ROS.
            observer: a node in ``namespace`` that has discovered the graph; None to create one
                whenever it is needed.
        """
        self._specs = {spec.name: spec for spec in specs}
        self._namespace, self._observer = namespace, observer
        self.log_dir = log_dir or run_log_folder()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.exit_codes: dict[str, int] = {}
        self._logs: dict[str, TextIO] = {}
        self._started_at: dict[str, float] = {}

    def __enter__(self) -> Supervisor:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start all processes.

        Raises:
            GraphError: one of the nodes already runs, or ``log_dir`` cannot be created.
        """
        self.check_no_duplicates()
        try:
            self.log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GraphError(
                f'{self.log_dir}: expected to make this folder for the output of the nodes: '
                f'{error.strerror}; set ROS_LOG_DIR to one that can be written'
            ) from error
        for spec in self._specs.values():
            self._start(spec)

    def start_node(self, name: str) -> subprocess.Popen[bytes]:
        """Start the process of one node, for the first time or again."""
        return self._start(self._specs[name])

    def respawn(self, name: str) -> bool:
        """Start an ended node again, inactive; return False if its description forbids it."""
        uptime = time.monotonic() - self._started_at[name]
        spec = self._specs[name].respawned(uptime, self.exit_codes[name])
        if spec is not None:
            self._start(spec)
        return spec is not None

    def log_file(self, name: str) -> Path:
        """Return the file with a node's output."""
        return self.log_dir / f'{name}.log'

    def tail(self, name: str, lines: int = 15) -> str:
        """Return the last lines of a node's output; '' if it was never started."""
        path = self.log_file(name)
        text = path.read_text(errors='replace').splitlines() if path.exists() else []
        return '\n'.join(text[-lines:])

    def wait_ready(self, timeout: float = READY_S) -> None:
        """Wait until every node publishes its ``ready_topic``.

        Raises:
            GraphError: a process ended, or a node did not publish in time.
        """
        deadline = time.monotonic() + timeout
        with self._observe() as observer:
            while True:
                self.check_running()
                silent = [s for s in self._specs.values() if not _is_publishing(s, observer)]
                if not silent:
                    return
                if time.monotonic() > deadline:
                    name, topic = silent[0].name, silent[0].ready_topic
                    raise GraphError(
                        f'{name} runs but {topic} was not published within {timeout:.0f} s; its '
                        f'output ({self.log_file(name)}):\n{self.tail(name)}'
                    )
                time.sleep(POLL_S)

    def check_no_duplicates(self) -> None:
        """Check that no node of this graph runs already; give one that just died time to vanish.

        Raises:
            GraphError: one of the nodes still runs, or the namespace is malformed.
        """
        began, minimum = time.monotonic(), DISCOVERY_S if self._observer is None else 0.0
        with self._observe() as observer:
            while True:
                taken = [s.name for s in self._specs.values() if _is_publishing(s, observer)]
                passed = time.monotonic() - began
                if not taken and passed >= minimum:
                    return
                if taken and passed > DISCOVERY_LEASE_S:
                    raise GraphError(
                        f'ROS domain {os.environ.get("ROS_DOMAIN_ID", "0")} already has a node '
                        f'{taken[0]} in {observer.get_namespace()}; end it, or choose another '
                        'ROS_DOMAIN_ID or namespace'
                    )
                time.sleep(POLL_S)

    def check_running(self) -> None:
        """Check that no process has ended by itself since the last check.

        Raises:
            GraphError: one has ended; the message holds its last output.
        """
        name = self.poll_ended()
        if name is not None:
            raise GraphError(
                f'{name} ended with exit code {self.exit_codes[name]}:\n{self.tail(name)}'
            )

    def poll_ended(self) -> str | None:
        """Return a node whose process has ended by itself, each node only once; else None."""
        for name, process in list(self.processes.items()):
            code = process.poll()
            if code is not None:
                self.exit_codes[name] = code
                del self.processes[name]
                return name
        return None

    def wait_ended(self, timeout: float = math.inf) -> str | None:
        """Return the name of the first node whose process ends, or None after ``timeout`` s."""
        deadline = time.monotonic() + timeout
        while (name := self.poll_ended()) is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return name

    def stop(self) -> None:
        """End all processes that still run, the last started first.

        Raises:
            GraphError: a process does not end; the others have been ended nevertheless.
        """
        remaining = []
        for name, process in reversed(list(self.processes.items())):
            code = _end(process)
            if code is None:
                remaining.append(f'{name} (process {process.pid})')
                continue
            self.exit_codes[name] = code
            del self.processes[name]
        for log in self._logs.values():
            log.close()
        self._logs.clear()
        if remaining:
            raise GraphError(f'expected all processes to end, still there: {", ".join(remaining)}')

    def _start(self, spec: NodeSpec) -> subprocess.Popen[bytes]:
        name = spec.name
        log = self._logs.setdefault(name, self.log_file(name).open('a'))
        process = subprocess.Popen(
            [sys.executable, '-m', f'jepa_arm.ros.{name}.node', *spec.arguments(self._namespace)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'PYTHONUNBUFFERED': '1'},
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends them in order
            preexec_fn=end_with_parent,
        )
        self.processes[name], self._started_at[name] = process, time.monotonic()
        self.exit_codes.pop(name, None)
        return process

    @contextmanager
    def _observe(self) -> Iterator[Node]:
        """Yield a ROS node to inspect the graph with: the given one, or a temporary one.

        Raises:
            GraphError: the namespace is malformed.
        """
        if self._observer is not None:
            yield self._observer
        else:
            with GraphClient('supervisor', self._namespace) as client:
                yield client.node


def _is_publishing(spec: NodeSpec, observer: Node) -> bool:
    """Return whether the node of ``spec`` publishes its ``ready_topic``."""
    space = observer.get_namespace()
    infos = observer.get_publishers_info_by_topic(f'{space.rstrip("/")}/{spec.ready_topic}')
    return any((i.node_name, i.node_namespace) == (spec.name, space) for i in infos)


def _end(process: subprocess.Popen[bytes]) -> int | None:
    """End a process with ``END_SIGNALS``; return its exit code, or None if it does not end."""
    for number, timeout in END_SIGNALS:
        process.send_signal(number)
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            continue
    return None
