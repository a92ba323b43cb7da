"""A viewer beside a running graph: ros2 launch jepa_arm view.launch.py."""

from jepa_arm.nodes.launching import describe
from jepa_arm.nodes.viewing import VIEWERS, viewer

ARGUMENTS = {
    'arm': ('panda', 'config/arms/<arm>.yaml, or a path'),
    'viewer': ('rviz', 'what shows arm, camera, plan and goal', list(VIEWERS)),
    'sim_time': ('true', 'follow a clock, as beside the virtual arm'),
    'clock': ('clock', 'its topic; that of the virtual arm is in its namespace'),
    'namespace': ('', 'of all nodes'),
}


def generate_launch_description():
    return describe(ARGUMENTS, start)


def start(given):
    return viewer(
        given['viewer'],
        given['arm'],
        given['namespace'],
        given['sim_time'] == 'true',
        {'/clock': given['clock']},
    )
