"""Launch a viewer beside a running graph: ros2 launch jepa_arm view.launch.py.

Beside the virtual arm with use_sim_time:=true, beside a driver with has_driver:=true.
"""

from launch import LaunchDescription
from launch.actions import OpaqueFunction

from jepa_arm.ros.graph.launching import (
    argument,
    argument_values,
    remapped_topics,
    topic_arguments,
)
from jepa_arm.ros.graph.viewing import VIEWERS, viewer_nodes

ARGUMENTS = [
    argument('arm', 'panda'),
    argument('viewer', 'rviz', 'shows arm, camera, plan and goal', VIEWERS),
    *topic_arguments(),
    argument('has_driver', 'false', 'the driver of the arm publishes its URDF and frames already'),
    argument('use_sim_time', 'false', 'follow a clock, as beside the virtual arm'),
    argument('clock', 'clock', 'topic of the clock; the virtual arm publishes in its namespace'),
    argument('namespace', '', 'namespace of all nodes'),
]


def generate_launch_description():
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context):
    values = argument_values(context, ARGUMENTS, __file__)
    return viewer_nodes(
        values['viewer'],
        values['arm'],
        values['namespace'],
        values['use_sim_time'],
        {'/clock': values['clock'], **remapped_topics(values)},
        values['has_driver'],
    )
