"""Guard and planner beside a physical arm's driver: ros2 launch jepa_arm bringup.launch.py.

The driver publishes joint states and runs a controller of ros2_control; a camera driver publishes
images. Their topics are given by the arguments below.
"""

from jepa_arm.nodes import description as text
from jepa_arm.nodes.description import CONTROLLERS, bringup, check_names, with_parameters
from jepa_arm.nodes.launching import TOPICS, describe, node, topics
from jepa_arm.nodes.viewing import CHOICES, viewer

ARGUMENTS = {
    'arm': ('panda', text.ARM_TEXT),
    'checkpoint': ('', f'{text.CHECKPOINT_TEXT}; empty: the default one'),
    'controller': ('joint_trajectory', text.CONTROLLER_TEXT, sorted(CONTROLLERS)),
    'commands': ('', "topic or action of the controller; empty: that of the arm's driver"),
    **TOPICS,
    'guard_config': ('', text.GUARD_CONFIG_TEXT),
    'params_file': ('', text.PARAMS_TEXT),
    'dry_run': ('false', text.DRY_RUN_TEXT),
    'belief_file': ('', 'absolute path; the belief outlasts a restart of the planner there'),
    'use_sim_time': ('false', 'follow /clock, where the driver is a simulator'),
    'viewer': ('none', "what shows plan and camera beside the driver's arm", CHOICES),
    'autostart': ('true', 'false: a lifecycle manager configures and activates'),
    'namespace': ('', 'of all nodes'),
}


def generate_launch_description():
    return describe(ARGUMENTS, start, __file__)


def start(given):
    guard_config = given['guard_config']
    check_names(given['arm'], given['checkpoint'], given['controller'], guard_config=guard_config)
    nodes = bringup(
        arm=given['arm'],
        checkpoint=given['checkpoint'],
        topics=topics(given),
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
        topics(given),
        has_description=True,
    )
    return [*(node(spec, given['namespace']) for spec in specs), *shown]
