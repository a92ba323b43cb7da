"""Process of a node: start, stop signals, real-time priority, memory."""

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
from functools import partial
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

from jepa_arm.config import ConfigError
from jepa_arm.robot.arm import ArmError

from .compat import change_state_if_valid
from .environment import end_with_starter
from .executors import PollingExecutor
from .node_contract import DUMP_STACKS_SIGNAL, EXIT_BAD_SETTING

N = TypeVar('N', bound=Node)

SETTING_ERRORS = (ConfigError, ArmError, FileNotFoundError, ParameterException)
"""Errors that mean a setting is invalid."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that stop a node in an orderly way; SIGHUP is sent when a terminal closes."""
SPIN_TIMEOUT_S = 0.1
M_MMAP_THRESHOLD = -3
"""Option of mallopt in glibc's malloc.h."""
LARGE_BYTES = 1_000_000


class StopRequest:
    """Flag that a stop signal sets; the ROS context stays valid for an orderly stop of the node.

    Attributes:
        is_set: whether one of ``STOP_SIGNALS`` was received.
    """

    def __init__(self) -> None:
        """Install the signal handlers."""
        self.is_set = False
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.is_set = True


def run_node(name: str, make: Callable[[], N], may_end: Callable[[N], bool] | None = None) -> None:
    """Run a node until a stop signal, then end the process.

    ``DUMP_STACKS_SIGNAL`` logs the stacks of all threads. The exit code is 0 after a stop signal
    and ``EXIT_BAD_SETTING``, with a one-line error, if a setting is invalid.

    Args:
        name: prefix of error messages.
        make: creates the node.
        may_end: called repeatedly after a stop signal while the node keeps running, until it
            returns True; here the node stops in an orderly way.
    """
    try:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # RCLError, which rclpy does not export
        print(f'{name}: {_argument_error(error)}', file=sys.stderr)
        sys.exit(EXIT_BAD_SETTING)
    stop = StopRequest()
    faulthandler.register(DUMP_STACKS_SIGNAL)
    end_with_starter()
    node = executor = None
    try:
        node = make()
        tolerate_invalid_requests(node)
        gc.collect()
        gc.freeze()  # exempt existing objects: a full collection costs a control tick or two
        executor = PollingExecutor()
        executor.add_node(node)
        while not stop.is_set or (may_end is not None and not may_end(node)):
            executor.spin_once(timeout_sec=SPIN_TIMEOUT_S)
    except (ExternalShutdownException, KeyboardInterrupt):
        pass
    except SETTING_ERRORS as error:
        print(f'{name}: {error}', file=sys.stderr, flush=True)
        if node is not None:
            for publisher in list(node.publishers):
                node.destroy_publisher(publisher)
        # no further cleanup: Fast DDS may crash if it is shut down while it discovers other nodes
        os._exit(EXIT_BAD_SETTING)
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        if executor is not None:
            executor.shutdown(timeout_sec=SPIN_TIMEOUT_S)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    sys.stdout.flush()
    os._exit(0)  # without finalisers: entities that outlive the middleware may crash the process


def _argument_error(error: RuntimeError) -> str:
    """Return rcl's error on invalid arguments without its source locations."""
    text = str(error).removeprefix('failed to initialize rcl: ').partition('\n')[0]
    return f'arguments after --ros-args cannot be used: {re.sub(r", at [^ ,]+:[0-9]+", "", text)}'


def tolerate_invalid_requests(node: Node) -> None:
    """Wrap rclpy's own callbacks so that three kinds of invalid messages do not end the process.

    These are a negative ``/clock``, a parameter of an undefined type and, before Kilted, a
    lifecycle transition that the current state does not have.
    """
    clock = node.resolve_topic_name('/clock')  # may be remapped
    for subscription in node.subscriptions:
        if subscription.topic_name == clock:
            subscription.callback = partial(_set_clock, subscription.callback)
    for service in node.services:
        if service.srv_type in (SetParameters, SetParametersAtomically):
            service.callback = partial(_set_parameters, service.callback)
        elif service.srv_type is ChangeState:
            service.callback = partial(change_state_if_valid, service.callback)


def _set_clock(callback: Callable[..., None], msg: ClockMsg) -> None:
    if msg.clock.sec >= 0:
        callback(msg)


def _set_parameters(callback: Callable[[Any, Any], Any], request: Any, response: Any) -> Any:
    for each in request.parameters:
        if each.value.type > ParameterType.PARAMETER_STRING_ARRAY:
            each.value = ParameterValue()  # not set: rclpy refuses it with a reason
    return callback(request, response)


def set_realtime_priority(node: Node, priority: int) -> None:
    """Schedule this thread before all normal processes (SCHED_FIFO ``priority``); 0 does nothing.

    Without the permission (``ulimit -r``) the thread stays normal: ticks are late on a busy
    machine.
    """
    if priority == 0:
        return
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (AttributeError, OSError) as error:
        node.get_logger().info(f'running without real-time priority: {error}')


def return_freed_memory() -> None:
    """Make glibc return freed blocks of ``LARGE_BYTES`` or more to the system at once.

    By default it keeps up to 64 MB per arena after a large block was freed. Unsuitable for a
    process that allocates large arrays all the time, each of which then costs page faults.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def create_steady_timer(
    node: Node, period: float, phase: float, callback: Callable[[], None]
) -> Timer:
    """Return a timer that fires when the steady clock modulo ``period`` equals ``phase`` (s).

    Different phases keep nodes on one machine apart: the guard sends its commands half a period
    before the virtual arm takes them.
    """
    clock = Clock(clock_type=ClockType.STEADY_TIME)
    time.sleep((phase - clock.now().nanoseconds / 1e9) % period)
    return node.create_timer(period, lambda: callback(), clock=clock)


def resident_mb(pid: int) -> float | None:
    """Return the resident memory of a process in MB; None if it ended."""
    try:
        with open(f'/proc/{pid}/status') as file:
            fields = dict(line.split(':', 1) for line in file if ':' in line)
        return int(fields['VmRSS'].split()[0]) / 1024.0
    except (OSError, KeyError):
        return None
