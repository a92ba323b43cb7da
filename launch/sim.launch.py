"""Launch the virtual arm with guard and planner: ros2 launch jepa_arm sim.launch.py task:=push."""

from launch import LaunchDescription
from launch.actions import OpaqueFunction

from jepa_arm.core.files import config_names
from jepa_arm.ros.graph.description import SimulationGraph
from jepa_arm.ros.graph.launching import (
    argument,
    argument_values,
    graph_arguments,
    graph_nodes,
    parse_seed,
)
from jepa_arm.ros.graph.viewing import VIEWER_CHOICES, viewer_nodes

ARGUMENTS = [
    *graph_arguments(),
    argument('task', 'push', choices=config_names('tasks')),
    argument('seed', '0', 'seed of the first scene'),
    argument('lock_step', 'false', 'let time pass only in the service sim/step'),
    argument('gui', 'false', 'open the window of the physics engine'),
    argument('viewer', 'none', 'shows arm, camera, plan and goal', VIEWER_CHOICES),
]


def generate_launch_description():
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context):
    values = argument_values(context, ARGUMENTS, __file__)
    clock = {'/clock': 'clock'}  # of the namespace
    return [
        *graph_nodes(SimulationGraph, values, seed=parse_seed(values['seed'])),
        *viewer_nodes(values['viewer'], values['arm'], values['namespace'], remappings=clock),
    ]
