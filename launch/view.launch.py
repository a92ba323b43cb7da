"""RViz beside a running graph: ros2 launch jepa_arm view.launch.py."""

from launch_ros.actions import Node

from jepa_arm.arm import read_urdf
from jepa_arm.config import ArmConfig, load
from jepa_arm.nodes.launching import describe
from jepa_arm.resources import arm_path, config_path
from jepa_arm.sim.camera import optical_quaternion

ARGUMENTS = {
    'arm': ('panda', 'config/arms/<arm>.yaml, or a path'),
    'sim_time': ('true', 'follow a clock, as beside the virtual arm'),
    'clock': ('clock', 'its topic; that of the virtual arm is in its namespace'),
    'namespace': ('', 'of all nodes'),
}


def generate_launch_description():
    return describe(ARGUMENTS, start)


def start(given):
    arm = load(ArmConfig, arm_path(given['arm']))
    clock = {'use_sim_time': given['sim_time'] == 'true'}
    rviz = config_path('rviz/jepa_arm.rviz')
    place = dict(zip(('--x', '--y', '--z'), arm.camera.position, strict=True))
    turn = dict(zip(('--qx', '--qy', '--qz', '--qw'), optical_quaternion(arm.camera), strict=True))
    frames = {'--frame-id': arm.base_link, '--child-frame-id': arm.camera.frame_id}
    pose = [str(word) for pair in {**place, **turn, **frames}.items() for word in pair]
    return [
        Node(
            package='robot_state_publisher',
            executable='robot_state_publisher',
            namespace=given['namespace'],
            remappings=[('/clock', given['clock'])],
            parameters=[{'robot_description': read_urdf(arm.urdf), **clock}],
        ),
        Node(
            package='tf2_ros',
            executable='static_transform_publisher',
            namespace=given['namespace'],
            remappings=[('/clock', given['clock'])],
            arguments=pose,
            parameters=[clock],
        ),
        Node(
            package='rviz2',
            executable='rviz2',
            namespace=given['namespace'],
            remappings=[('/clock', given['clock'])],
            arguments=['-d', str(rviz), '-f', arm.base_link],
            parameters=[clock],
        ),
    ]
