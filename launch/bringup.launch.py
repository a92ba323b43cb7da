"""Guard and planner beside a physical arm's driver: ros2 launch jepa_arm bringup.launch.py.

The driver publishes joint states and runs a joint_trajectory_controller; a camera driver
publishes images. Their topics are given by the arguments below.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from jepa_arm.nodes.graph import bringup
from jepa_arm.resources import checkpoint_path, config_path

COMMANDS = 'joint_trajectory_controller/joint_trajectory'
BOOLEAN = ['false', 'true']
ARGUMENTS = {
    'arm': ('panda', 'config/arms/<arm>.yaml, or a path'),
    'checkpoint': ('', 'a shipped world model or a folder; empty: the default one'),
    'joint_states': ('joint_states', 'topic of the measured joints'),
    'image': ('camera/image_raw', 'topic of the camera image'),
    'camera_info': ('camera/camera_info', 'topic of the camera intrinsics'),
    'commands': (COMMANDS, 'topic of the trajectory controller'),
    'autostart': ('true', 'false: a lifecycle manager configures and activates'),
    'namespace': ('', 'of all nodes'),
}
TOPICS = {
    'joint_states': 'joint_states',
    'image': 'camera/image_raw',
    'camera_info': 'camera/camera_info',
    'commands': COMMANDS,
}


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(
            name,
            default_value=default,
            description=text,
            choices=BOOLEAN if default in BOOLEAN else None,
        )
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext):
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    check(given)
    remappings = {topic: given[name] for name, topic in TOPICS.items() if given[name] != topic}
    return [
        Node(
            package='jepa_arm',
            executable=spec.executable,
            name=spec.name,
            namespace=given['namespace'],
            parameters=[dict(spec.parameters)],
            remappings=list(spec.remappings.items()),
            output='screen',
            on_exit=Shutdown(reason=f'{spec.name} ended'),
        )
        for spec in bringup(
            given['arm'], given['checkpoint'], remappings, given['autostart'] == 'true'
        )
    ]


def check(given: dict[str, str]) -> None:
    """Raises before any node starts: one that ends early would end the other in its start."""
    arm = given['arm']
    config_path(arm if arm.endswith('.yaml') else f'arms/{arm}.yaml')
    if given['checkpoint']:
        checkpoint_path(given['checkpoint'])
