"""Viewers beside a graph, as launch actions; their end ends nothing else.

Needs ``launch_ros`` of a ROS 2 installation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch_ros.actions import Node  # pyright: ignore

from ..arm import read_urdf
from ..config import ArmConfig, CameraConfig, ConfigError, WristCameraConfig, load
from ..resources import arm_path, config_path
from ..sim.camera import optical_quaternion
from ..types import FloatArray
from .environment import check_rerun, ending_with_this

VIEWERS = ('rviz', 'rerun')
CHOICES = ['none', *VIEWERS]
"""Values of the launch argument ``viewer``."""
OWN_FRAMES = {'/tf': 'tf', '/tf_static': 'tf_static'}
"""In a namespace, so that two arms of one kind do not publish the same frames."""


def viewer(
    kind: str,
    arm: str,
    namespace: str = '',
    use_sim_time: bool = True,
    remappings: Mapping[str, str] | None = None,
    has_description: bool = False,
) -> Sequence[Any]:
    """The nodes of a viewer; none for the kind 'none'.

    Args:
        kind: one of ``CHOICES``.
        arm: name or path, whose URDF and camera are shown.
        namespace: of all of them.
        use_sim_time: follow a clock.
        remappings: topic names, from -> to.
        has_description: the driver of the arm publishes its URDF and its frames already.

    Raises:
        ConfigError: a package that it needs is not installed.
        FileNotFoundError, ArmError: no such arm, or it cannot be used.
    """
    if kind == 'none':
        return []
    config = load(ArmConfig, arm_path(arm))
    names = dict(remappings or {})
    if namespace and not has_description:
        names |= OWN_FRAMES
    shared = {'namespace': namespace, 'remappings': list(names.items())}
    if kind == 'rerun':
        check_rerun()
        view = Node(
            package='jepa_arm',
            executable='jepa_arm_view',
            parameters=[{'arm': arm}],
            additional_env=ending_with_this(),
            **shared,
        )
        return [view]
    clock = {'use_sim_time': use_sim_time}
    rviz = ['-d', str(config_path('rviz/jepa_arm.rviz')), '-f', config.base_link]
    frames = {'package': 'tf2_ros', 'executable': 'static_transform_publisher'}
    nodes: list[dict[str, Any]] = [
        *({**frames, 'arguments': pose, 'parameters': [clock]} for pose in _camera_poses(config)),
        {'package': 'rviz2', 'executable': 'rviz2', 'arguments': rviz, 'parameters': [clock]},
    ]
    if not has_description:
        name, urdf = 'robot_state_publisher', read_urdf(config.urdf)
        described = [{'robot_description': urdf, **clock}]
        nodes.append({'package': name, 'executable': name, 'parameters': described})
    _check_installed({node['package'] for node in nodes})
    return [Node(**node, **shared) for node in nodes]


def _camera_poses(arm: ArmConfig) -> list[list[str]]:
    """Arguments of the publishers of the cameras' frames, each."""
    camera, wrist = arm.camera, arm.camera.wrist
    found = [_pose(camera, arm.base_link, optical_quaternion(camera))]
    if wrist is not None:
        found.append(_pose(wrist, arm.tip_link, optical_quaternion(wrist, arm.tool_from)))
    return found


def _pose(camera: CameraConfig | WristCameraConfig, parent: str, turn: FloatArray) -> list[str]:
    words = {
        **dict(zip(('--x', '--y', '--z'), camera.position, strict=True)),
        **dict(zip(('--qx', '--qy', '--qz', '--qw'), turn, strict=True)),
        '--frame-id': parent,
        '--child-frame-id': camera.frame_id,
    }
    return [str(word) for pair in words.items() for word in pair]


def _check_installed(packages: set[str]) -> None:
    """Before any process starts."""
    for name in sorted(packages):
        try:
            get_package_prefix(name)
        except PackageNotFoundError:
            apt = f'ros-$ROS_DISTRO-{name.replace("_", "-")}'
            raise ConfigError(
                f'viewer: needs the package {name}, which is not installed: apt install {apt}'
            ) from None
