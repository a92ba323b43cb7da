"""Starts, watches and ends the processes of a graph where there is no ``ros2 launch``."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from .description import NodeSpec, simulation, with_parameters
from .environment import discovery_range, end_with_parent
from .log_folder import run_log_folder

if TYPE_CHECKING:
    from rclpy.node import Node

READY_TIMEOUT_S = 60.0
LOOK_AROUND_S = 0.5
"""How long other nodes are looked for; most are discovered in 0.05 to 0.2 s."""
LEASE_S = 22.0
"""How long a node that was killed is still seen, at most."""
POLL_S = 0.1
TELLS = signal.SIGUSR1
"""Asks a node where it is."""
ENDING = ((signal.SIGINT, 6.0), (signal.SIGTERM, 2.0), (TELLS, 0.5), (signal.SIGKILL, 2.0))
"""How a process is ended: signals in turn, with the seconds it is given after each. One that does
not end tells in its log where it hangs."""


class GraphError(RuntimeError):
    """The graph cannot be started or did not come up; the message names the node."""


class Supervisor:
    """Starts the processes of a graph, watches them, and ends them in reverse order.

    They end too when this process dies. As a context manager: started on entry, ended on exit.

    Attributes:
        processes: by node name, while they run.
        exit_codes: by node name, of those that ended.
    """

    def __init__(
        self,
        specs: Sequence[NodeSpec],
        namespace: str = '',
        log_dir: Path | None = None,
        watcher: Node | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            specs: the nodes, in the order in which they start.
            namespace: of all of them.
            log_dir: where their output goes; a folder of this run among ROS's logs if left out.
            watcher: a node in ``namespace`` that knows the graph already; one is made where it
                is needed if left out.
        """
        self._specs, self._namespace, self._watcher = specs, namespace, watcher
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
        """Starts all processes.

        Raises:
            GraphError: such a node is there already, or there can be no folder for the output.
        """
        self.check_free()
        try:
            self.log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GraphError(
                f'{self.log_dir}: expected to make this folder for the output of the nodes: '
                f'{error.strerror}; set ROS_LOG_DIR to one that can be written'
            ) from error
        for spec in self._specs:
            self.start_node(spec.name)

    def start_node(self, name: str) -> subprocess.Popen[bytes]:
        """Starts the process of one node, for the first time or again."""
        return self._start(next(s for s in self._specs if s.name == name))

    def respawn(self, name: str) -> bool:
        """Starts a node that ended by itself again, inactive, if that is how it is meant."""
        spec = next(s for s in self._specs if s.name == name)
        again = spec.again(time.monotonic() - self._started_at[name], self.exit_codes[name])
        if again is not None:
            self._start(again)
        return again is not None

    def _start(self, spec: NodeSpec) -> subprocess.Popen[bytes]:
        name = spec.name
        log = self._logs.setdefault(name, self.log_file(name).open('a'))
        process = subprocess.Popen(
            [sys.executable, '-m', f'jepa_arm.nodes.{name}', *spec.arguments(self._namespace)],
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

    def log_file(self, name: str) -> Path:
        """Where a node's output goes."""
        return self.log_dir / f'{name}.log'

    def wait_ready(self, timeout: float = READY_TIMEOUT_S) -> None:
        """Waits until every node is seen publishing.

        Raises:
            GraphError: one ended, or stayed silent.
        """
        deadline = time.monotonic() + timeout
        with self._look() as watcher:
            while True:
                self._check_running()
                silent = [s for s in self._specs if not _publishers(s, watcher)]
                if not silent:
                    return
                if time.monotonic() > deadline:
                    raise GraphError(self._silence(silent[0], timeout))
                time.sleep(POLL_S)

    def check_free(self) -> None:
        """Makes sure that no such node is on this ROS domain; waits for one that just died.

        Raises:
            GraphError: there is one, or there can be no such namespace.
        """
        _check_namespace(self._namespace.strip('/'))
        began, look_around = time.monotonic(), LOOK_AROUND_S if self._watcher is None else 0.0
        with self._look() as watcher:
            while True:
                taken = [s.name for s in self._specs if _publishers(s, watcher)]
                passed = time.monotonic() - began
                if not taken and passed >= look_around:
                    return
                if taken and passed > LEASE_S:
                    raise GraphError(
                        f'ROS domain {os.environ.get("ROS_DOMAIN_ID", "0")} already has a node '
                        f'{taken[0]} in {watcher.get_namespace()}; end it, or choose another '
                        'ROS_DOMAIN_ID or namespace'
                    )
                time.sleep(POLL_S)

    def ended(self) -> str | None:
        """Name of a node whose process has ended by itself."""
        for name, process in list(self.processes.items()):
            code = process.poll()
            if code is not None:
                self.exit_codes[name] = code
                del self.processes[name]
                return name
        return None

    def watch(self, duration: float | None = None) -> str | None:
        """Waits until a process ends (returns its node's name), or ``duration`` s have passed."""
        deadline = None if duration is None else time.monotonic() + duration
        while deadline is None or time.monotonic() < deadline:
            name = self.ended()
            if name is not None:
                return name
            time.sleep(POLL_S)
        return None

    def stop(self) -> None:
        """Ends what still runs, the last started first."""
        for name in reversed(list(self.processes)):
            self.exit_codes[name] = _end(self.processes.pop(name))
        for log in self._logs.values():
            log.close()
        self._logs.clear()

    def tail(self, name: str, lines: int = 15) -> str:
        """The last lines of a node's output; nothing of one that was never started."""
        path = self.log_file(name)
        text = path.read_text(errors='replace').splitlines() if path.exists() else []
        return '\n'.join(text[-lines:])

    def _look(self) -> AbstractContextManager[Node]:
        return _watcher(self._namespace) if self._watcher is None else nullcontext(self._watcher)

    def _check_running(self) -> None:
        name = self.ended()
        if name is not None:
            raise GraphError(
                f'{name} ended with exit code {self.exit_codes[name]}:\n{self.tail(name)}'
            )

    def _silence(self, spec: NodeSpec, timeout: float) -> str:
        return (
            f'{spec.name} runs but {spec.shows} was not seen in {timeout:.0f} s; its output '
            f'({self.log_file(spec.name)}):\n{self.tail(spec.name)}'
        )


def _check_namespace(name: str) -> None:
    from rclpy.exceptions import InvalidNamespaceException
    from rclpy.validate_namespace import validate_namespace

    try:
        validate_namespace(f'/{name}')
    except InvalidNamespaceException:
        raise GraphError(
            'namespace: expected words of letters, digits and _ that begin with a letter, a / '
            f'between them, got {name!r}'
        ) from None


def run_graph(args: argparse.Namespace) -> int:
    """``jepa-arm up``: starts the simulation and keeps it up until Ctrl-C; the exit code.

    The end of simulator or guard ends all: without them nothing may move.
    """
    nodes = simulation(
        args.arm,
        str(args.checkpoint),
        args.task,
        args.seed,
        gui=args.gui,
        dry_run=args.dry_run,
        controller=args.controller,
        guard_config=args.guard_config,
        namespace=args.namespace,
        with_planner=not args.no_planner,
    )
    specs = with_parameters(nodes, args.params_file, args.namespace)
    _end_on_signals()
    supervisor = Supervisor(specs, args.namespace)
    space = f'/{args.namespace.strip("/")}'.rstrip('/')
    print(f'starting {", ".join(s.name for s in specs)}; output: {supervisor.log_dir}')
    domain = os.environ.get('ROS_DOMAIN_ID', '0')
    print(f'ROS domain {domain}, discovery range {discovery_range()}')
    if args.domain_id is not None:
        told = f'--domain-id {args.domain_id} for jepa-arm record, doctor and view'
        print(f'elsewhere: {told}; export ROS_DOMAIN_ID={args.domain_id} for ros2')
    is_ready = False
    try:
        with supervisor:
            supervisor.wait_ready()
            is_ready = True
            way = 'publish on planner/joint_trajectory'
            if not args.no_planner:
                way = 'send a goal to the action move_to_goal'
            print(f'ready: {way}. Ctrl-C ends all.', flush=True)
            while True:
                name = str(supervisor.watch())
                code = supervisor.exit_codes[name]
                print(supervisor.tail(name))
                if not supervisor.respawn(name):
                    print(f'{name} ended with {code}; ending the others')
                    return 1
                print(
                    f'{name} ended with {code}; it is there again, inactive: activate it when the '
                    f'cause is known (ros2 lifecycle set {space}/{name} activate)',
                    flush=True,
                )
    except KeyboardInterrupt:
        if not is_ready:
            return 0  # a node that still imports has no handler for what ends it
        return max((abs(code) for code in supervisor.exit_codes.values()), default=0)
    except GraphError as error:
        print(f'jepa-arm up: {error}', file=sys.stderr)
        return 1


@contextmanager
def _watcher(namespace: str) -> Iterator[Node]:
    """A node in a context of its own that looks at the graph."""
    import rclpy
    from rclpy.context import Context

    context = Context()
    rclpy.init(context=context)
    try:
        node = rclpy.create_node('supervisor', context=context, namespace=namespace or None)
        try:
            yield node
        finally:
            node.destroy_node()  # before its context, or the process may crash at its end
    finally:
        rclpy.shutdown(context=context)


def _publishers(spec: NodeSpec, watcher: Node) -> int:
    """How many nodes of that name publish what the node shows once it works."""
    space = watcher.get_namespace()
    topic = f'{space.rstrip("/")}/{spec.shows}'
    infos = watcher.get_publishers_info_by_topic(topic)
    return sum((i.node_name, i.node_namespace) == (spec.name, space) for i in infos)


def _end(process: subprocess.Popen[bytes]) -> int:
    for number, patience in ENDING:
        process.send_signal(number)
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    raise GraphError(f'process {process.pid} cannot be ended')


def _end_on_signals() -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # SIGINT, too: in the background of a script it is ignored, and the nodes alone would end
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
