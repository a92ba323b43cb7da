"""What a graph looks like in Rerun; the only module that imports it.

Entities: ``arm``, ``camera/image``, ``plan/path``, ``plan/candidates``, ``plan/goal``,
``workspace`` and ``object`` in the arm's base frame, ``status/...`` for what is plotted,
``log/...`` for what is said. Their only timeline is ``TIMELINE``.
"""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import numpy as np
import rerun as rr
import rerun.blueprint as rrb
from transforms3d.quaternions import mat2quat

from ..arm import Arm
from ..collision import Scene
from ..sim.camera import intrinsics, optical_pose
from ..types import FloatArray, ImageArray

TIMELINE = 'ros_time'
PLAN, PATH, CANDIDATES, GOAL = 'plan', 'plan/path', 'plan/candidates', 'plan/goal'
IMAGE = 'camera/image'
PLOTS = {
    'distance, m': ('status/distance', 'status/predicted_distance'),
    'surprise and risk': ('status/surprise', 'status/risk'),
    'ms': ('status/plan_ms', 'status/obs_to_command_ms'),
}
"""What is plotted together."""
ARM_COLOUR = (175, 180, 190)
OBJECT_COLOUR = (240, 140, 40)
WORKSPACE_COLOUR = (150, 150, 150)
IMAGE_DISTANCE_M = 0.15
"""From the camera to where the image is shown in space."""
FLUSH_S = 5.0
Colour = tuple[float, float, float, float]
"""Red, green, blue and opacity, 0 to 1."""


class Drawing:
    """One recording of Rerun: into a file, or to a window.

    Stamps are s of ROS time, positions m in the arm's base frame.
    """

    def __init__(self, arm: Arm, object_size: float) -> None:
        """Of ``arm`` and of cubes of ``object_size`` m; ``save`` or ``show`` comes first."""
        self._scene = Scene(arm)
        self._shapes = _by_kind(self._scene)
        self._object_size = object_size
        self._recording = rr.RecordingStream('jepa_arm', recording_id=uuid4())
        self._recording.set_log_time_enabled(False)
        self._recording.set_log_tick_enabled(False)
        self._layout = _layout()
        self._arm = arm
        self._has_begun = False

    def save(self, path: Path) -> None:
        """Writes into a new file from now on."""
        self._recording.save(path, default_blueprint=self._layout)
        self._draw_still()

    def show(self, url: str) -> None:
        """Sends to the window that listens at ``url`` from now on."""
        self._recording.connect_grpc(url, default_blueprint=self._layout)
        self._draw_still()

    def close(self) -> None:
        """Brings what was drawn to the file or the window; a window may be gone already."""
        try:
            self._recording.flush(timeout_sec=FLUSH_S)
        except RuntimeError:
            pass
        self._recording.disconnect()

    def arm(self, stamp: float, q: FloatArray) -> None:
        """The arm's collision shapes at joints ``q`` (J,) rad."""
        poses = self._scene.placements(q)
        quaternions = np.array([_xyzw(pose) for pose in poses])
        self._at(stamp)
        for kind, rows in self._shapes.items():
            places, turns = poses[rows], quaternions[rows]
            shapes = [self._scene.shapes[i] for i in rows]
            size = np.array([shape.half for shape in shapes])
            if kind == 'boxes':
                drawn = rr.Boxes3D(
                    half_sizes=size,
                    centers=places[:, :3, 3],
                    quaternions=turns,
                    colors=ARM_COLOUR,
                    fill_mode='solid',
                )
            elif kind == 'cylinders':
                drawn = rr.Cylinders3D(
                    lengths=2.0 * size[:, 2],
                    radii=[shape.disc for shape in shapes],
                    centers=places[:, :3, 3],
                    quaternions=turns,
                    colors=ARM_COLOUR,
                    fill_mode='solid',
                )
            else:
                drawn = rr.Capsules3D(
                    lengths=2.0 * size[:, 2],
                    radii=[shape.ball for shape in shapes],
                    # Rerun's begin at one of their ends.
                    translations=places[:, :3, 3] - size[:, 2:] * places[:, :3, 2],
                    quaternions=turns,
                    colors=ARM_COLOUR,
                    fill_mode='solid',
                )
            self._recording.log(f'arm/{kind}', drawn)

    def image(self, stamp: float, image: ImageArray) -> None:
        """``image`` (h, w, 3) uint8 RGB of the camera."""
        self._at(stamp)
        self._recording.log(IMAGE, rr.Image(image, color_model='RGB'))

    def strips(
        self, stamp: float, entity: str, strips: FloatArray, width: float, colour: Colour
    ) -> None:
        """Lines of ``width`` m through ``strips`` (N, P, 3) m."""
        self._at(stamp)
        lines = rr.LineStrips3D(strips, radii=width / 2.0, colors=_rgba(colour))
        self._recording.log(entity, lines)

    def goal(self, stamp: float, position: FloatArray, radius: float, colour: Colour) -> None:
        """A sphere of ``radius`` m."""
        self._at(stamp)
        sphere = rr.Ellipsoids3D(
            centers=[position], radii=[radius], colors=_rgba(colour), fill_mode='solid'
        )
        self._recording.log(GOAL, sphere)

    def clear_plan(self) -> None:
        """Path, candidates and goal are no more, from the last stamp on."""
        if self._has_begun:  # what has no time would be for all times
            self._recording.log(PLAN, rr.Clear(recursive=True))

    def objects(self, stamp: float, poses: list[tuple[FloatArray, FloatArray]]) -> None:
        """Objects at their positions (3,) m and quaternions (4,) xyzw."""
        self._at(stamp)
        half = self._object_size / 2.0
        boxes = rr.Boxes3D(
            half_sizes=[(half, half, half)] * len(poses),
            centers=[position for position, _ in poses],
            quaternions=[quaternion for _, quaternion in poses],
            colors=OBJECT_COLOUR,
            fill_mode='solid',
        )
        self._recording.log('object', boxes)

    def scalars(self, stamp: float, values: dict[str, float]) -> None:
        """Numbers by the names of their plots; NaN: there is none."""
        self._at(stamp)
        for name, value in values.items():
            if np.isfinite(value):
                self._recording.log(f'status/{name}', rr.Scalars(value))

    def text(self, stamp: float, who: str, text: str, level: str) -> None:
        """What ``who`` says; ``level``: INFO, WARN or ERROR."""
        self._at(stamp)
        self._recording.log(f'log/{who}', rr.TextLog(text, level=level))

    def _at(self, stamp: float) -> None:
        self._recording.set_time(TIMELINE, timestamp=stamp)
        self._has_begun = True

    def _draw_still(self) -> None:
        """What does not move: up, the camera's place, the workspace."""
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


def _by_kind(scene: Scene) -> dict[str, list[int]]:
    """Indices of the arm's shapes by what they are drawn as, a ball as a capsule of length 0."""
    kinds: dict[str, list[int]] = {}
    for i, shape in enumerate(scene.shapes):
        kind = 'capsules' if shape.ball else 'cylinders' if shape.disc else 'boxes'
        kinds.setdefault(kind, []).append(i)
    return kinds


def _xyzw(pose: FloatArray) -> FloatArray:
    w, x, y, z = mat2quat(pose[:3, :3])
    return np.array([x, y, z, w])


def _rgba(colour: Colour) -> list[int]:
    return [round(255 * min(max(part, 0.0), 1.0)) for part in colour]


def _layout() -> rrb.Blueprint:
    """What is shown where: space and words on the left, image and plots on the right."""
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
