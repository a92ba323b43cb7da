"""The virtual arm with guard and planner: ros2 launch jepa_arm sim.launch.py task:=push."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from jepa_arm.nodes.graph import simulation
from jepa_arm.resources import checkpoint_path, config_path

BOOLEAN = ['false', 'true']
ARGUMENTS = {
    'arm': ('panda', 'config/arms/<arm>.yaml, or a path'),
    'checkpoint': ('', 'a shipped world model or a folder; empty: the default one'),
    'task': ('push', 'push or reach'),
    'seed': ('0', 'of the first scene'),
    'lock_step': ('false', 'time passes only in sim/step'),
    'gui': ('false', 'show the window of the physics engine'),
    'autostart': ('true', 'false: a lifecycle manager configures and activates'),
    'namespace': ('', 'of all nodes'),
}


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(
            name,
            default_value=default,
            description=text,
            choices=BOOLEAN if default in BOOLEAN else None,
        )
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context: LaunchContext):
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    check(given)
    specs = simulation(
        arm=given['arm'],
        checkpoint=given['checkpoint'],
        task=given['task'],
        seed=int(given['seed']),
        lock_step=given['lock_step'] == 'true',
        gui=given['gui'] == 'true',
        autostart=given['autostart'] == 'true',
    )
    return [
        Node(
            package='jepa_arm',
            executable=spec.executable,
            name=spec.name,
            namespace=given['namespace'],
            parameters=[dict(spec.parameters)],
            output='screen',
            on_exit=Shutdown(reason=f'{spec.name} ended'),
        )
        for spec in specs
    ]


def check(given: dict[str, str]) -> None:
    """Raises before any node starts: one that ends early would end the others in their start."""
    arm = given['arm']
    config_path(arm if arm.endswith('.yaml') else f'arms/{arm}.yaml')
    config_path(f'tasks/{given["task"]}.yaml')
    if given['checkpoint']:
        checkpoint_path(given['checkpoint'])
    if not given['seed'].isdecimal():
        raise ValueError(f'seed: expected a whole number from 0, got {given["seed"]!r}')
