"""The virtual arm with guard and planner: ros2 launch jepa_arm sim.launch.py task:=push."""

from jepa_arm.nodes.description import CONTROLLERS, check_names, simulation, with_parameters
from jepa_arm.nodes.launching import describe, node, whole_number
from jepa_arm.nodes.viewing import CHOICES, viewer

ARGUMENTS = {
    'arm': ('panda', 'config/arms/<arm>.yaml, or a path'),
    'checkpoint': ('', 'a shipped world model or a folder; empty: the default one'),
    'task': (
        'push',
        'config/tasks/<task>.yaml: reach, push or push_long',
    ),
    'seed': ('0', 'of the first scene'),
    'controller': ('joint_trajectory', 'what the guard commands', sorted(CONTROLLERS)),
    'guard_config': ('', 'limits and obstacles: config/<file>, or a path; empty: guard.yaml'),
    'params_file': ('', 'YAML file of further ROS parameters of the nodes; empty: none'),
    'dry_run': ('false', 'plan and show, but send nothing to the guard'),
    'lock_step': ('false', 'time passes only in sim/step'),
    'gui': ('false', 'show the window of the physics engine'),
    'viewer': ('none', 'what shows arm, camera, plan and goal', CHOICES),
    'autostart': ('true', 'false: a lifecycle manager configures and activates'),
    'namespace': ('', 'of all nodes; in one they have a clock of their own'),
}


def generate_launch_description():
    return describe(ARGUMENTS, start)


def start(given):
    names = ('arm', 'checkpoint', 'controller', 'task', 'guard_config')
    check_names(*(given[name] for name in names))
    nodes = simulation(
        arm=given['arm'],
        checkpoint=given['checkpoint'],
        task=given['task'],
        seed=whole_number('seed', given['seed']),
        lock_step=given['lock_step'] == 'true',
        gui=given['gui'] == 'true',
        autostart=given['autostart'] == 'true',
        dry_run=given['dry_run'] == 'true',
        controller=given['controller'],
        guard_config=given['guard_config'],
        namespace=given['namespace'],
    )
    specs = with_parameters(nodes, given['params_file'], given['namespace'])
    clock = {'/clock': 'clock'}  # that of the namespace
    shown = viewer(given['viewer'], given['arm'], given['namespace'], remappings=clock)
    return [*(node(spec, given['namespace']) for spec in specs), *shown]
