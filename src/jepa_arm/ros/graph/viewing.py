"""Viewers as launch actions: RViz or Rerun beside a graph; closing them ends nothing else.

Needs ``launch_ros`` of a ROS 2 installation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch_ros.actions import Node  # pyright: ignore

from jepa_arm.config import ArmConfig, CameraConfig, ConfigError, WristCameraConfig, load
from jepa_arm.core.files import arm_path, config_path
from jepa_arm.core.types import FloatArray
from jepa_arm.robot.arm import read_urdf
from jepa_arm.robot.camera import optical_quaternion
from jepa_arm.ros.runtime.environment import end_with_this_process, require_rerun

VIEWERS = ('rviz', 'rerun')
VIEWER_CHOICES = ['none', *VIEWERS]
"""Values of the launch argument ``viewer``."""
OWN_FRAMES = {'/tf': 'tf', '/tf_static': 'tf_static'}
"""Remappings in a namespace: frames of two arms of one type would clash on shared topics."""


def viewer_nodes(
    kind: str,
    arm: str,
    namespace: str = '',
    use_sim_time: bool = True,
    remappings: Mapping[str, str] | None = None,
    has_driver: bool = False,
) -> Sequence[Any]:
    """Return the nodes of a viewer; none for the kind 'none'.

    Args:
        kind: one of ``VIEWER_CHOICES``.
        arm: name or path of the arm whose URDF and camera are shown.
        namespace: namespace of all nodes.
        use_sim_time: follow ``/clock``.
        remappings: topic names, from -> to.
        has_driver: the arm's driver already publishes the URDF and the frames.

    Raises:
        ConfigError: a package that the viewer needs is not installed.
        FileNotFoundError, ArmError: there is no such arm, or it cannot be used.
    """
    if kind == 'none':
        return []
    config = load(ArmConfig, arm_path(arm))
    names = dict(remappings or {})
    if namespace and not has_driver:
        names |= OWN_FRAMES
    shared = {'namespace': namespace, 'remappings': list(names.items())}
    if kind == 'rerun':
        require_rerun()
        view = {'package': 'jepa_arm', 'executable': 'jepa_arm_view', 'parameters': [{'arm': arm}]}
        return [Node(**view, **shared, additional_env=end_with_this_process())]
    clock = {'use_sim_time': use_sim_time}
    rviz = ['-d', str(config_path('rviz/jepa_arm.rviz')), '-f', config.base_link]
    frames = {'package': 'tf2_ros', 'executable': 'static_transform_publisher'}
    transforms = camera_transforms(config)
    nodes: list[dict[str, Any]] = [
        *({**frames, 'arguments': words, 'parameters': [clock]} for words in transforms),
        {'package': 'rviz2', 'executable': 'rviz2', 'arguments': rviz, 'parameters': [clock]},
    ]
    if not has_driver:
        name, urdf = 'robot_state_publisher', read_urdf(config.urdf)
        parameters = [{'robot_description': urdf, **clock}]
        nodes.append({'package': name, 'executable': name, 'parameters': parameters})
    _check_installed({node['package'] for node in nodes})
    return [Node(**node, **shared) for node in nodes]


def camera_transforms(arm: ArmConfig) -> list[list[str]]:
    """Return, for each camera, the arguments of its ``static_transform_publisher``."""
    camera, wrist = arm.camera, arm.camera.wrist
    found = [_pose_arguments(camera, arm.base_link, optical_quaternion(camera))]
    if wrist is not None:
        quaternion = optical_quaternion(wrist, arm.tool_from)
        found.append(_pose_arguments(wrist, arm.tip_link, quaternion))
    return found


def _pose_arguments(
    camera: CameraConfig | WristCameraConfig, parent: str, quaternion: FloatArray
) -> list[str]:
    """Return the arguments of the transform from ``parent`` to ``camera``."""
    x, y, z = camera.position
    qx, qy, qz, qw = quaternion
    words = ['--x', x, '--y', y, '--z', z, '--qx', qx, '--qy', qy, '--qz', qz, '--qw', qw]
    return [*map(str, words), '--frame-id', parent, '--child-frame-id', camera.frame_id]


def _check_installed(packages: set[str]) -> None:
    """Check that ROS packages are installed, before any process starts.

    Raises:
        ConfigError: a package is not installed.
    """
    for name in sorted(packages):
        try:
            get_package_prefix(name)
        except PackageNotFoundError:
            apt = f'ros-$ROS_DISTRO-{name.replace("_", "-")}'
            raise ConfigError(
                f'viewer: needs the package {name}, which is not installed: apt install {apt}'
            ) from None
