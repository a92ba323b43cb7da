"""Rerun drawing: draws the messages of a graph; the only module that imports Rerun.

Entities: ``arm``, ``camera/image``, ``plan/path``, ``plan/candidates``, ``plan/goal``,
``workspace`` and ``object`` in the arm's base frame, ``status/...`` for plots and ``log/...`` for
texts. Their only timeline is ``TIMELINE``, with the stamps of the messages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import rerun as rr
import rerun.blueprint as rrb
from geometry_msgs.msg import PoseArray
from jepa_arm_msgs.msg import GuardStatus, PlannerStatus
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import ColorRGBA
from transforms3d.quaternions import mat2quat
from visualization_msgs.msg import Marker, MarkerArray

from jepa_arm.core.types import FloatArray, GuardState
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.camera import intrinsics, optical_pose
from jepa_arm.robot.collision import CollisionModel, CollisionShape
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.conversions import ConversionError, PlanMarker

TIMELINE = 'ros_time'
IMAGE = 'camera/image'
STRIPS = {PlanMarker.PATH: 'plan/path', PlanMarker.CANDIDATES: 'plan/candidates'}
"""Entities of the markers that are lines."""
PLOTS = {
    'distance, m': ('status/distance', 'status/predicted_distance'),
    'surprise and risk': ('status/surprise', 'status/risk'),
    'ms': ('status/plan_ms', 'status/obs_to_command_ms'),
}
"""Entities of each plot, by its title."""
ARM_COLOUR = (175, 180, 190)
OBJECT_COLOUR = (240, 140, 40)
WORKSPACE_COLOUR = (150, 150, 150)
IMAGE_DISTANCE_M = 0.15
"""Distance from the camera at which the image is shown in space."""
FLUSH_S = 5.0
PLANNER_STATES = {getattr(PlannerStatus, name): name for name in ('IDLE', 'PLANNING', 'HOLDING')}
GUARD_STATES = {state.value: state.name for state in GuardState}
LEVELS = {'STOPPING': 'WARN', 'HOLDING': 'WARN', 'LATCHED': 'ERROR'}
"""Log levels of states; INFO for the others."""


class RerunDrawing:
    """A Rerun recording, in a file or a window, into which messages are drawn.

    Each method that draws raises a ``ConversionError`` for a message that it cannot draw.
    """

    def __init__(self, arm: Arm, object_size: float, target: Path | str) -> None:
        """Begin to draw.

        Args:
            arm: whose joints, camera and workspace are drawn.
            object_size: m, edge length of the cubes that represent objects.
            target: path of a new file, or URL at which a window receives data.
        """
        self._arm, self._scene, self._object_size = arm, CollisionModel(arm), object_size
        self._shapes = _by_kind(self._scene)
        self._last_text: dict[str, str] = {}
        self._has_begun = False
        self._recording = rr.RecordingStream('jepa_arm', recording_id=uuid4())
        self._recording.set_log_time_enabled(False)
        self._recording.set_log_tick_enabled(False)
        if isinstance(target, Path):
            self._recording.save(target, default_blueprint=_layout())
        else:
            self._recording.connect_grpc(target, default_blueprint=_layout())
        self._draw_static()

    def close(self) -> None:
        """Flush to the file or the window; the window may have been closed."""
        with suppress(RuntimeError):
            self._recording.flush(timeout_sec=FLUSH_S)
        self._recording.disconnect()

    def draw_joints(self, msg: JointState) -> None:
        """Draw the arm's collision shapes."""
        sample = convert.joints_from_msg(msg, self._arm.joint_names)
        if not np.all(np.isfinite(sample.position)):
            raise ConversionError('joint state: expected finite positions')
        poses = self._scene.shape_poses(sample.position)
        for kind, rows in self._shapes.items():
            shapes = [self._scene.shapes[i] for i in rows]
            self._log(msg, f'arm/{kind}', _solids(kind, shapes, poses[rows]))

    def draw_image(self, msg: Image) -> None:
        """Draw the camera image."""
        self._log(msg, IMAGE, rr.Image(convert.image_from_msg(msg), color_model='RGB'))

    def draw_objects(self, msg: PoseArray) -> None:
        """Draw a cube at each pose."""
        self._check_frame(msg)
        poses = convert.poses_from_msg(msg)
        boxes = rr.Boxes3D(
            half_sizes=[[self._object_size / 2.0] * 3] * len(poses),
            centers=[position for position, _ in poses],
            quaternions=[quaternion for _, quaternion in poses],
            colors=OBJECT_COLOUR,
            fill_mode='solid',
        )
        self._log(msg, 'object', boxes)

    def draw_markers(self, msg: MarkerArray) -> None:
        """Draw the plan's path, its candidates and the goal; a DELETE marker removes them."""
        for marker in msg.markers:
            if marker.action not in (Marker.DELETE, Marker.DELETEALL):
                self._draw_marker(marker)
            elif self._has_begun:  # without a time it would apply to all times
                self._recording.log('plan', rr.Clear(recursive=True))

    def draw_planner(self, msg: PlannerStatus) -> None:
        """Plot the planner's estimates and log its state."""
        self._plot(msg, 'distance', 'predicted_distance', 'surprise', 'risk', 'plan_ms')
        state = PLANNER_STATES.get(msg.state, str(msg.state))
        self._log_state(msg, 'planner', state, [msg.reason])

    def draw_guard(self, msg: GuardStatus) -> None:
        """Plot the guard's latency and log its state."""
        self._plot(msg, 'obs_to_command_ms')
        self._log_state(msg, 'guard', GUARD_STATES.get(msg.state, str(msg.state)), msg.reasons)

    def _draw_marker(self, marker: Marker) -> None:
        self._check_frame(marker)
        size, colour = marker.scale.x, _rgba(marker.color)
        if not 0.0 <= size < np.inf:
            raise ConversionError(f'marker {marker.id}: expected a size, got {size}')
        if marker.id in STRIPS:
            lines = rr.LineStrips3D(_strips(marker), radii=size / 2.0, colors=colour)
            self._log(marker, STRIPS[PlanMarker(marker.id)], lines)
        elif marker.id == PlanMarker.GOAL:
            [(place, _)] = convert.poses_from_msg(PoseArray(poses=[marker.pose]))
            sphere = rr.Ellipsoids3D(
                centers=[place], radii=[size / 2.0], colors=colour, fill_mode='solid'
            )
            self._log(marker, 'plan/goal', sphere)

    def _plot(self, msg: PlannerStatus | GuardStatus, *names: str) -> None:
        """Plot fields of a message; NaN values are left out."""
        for name in names:
            value = getattr(msg, name)
            if np.isfinite(value):
                self._log(msg, f'status/{name}', rr.Scalars(value))

    def _log_state(self, msg: Any, node: str, state: str, reasons: Sequence[str]) -> None:
        """Log a node's state and reasons, unless only numbers in the text have changed."""
        text = ': '.join(filter(None, [state, '; '.join(reasons)]))
        without_numbers = re.sub(r'[\d.]+', '', text)
        if self._last_text.get(node) != without_numbers:
            self._last_text[node] = without_numbers
            level = LEVELS.get(state, 'INFO')
            self._log(msg, f'log/{node}', rr.TextLog(f'{node} {text}', level=level))

    def _check_frame(self, msg: PoseArray | Marker) -> None:
        base, frame = self._arm.config.base_link, msg.header.frame_id
        if frame not in ('', base):
            raise ConversionError(f'expected the frame {base}, got {frame!r}')

    def _log(self, msg: Any, entity: str, drawn: Any) -> None:
        """Log ``drawn`` at the stamp of ``msg``."""
        stamp = convert.to_seconds(msg.header.stamp)
        if stamp < 0.0:
            raise ConversionError(f'expected a stamp from 0 s, got {stamp}')
        self._recording.set_time(TIMELINE, timestamp=stamp)
        self._recording.log(entity, drawn)
        self._has_begun = True

    def _draw_static(self) -> None:
        """Draw what does not move: the vertical, the camera and the workspace."""
        recording, arm, camera = self._recording, self._arm, self._arm.config.camera
        recording.log('/', rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        pose = optical_pose(camera)
        place = rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3])
        recording.log('camera', place, static=True)
        pinhole = rr.Pinhole(
            image_from_camera=intrinsics(camera),
            resolution=(camera.width, camera.height),
            image_plane_distance=IMAGE_DISTANCE_M,
        )
        recording.log(IMAGE, pinhole, static=True)
        size = arm.workspace_max - arm.workspace_min
        box = rr.Boxes3D(
            mins=[arm.workspace_min],
            sizes=[size],
            colors=WORKSPACE_COLOUR,
            fill_mode='majorwireframe',
        )
        recording.log('workspace', box, static=True)


def _by_kind(scene: CollisionModel) -> dict[str, list[int]]:
    """Return the indices of the arm's shapes by kind; balls are capsules of length 0."""
    kinds: dict[str, list[int]] = {}
    for i, shape in enumerate(scene.shapes):
        kind = 'capsules' if shape.ball else 'cylinders' if shape.disc else 'boxes'
        kinds.setdefault(kind, []).append(i)
    return kinds


def _solids(kind: str, shapes: Sequence[CollisionShape], poses: FloatArray) -> Any:
    """Return shapes of one ``kind`` at ``poses`` (N, 4, 4), as Rerun draws them."""
    half, centres = np.array([shape.half for shape in shapes]), poses[:, :3, 3]
    quaternions = [np.roll(mat2quat(pose[:3, :3]), -1) for pose in poses]  # xyzw
    look = {'quaternions': quaternions, 'colors': ARM_COLOUR, 'fill_mode': 'solid'}
    if kind == 'boxes':
        return rr.Boxes3D(half_sizes=half, centers=centres, **look)
    lengths = 2.0 * half[:, 2]
    if kind == 'cylinders':
        radii = [shape.disc for shape in shapes]
        return rr.Cylinders3D(lengths=lengths, radii=radii, centers=centres, **look)
    radii = [shape.ball for shape in shapes]
    ends = centres - half[:, 2:] * poses[:, :3, 2]  # origin of a capsule in Rerun
    return rr.Capsules3D(lengths=lengths, radii=radii, translations=ends, **look)


def _strips(marker: Marker) -> FloatArray:
    """Return N strips of P points (N, P, 3) m: one in all, or one per pair of a line list."""
    points = convert.points_from_marker(marker)
    if marker.type != Marker.LINE_LIST:
        return points[None]
    if len(points) % 2:
        raise ConversionError(f'marker: expected an even number of points, got {len(points)}')
    return points.reshape(-1, 2, 3)


def _rgba(colour: ColorRGBA) -> list[int]:
    parts = (colour.r, colour.g, colour.b, colour.a)
    if not np.all(np.isfinite(parts)):
        raise ConversionError(f'marker: expected a colour, got {parts}')
    return [round(255 * min(max(part, 0.0), 1.0)) for part in parts]


def _layout() -> rrb.Blueprint:
    """Return the layout: space and texts on the left, image and plots on the right."""
    space = ['arm/**', 'camera/**', 'plan/**', 'workspace', 'object']
    plots = [
        rrb.TimeSeriesView(name=name, contents=list(contents)) for name, contents in PLOTS.items()
    ]
    left = rrb.Vertical(
        rrb.Spatial3DView(name='arm', contents=space),
        rrb.TextLogView(name='planner and guard', contents='log/**'),
        row_shares=[3, 1],
    )
    image = rrb.Spatial2DView(name='camera', origin=IMAGE, contents=[IMAGE, 'plan/**'])
    return rrb.Blueprint(
        rrb.Horizontal(left, rrb.Vertical(image, *plots), column_shares=[3, 2]),
        collapse_panels=True,
    )
