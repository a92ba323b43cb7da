"""A viewer beside a running graph: ros2 launch jepa_arm view.launch.py.

Beside the virtual arm with use_sim_time:=true, beside a driver with has_driver:=true.
"""

from jepa_arm.nodes.description import ARM_TEXT
from jepa_arm.nodes.launching import TOPICS, describe, topics
from jepa_arm.nodes.viewing import VIEWERS, viewer

ARGUMENTS = {
    'arm': ('panda', ARM_TEXT),
    'viewer': ('rviz', 'what shows arm, camera, plan and goal', list(VIEWERS)),
    **TOPICS,
    'has_driver': ('false', 'the driver of the arm publishes its URDF and frames already'),
    'use_sim_time': ('false', 'follow a clock, as beside the virtual arm'),
    'clock': ('clock', 'its topic; that of the virtual arm is in its namespace'),
    'namespace': ('', 'of all nodes'),
}


def generate_launch_description():
    return describe(ARGUMENTS, start, __file__)


def start(given):
    return viewer(
        given['viewer'],
        given['arm'],
        given['namespace'],
        given['use_sim_time'] == 'true',
        {'/clock': given['clock'], **topics(given)},
        given['has_driver'] == 'true',
    )
