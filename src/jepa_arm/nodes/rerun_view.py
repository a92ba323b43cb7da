"""A graph in Rerun, in a window or in a file; ``jepa-arm view``. It only listens.

What cannot be shown is said and left out. Stamps are those of the messages: no clock is needed.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseArray
from jepa_arm_msgs.msg import GuardStatus, PlannerStatus
from rclpy.exceptions import InvalidNamespaceException
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from ..config import ConfigError
from ..types import GuardState
from . import conversions as convert
from .conversions import ConversionError, PlanMarker
from .environment import check_rerun, prepare_ros
from .executors import Beat
from .parameters import (
    SENSOR,
    STATUS,
    check_known,
    declare,
    declare_arm,
    declare_sim_config,
    load_arm,
    load_sim_config,
)
from .process import run

PERIOD_S = 0.04
"""How often what came is drawn; of joints and images that is the newest."""
MEMORY = '1GB'
"""Of what the window keeps; what is oldest is forgotten."""
WINDOW_S = 20.0
"""Longest wait for the window."""
CLOSE_S = 2.0
SUFFIX = '.rrd'
PLANNER_STATES = {
    getattr(PlannerStatus, name): name for name in ('IDLE', 'PLANNING', 'HOLDING', 'FAULT')
}
GUARD_STATES = {state.value: state.name for state in GuardState}
LEVELS = {'STOPPING': 'WARN', 'HOLDING': 'WARN', 'FAULT': 'ERROR', 'LATCHED': 'ERROR'}
"""Of what is said of a state; of the others it is INFO."""


class RerunView(Node):
    """Listens to one graph and draws it."""

    def __init__(self, namespace: str = '', **parameters: str) -> None:
        """In a ``namespace``, with ``parameters`` in place of those of the command line."""
        self._ends = ExitStack()
        given = [Parameter(name, value=value) for name, value in parameters.items()]
        space = namespace.strip('/') or None
        try:
            super().__init__('view', namespace=space, parameter_overrides=given)
        except InvalidNamespaceException as error:
            raise ConfigError(str(error).partition('\n')[0]) from None
        self._arm = load_arm(declare_arm(self))
        sim = load_sim_config(declare_sim_config(self))
        save = str(declare(self, 'save', '', f'file to write, *{SUFFIX}; empty: a window'))
        check_known(self)
        check_rerun()
        from .rerun_drawing import CANDIDATES, PATH, Drawing  # late: it needs Rerun

        self._strips = {PlanMarker.PATH: PATH, PlanMarker.CANDIDATES: CANDIDATES}
        self._said: dict[str, str] = {}
        path = _new_file(Path(save)) if save else None
        self._window = Window() if path is None else None
        if self._window is not None:
            self._ends.callback(self._window.close)
        self._drawing = Drawing(self._arm, sim.object_size)
        self._ends.callback(self._drawing.close)
        if path is not None:
            self._drawing.save(path)
            self.get_logger().info(f'records into {path}')
        elif self._window is not None:
            self._drawing.show(self._window.url)
        self._subscribe()

    def destroy_node(self) -> None:
        """Completes the file; closes the window."""
        self._ends.close()
        super().destroy_node()

    def _subscribe(self) -> None:
        beat = Beat(PERIOD_S, 0.0, self._on_beat)
        for kind, topic, draw, qos in (
            (JointState, 'joint_states', self._draw_joints, SENSOR),
            (Image, 'camera/image_raw', self._draw_image, SENSOR),
            (PoseArray, 'ground_truth/objects', self._draw_objects, SENSOR),
            (MarkerArray, 'planner/plan_markers', self._draw_markers, STATUS),
            (PlannerStatus, 'planner/status', self._draw_planner, STATUS),
            (GuardStatus, 'guard/status', self._draw_guard, STATUS),
        ):
            take = partial(self._draw_if_possible, draw, topic)
            self.create_subscription(kind, topic, take, qos, callback_group=beat)

    def _on_beat(self, take: Callable[[], None]) -> None:
        take()
        if self._window is not None and not self._window.is_open:
            signal.raise_signal(signal.SIGTERM)  # the user closed it

    def _draw_if_possible(self, draw: Callable[[Any], None], topic: str, msg: Any) -> None:
        try:
            draw(msg)
        except ConversionError as error:
            self.get_logger().warning(f'{topic}: {error}', throttle_duration_sec=5.0)

    def _draw_joints(self, msg: JointState) -> None:
        sample = convert.joints_from_msg(msg, self._arm.joint_names)
        if not np.all(np.isfinite(sample.position)):
            raise ConversionError('joint state: expected finite positions')
        self._drawing.arm(_stamp(msg), sample.position)

    def _draw_image(self, msg: Image) -> None:
        self._drawing.image(_stamp(msg), convert.image_from_msg(msg))

    def _draw_objects(self, msg: PoseArray) -> None:
        self._check_frame(msg)
        self._drawing.objects(_stamp(msg), convert.poses_from_msg(msg))

    def _draw_markers(self, msg: MarkerArray) -> None:
        for marker in msg.markers:
            if marker.action in (Marker.DELETE, Marker.DELETEALL):
                self._drawing.clear_plan()
                continue
            self._check_frame(marker)
            size, colour = marker.scale.x, _colour(marker.color)
            if not 0.0 <= size < np.inf:
                raise ConversionError(f'marker {marker.id}: expected a size, got {size}')
            if marker.id in self._strips:
                is_list = marker.type == Marker.LINE_LIST
                strips = _strips(convert.points_from_marker(marker), is_list)
                entity = self._strips[PlanMarker(marker.id)]
                self._drawing.strips(_stamp(marker), entity, strips, size, colour)
            elif marker.id == PlanMarker.GOAL:
                [(place, _)] = convert.poses_from_msg(PoseArray(poses=[marker.pose]))
                self._drawing.goal(_stamp(marker), place, size / 2.0, colour)

    def _draw_planner(self, msg: PlannerStatus) -> None:
        names = ('distance', 'predicted_distance', 'surprise', 'risk', 'plan_ms')
        stamp = _stamp(msg)
        self._drawing.scalars(stamp, {name: getattr(msg, name) for name in names})
        self._say(stamp, 'planner', PLANNER_STATES.get(msg.state, str(msg.state)), [msg.reason])

    def _draw_guard(self, msg: GuardStatus) -> None:
        stamp = _stamp(msg)
        self._drawing.scalars(stamp, {'obs_to_command_ms': msg.obs_to_command_ms})
        self._say(stamp, 'guard', GUARD_STATES.get(msg.state, str(msg.state)), msg.reasons)

    def _say(self, stamp: float, who: str, state: str, reasons: Sequence[str]) -> None:
        """Logs a state and its reasons when they change, by more than their numbers."""
        text = ': '.join(filter(None, [state, '; '.join(reasons)]))
        without_numbers = re.sub(r'[\d.]+', '', text)
        if self._said.get(who) != without_numbers:
            self._said[who] = without_numbers
            self._drawing.text(stamp, who, f'{who} {text}', LEVELS.get(state, 'INFO'))

    def _check_frame(self, msg: PoseArray | Marker) -> None:
        base, frame = self._arm.config.base_link, msg.header.frame_id
        if frame not in ('', base):
            raise ConversionError(f'expected the frame {base}, got {frame!r}')


class Window:
    """Rerun's own window, in a process of its own that hears this machine alone.

    ``rerun.spawn`` would look for its program in PATH and listen to the whole network.

    Attributes:
        url: where it takes what is to be shown.
    """

    def __init__(self) -> None:
        """Opens it.

        Raises:
            ConfigError: there is no display, or it did not open.
        """
        advice = f'give save (a file *{SUFFIX}) to record without a window'
        displays = os.environ.get('DISPLAY'), os.environ.get('WAYLAND_DISPLAY')
        if sys.platform == 'linux' and not any(displays):
            raise ConfigError(f'expected a display for the window, got none; {advice}')
        port = _free_port()
        self.url = f'rerun+http://127.0.0.1:{port}/proxy'
        options = ['--bind', '127.0.0.1', '--port', str(port), '--memory-limit', MEMORY]
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'rerun', *options],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the node, which closes it
        )
        deadline = monotonic() + WINDOW_S
        while not _is_listening(port):
            if not self.is_open or monotonic() > deadline:
                self.close()
                raise ConfigError(f'the window of Rerun did not open; {advice}')
            sleep(0.05)

    @property
    def is_open(self) -> bool:
        """Whether the user has not closed it."""
        return self._process.poll() is None

    def close(self) -> None:
        """Closes it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.is_open:
                os.killpg(self._process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(CLOSE_S)


def _stamp(msg: Any) -> float:
    """s of ROS time of a message with a header.

    Raises:
        ConversionError: before zero.
    """
    stamp = convert.to_seconds(msg.header.stamp)
    if stamp < 0.0:
        raise ConversionError(f'expected a stamp from 0 s, got {stamp}')
    return stamp


def _colour(colour: ColorRGBA) -> tuple[float, float, float, float]:
    parts = (colour.r, colour.g, colour.b, colour.a)
    if not np.all(np.isfinite(parts)):
        raise ConversionError(f'marker: expected a colour, got {parts}')
    return parts


def _strips(points: np.ndarray, is_list: bool) -> np.ndarray:
    """(N, P, 3) m, one strip through all ``points`` (P, 3), or one for each two of a list."""
    if is_list and len(points) % 2:
        raise ConversionError(f'marker: expected an even number of points, got {len(points)}')
    return points.reshape(-1, 2, 3) if is_list else points[None]


def _new_file(path: Path) -> Path:
    """``path``, in a folder that is there.

    Raises:
        ConfigError: it has another ending, is there already, or cannot be written.
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
    """Runs the view until a signal comes or its window is closed; ends the process.

    Args:
        name: for error messages. namespace, parameters: see ``RerunView``.
    """
    run(name, lambda: RerunView(namespace, **parameters))


def main() -> None:
    """Entry point of the executable."""
    prepare_ros()
    view('view')


if __name__ == '__main__':
    main()
