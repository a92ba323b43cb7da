"""The virtual arm with guard and planner: ros2 launch jepa_arm sim.launch.py task:=push."""

from jepa_arm.nodes import description as text
from jepa_arm.nodes.description import CONTROLLERS, check_names, simulation, with_parameters
from jepa_arm.nodes.launching import describe, node, whole_number
from jepa_arm.nodes.viewing import CHOICES, viewer
from jepa_arm.resources import config_names

ARGUMENTS = {
    'arm': ('panda', text.ARM_TEXT),
    'checkpoint': ('', f'{text.CHECKPOINT_TEXT}; empty: the default one'),
    'task': ('push', text.TASK_TEXT, config_names('tasks')),
    'seed': ('0', 'of the first scene'),
    'controller': ('joint_trajectory', text.CONTROLLER_TEXT, sorted(CONTROLLERS)),
    'guard_config': ('', text.GUARD_CONFIG_TEXT),
    'params_file': ('', text.PARAMS_TEXT),
    'dry_run': ('false', text.DRY_RUN_TEXT),
    'lock_step': ('false', 'time passes only in sim/step'),
    'gui': ('false', 'show the window of the physics engine'),
    'viewer': ('none', 'what shows arm, camera, plan and goal', CHOICES),
    'autostart': ('true', 'false: a lifecycle manager configures and activates'),
    'namespace': ('', 'of all nodes; in one they have a clock of their own'),
}


def generate_launch_description():
    return describe(ARGUMENTS, start, __file__)


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
