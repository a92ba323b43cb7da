"""Launch guard and planner beside a physical arm: ros2 launch jepa_arm bringup.launch.py.

The driver of the arm publishes joint states and runs a controller of ros2_control; a camera
driver publishes images. The arguments below name their topics.
"""

from launch import LaunchDescription
from launch.actions import OpaqueFunction

from jepa_arm.ros.graph.description import BringupGraph
from jepa_arm.ros.graph.launching import (
    argument,
    argument_values,
    graph_arguments,
    graph_nodes,
    remapped_topics,
    topic_arguments,
)
from jepa_arm.ros.graph.viewing import VIEWER_CHOICES, viewer_nodes

ARGUMENTS = [
    *graph_arguments(),
    *topic_arguments(),
    argument('commands', '', "topic or action of the controller; empty: that of the arm's driver"),
    argument('belief_file', '', 'absolute path of a file that keeps the belief over a restart'),
    argument('use_sim_time', 'false', 'follow /clock, where the driver is a simulator'),
    argument('viewer', 'none', 'shows arm, camera, plan and goal', VIEWER_CHOICES),
]


def generate_launch_description():
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context):
    values = argument_values(context, ARGUMENTS, __file__)
    topics = remapped_topics(values)
    return [
        *graph_nodes(BringupGraph, values, topics=topics),
        *viewer_nodes(
            values['viewer'],
            values['arm'],
            values['namespace'],
            values['use_sim_time'],
            topics,
            has_driver=True,
        ),
    ]
