"""Guard and planner beside a physical arm's driver: ros2 launch jepa_arm bringup.launch.py.

The driver publishes joint states and runs a controller of ros2_control; a camera driver publishes
images. Their topics are given by the arguments below.
"""

from jepa_arm.nodes.description import CONTROLLERS, bringup, check_names, with_parameters
from jepa_arm.nodes.launching import describe, node
from jepa_arm.nodes.viewing import CHOICES, viewer

ARGUMENTS = {
    'arm': ('panda', 'config/arms/<arm>.yaml, or a path'),
    'checkpoint': ('', 'a shipped world model or a folder; empty: the default one'),
    'controller': ('joint_trajectory', 'what the guard commands', sorted(CONTROLLERS)),
    'commands': ('', "topic or action of the controller; empty: that of the arm's driver"),
    'joint_states': ('joint_states', 'topic of the measured joints'),
    'image': ('camera/image_raw', 'topic of the camera image'),
    'camera_info': ('camera/camera_info', 'topic of the camera intrinsics'),
    'guard_config': ('', 'limits and obstacles: config/<file>, or a path; empty: guard.yaml'),
    'params_file': ('', 'YAML file of further ROS parameters of the nodes; empty: none'),
    'dry_run': ('false', 'plan and show, but send nothing to the guard'),
    'belief_file': ('', 'absolute path; the belief outlasts a restart of the planner there'),
    'use_sim_time': ('false', 'follow /clock, where the driver is a simulator'),
    'viewer': ('none', "what shows plan and camera beside the driver's arm", CHOICES),
    'autostart': ('true', 'false: a lifecycle manager configures and activates'),
    'namespace': ('', 'of all nodes'),
}
TOPICS = {
    'joint_states': 'joint_states',
    'image': 'camera/image_raw',
    'camera_info': 'camera/camera_info',
}


def generate_launch_description():
    return describe(ARGUMENTS, start)


def start(given):
    guard_config = given['guard_config']
    check_names(given['arm'], given['checkpoint'], given['controller'], guard_config=guard_config)
    topics = {usual: given[name] for name, usual in TOPICS.items()}
    nodes = bringup(
        arm=given['arm'],
        checkpoint=given['checkpoint'],
        topics=topics,
        commands=given['commands'],
        autostart=given['autostart'] == 'true',
        dry_run=given['dry_run'] == 'true',
        controller=given['controller'],
        guard_config=guard_config,
        use_sim_time=given['use_sim_time'] == 'true',
        belief_file=given['belief_file'],
    )
    specs = with_parameters(nodes, given['params_file'], given['namespace'])
    shown = viewer(
        given['viewer'],
        given['arm'],
        given['namespace'],
        given['use_sim_time'] == 'true',
        topics,
        has_description=True,
    )
    return [*(node(spec, given['namespace']) for spec in specs), *shown]
