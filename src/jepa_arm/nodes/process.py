"""How every node's process starts, runs and ends."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import rclpy
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.clock import Clock, ClockType  # pyright: ignore[reportPrivateImportUsage]
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.timer import Timer
from rosgraph_msgs.msg import Clock as ClockMsg

from ..arm import ArmError
from ..config import ConfigError
from .compat import refusing_what_cannot_be
from .description import SETTING_REFUSED
from .environment import end_with_starter
from .executors import SparingExecutor
from .graph import TELLS

N = TypeVar('N', bound=Node)

BAD_SETTING = (ConfigError, ArmError, FileNotFoundError, ParameterException)
POLL_S = 0.1
M_MMAP_THRESHOLD = -3
"""Number of the option in glibc's malloc.h."""
LARGE = 1_000_000
"""Bytes."""


ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a node in order; the last comes when a terminal is closed."""


class Ending:
    """Whether one of ``ENDS`` came; the context stays valid, so that a node can end in order."""

    def __init__(self) -> None:
        self.is_wanted = False
        for number in ENDS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.is_wanted = True


def run(
    name: str,
    make: Callable[[], N],
    may_end: Callable[[N], bool] | None = None,
) -> None:
    """Runs the node of ``make`` until one of ``ENDS``; ends the process.

    ``TELLS`` has it write to its log where each of its threads is, and go on. Exit code 0 after a
    signal, ``SETTING_REFUSED`` with one clear line for a setting that cannot
    be used.

    Args:
        name: for error messages.
        make: builds the node.
        may_end: called repeatedly once a signal came, with the node still running, until it
            returns True: the place for an ordered stop.
    """
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # rcl's, whose class is not public
        print(f'{name}: {_argument_problem(error)}', file=sys.stderr)
        sys.exit(SETTING_REFUSED)
    ending = Ending()
    faulthandler.register(TELLS)
    end_with_starter()
    node = executor = None
    try:
        node = make()
        harden(node)
        gc.collect()
        gc.freeze()  # what is here stays: looking through it costs a tick or two
        executor = SparingExecutor()
        executor.add_node(node)
        while not ending.is_wanted or (may_end is not None and not may_end(node)):
            executor.spin_once(timeout_sec=POLL_S)
    except (ExternalShutdownException, KeyboardInterrupt):
        pass
    except BAD_SETTING as error:
        print(f'{name}: {error}', file=sys.stderr)
        sys.exit(SETTING_REFUSED)
    finally:
        for number in ENDS:
            signal.signal(number, signal.SIG_IGN)
        if executor is not None:
            executor.shutdown(timeout_sec=POLL_S)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        gc.unfreeze()


def _argument_problem(error: RuntimeError) -> str:
    """What rcl says of arguments that it cannot use, without the places in its source."""
    text = str(error).removeprefix('failed to initialize rcl: ').partition('\n')[0]
    return f'arguments after --ros-args cannot be used: {re.sub(r", at [^ ,]+:[0-9]+", "", text)}'


def harden(node: Node) -> None:
    """Keeps three messages from ending the process, at which rclpy's own callbacks raise.

    They are a ``/clock`` before zero, a parameter of a type that does not exist and, before
    Kilted, a change of the lifecycle that its state does not allow.
    """
    clock = node.resolve_topic_name('/clock')  # as remapped
    for subscription in node.subscriptions:
        if subscription.topic_name == clock:
            subscription.callback = _without_negative_time(subscription.callback)
    for service in node.services:
        if service.srv_type in (SetParameters, SetParametersAtomically):
            service.callback = _without_unknown_types(service.callback)
        elif service.srv_type is ChangeState:
            service.callback = refusing_what_cannot_be(service.callback)


def _without_negative_time(take: Callable[..., None]) -> Callable[[ClockMsg], None]:
    def take_if_possible(msg: ClockMsg) -> None:
        if msg.clock.sec >= 0:
            take(msg)

    return take_if_possible


def _without_unknown_types(answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def answer_to_known(request: Any, response: Any) -> Any:
        for parameter in request.parameters:
            if parameter.value.type > ParameterType.PARAMETER_STRING_ARRAY:
                parameter.value = ParameterValue()  # not set: refused by rclpy, with a reason
        return answer(request, response)

    return answer_to_known


def use_real_time(node: Node, priority: int) -> None:
    """Runs this thread with ``priority`` before all normal processes (SCHED_FIFO); 0: as one.

    Where the user may not (see ``ulimit -r``) the thread stays normal, and ticks come late on a
    busy machine.
    """
    if priority == 0:
        return
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (AttributeError, OSError) as error:
        node.get_logger().info(f'runs without real-time priority: {error}')


def return_large_memory() -> None:
    """Gives memory of ``LARGE`` or more back to the system as soon as it is free (glibc).

    Left alone, glibc keeps up to 64 MB in each arena once something large was freed. Not for a
    process that needs large arrays all the time: each costs page faults then.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE)


def steady_timer(node: Node, period: float, phase: float, callback: Callable[[], None]) -> Timer:
    """A timer on the steady clock that fires where the clock is ``phase`` s past whole periods.

    Nodes on one machine with different phases do not meet: the guard commands half a period
    before the virtual arm looks.
    """
    clock = Clock(clock_type=ClockType.STEADY_TIME)
    time.sleep((phase - clock.now().nanoseconds / 1e9) % period)
    return node.create_timer(period, lambda: callback(), clock=clock)


def resident_mb(pid: int) -> float | None:
    """MB of memory a process uses; None if it is gone."""
    try:
        with open(f'/proc/{pid}/status') as file:
            fields = dict(line.split(':', 1) for line in file if ':' in line)
        return int(fields['VmRSS'].split()[0]) / 1024.0
    except (OSError, KeyError):
        return None
