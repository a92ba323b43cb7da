"""Viewer: shows a graph in Rerun, in a window or in a file, for ``jepa-arm view``.

It only listens. Messages that cannot be shown are left out with a warning. They are shown at their
own stamps, so that no clock is needed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from geometry_msgs.msg import PoseArray
from jepa_arm_msgs.msg import GuardStatus, PlannerStatus
from rclpy.exceptions import InvalidNamespaceException
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from visualization_msgs.msg import MarkerArray

from jepa_arm.config import ConfigError
from jepa_arm.ros.runtime.conversions import ConversionError
from jepa_arm.ros.runtime.environment import prepare_ros, require_rerun
from jepa_arm.ros.runtime.executors import PollingGroup
from jepa_arm.ros.runtime.parameters import (
    ArmSettings,
    declared_settings,
    load_arm,
    load_sim_config,
    parameter,
)
from jepa_arm.ros.runtime.process import run_node
from jepa_arm.ros.runtime.qos import SENSOR_QOS, STATUS_QOS

PERIOD_S = 0.04
"""Period at which messages are drawn; of joints and images, only the newest."""
MEMORY_LIMIT = '1GB'
"""Memory limit of the window, which then drops its oldest data."""
OPEN_S = 20.0
"""Longest wait for the window to open."""
CLOSE_S = 2.0
SUFFIX = '.rrd'


@dataclass(frozen=True)
class ViewSettings(ArmSettings):
    """Values of the node's parameters."""

    save: str = parameter('', f'file to write, *{SUFFIX}; empty: show a window')


class RerunView(Node):
    """Node that listens to one graph and draws it."""

    def __init__(self, namespace: str = '', **parameters: str) -> None:
        """Open the window or the file.

        Args:
            namespace: namespace of the graph.
            parameters: ROS parameters that override those of the command line.

        Raises:
            ConfigError: the namespace or a parameter cannot be used, or there is no display.
        """
        self._cleanup = ExitStack()
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        space = namespace.strip('/') or None
        try:
            super().__init__('view', namespace=space, parameter_overrides=overrides)
        except InvalidNamespaceException as error:
            raise ConfigError(str(error).partition('\n')[0]) from None
        settings = declared_settings(self, ViewSettings)
        arm, sim = load_arm(settings.arm), load_sim_config(settings.sim_config)
        require_rerun()
        from .rerun_drawing import RerunDrawing  # imports Rerun

        self._window = None
        if settings.save:
            target = _new_file(Path(settings.save))
            self.get_logger().info(f'records into {target}')
        else:
            self._window = RerunWindow()
            self._cleanup.callback(self._window.close)
            target = self._window.url
        self._drawing = RerunDrawing(arm, sim.object_size, target)
        self._cleanup.callback(self._drawing.close)
        self._subscribe()

    def destroy_node(self) -> None:
        """Complete the file or close the window."""
        self._cleanup.close()
        super().destroy_node()

    def _subscribe(self) -> None:
        polling_group = PollingGroup(PERIOD_S, 0.0, self._on_poll)
        drawing = self._drawing
        for kind, topic, draw, qos in (
            (JointState, 'joint_states', drawing.draw_joints, SENSOR_QOS),
            (Image, 'camera/image_raw', drawing.draw_image, SENSOR_QOS),
            (PoseArray, 'ground_truth/objects', drawing.draw_objects, SENSOR_QOS),
            (MarkerArray, 'planner/plan_markers', drawing.draw_markers, STATUS_QOS),
            (PlannerStatus, 'planner/status', drawing.draw_planner, STATUS_QOS),
            (GuardStatus, 'guard/status', drawing.draw_guard, STATUS_QOS),
        ):
            take = partial(self._draw_if_possible, draw, topic)
            self.create_subscription(kind, topic, take, qos, callback_group=polling_group)

    def _on_poll(self, take: Callable[[], None]) -> None:
        take()
        if self._window is not None and not self._window.is_open:
            signal.raise_signal(signal.SIGTERM)  # the user has closed it

    def _draw_if_possible(self, draw: Callable[[Any], None], topic: str, msg: Any) -> None:
        try:
            draw(msg)
        except ConversionError as error:
            self.get_logger().warning(f'{topic}: {error}', throttle_duration_sec=5.0)


class RerunWindow:
    """Rerun's own window, in a separate process that accepts data from this machine only.

    ``rerun.spawn`` would look for its program in PATH and listen to the whole network.

    Attributes:
        url: URL at which the window receives data.
    """

    def __init__(self) -> None:
        """Open the window.

        Raises:
            ConfigError: there is no display, or the window does not open.
        """
        advice = f'give save (a file *{SUFFIX}) to record without a window'
        displays = os.environ.get('DISPLAY'), os.environ.get('WAYLAND_DISPLAY')
        if sys.platform == 'linux' and not any(displays):
            raise ConfigError(f'expected a display for the window, got none; {advice}')
        port = _free_port()
        self.url = f'rerun+http://127.0.0.1:{port}/proxy'
        options = ['--bind', '127.0.0.1', '--port', str(port), '--memory-limit', MEMORY_LIMIT]
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'rerun', *options],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the node, which closes it
        )
        deadline = monotonic() + OPEN_S
        while not _is_listening(port):
            if not self.is_open or monotonic() > deadline:
                self.close()
                raise ConfigError(f'the window of Rerun did not open; {advice}')
            sleep(0.05)

    @property
    def is_open(self) -> bool:
        """Return whether the window is open: the user may close it."""
        return self._process.poll() is None

    def close(self) -> None:
        """Close the window."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.is_open:
                os.killpg(self._process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(CLOSE_S)


def _new_file(path: Path) -> Path:
    """Create the file ``path`` with its folders and return it.

    Raises:
        ConfigError: the file has another suffix, exists, or cannot be created.
    """
    if path.suffix != SUFFIX:
        raise ConfigError(f'save: expected a file *{SUFFIX}, got {path}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=False)
    except OSError as error:
        raise ConfigError(f'save: {path} cannot be made: {error.strerror}') from None
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(('127.0.0.1', port)) == 0


def view(name: str, namespace: str = '', **parameters: str) -> None:
    """Run the viewer until a signal comes or its window is closed, then end the process.

    Args:
        name: prefix of error messages.
        namespace, parameters: see ``RerunView``.
    """
    run_node(name, lambda: RerunView(namespace, **parameters))


def main() -> None:
    """Run the executable ``jepa_arm_view``."""
    prepare_ros()
    view('view')


if __name__ == '__main__':
    main()
