"""Imports go one way, and each outside library has one home."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / 'src'
PACKAGE = 'jepa_arm'

# A module may import from layers above its line, never from its own line or below. A part is a
# module or a subpackage of jepa_arm; inside a subpackage imports are free.
LAYERS = (
    {'types', 'resources', 'installation'},
    {'angles', 'config', 'messages', 'robot', 'episode_result'},
    {'arm'},
    {'motion', 'collision', 'joint_watch', 'routes'},
    {'model', 'data', 'sim', 'sweep'},
    {'goals', 'proposals', 'stream', 'sight', 'erasing', 'looks', 'orders'},
    {'planning', 'surprise', 'guard', 'memory'},
    {'belief', 'decision', 'evaluation_report', 'turning'},
    {'recall'},
    {'planners'},
    {'goal_images'},
    {'agent'},
    {'control'},
    {'collection', 'training', 'evaluator', 'replay'},
    {
        'stills',
        'report',
        'bench',
        'evaluation',
        'ablation',
        'ablation_table',
        'detection',
        'doctor',
        'fuzzing',
        'metering',
    },
    {'fault_measures', 'replay_report', 'comparison', 'comparison_table'},
    {'fault_report', 'energy'},
    {'nodes'},
    {'verbs', 'executables'},
    {'cli'},
    {'__main__'},
)
LEVEL = {part: level for level, layer in enumerate(LAYERS) for part in layer}

# Outside library -> the modules or subpackages that may import it.
HOMES = {
    'rclpy': {'nodes'},
    'pybullet': {'sim.bullet'},
    'pybullet_data': {'sim.bullet'},
    'pinocchio': {'arm', 'collision'},
    'coal': {'collision'},
    'ruckig': {'motion'},
    'matplotlib': {'training.report'},
    'rerun': {'nodes.rerun_drawing'},
    'mcap': {'data.mcap_file', 'data.topics'},
    'mcap_ros2': {'data.topics'},
    'torch': {
        'model',
        'planning',
        'belief',
        'memory',
        'recall',
        'data.windows',
        'agent',
        'planners',
        'goal_images',
        'turning',
        'training',
        'looks',
        'surprise',
        'detection',
        'bench',
        'ablation',
        'metering',
        'comparison',
        'energy',
        'doctor',
        'nodes',  # the planner's; the others are named below
        'verbs',  # inside functions: `import jepa_arm.cli` loads no torch, see below
    },
}
# What is elsewhere in some ROS 2 distribution, or private in rclpy: for nodes.compat alone.
OF_ONE_DISTRIBUTION = (
    'rclpy.event_handler',
    'rclpy.qos_event',
    'rclpy.endpoint_info',
    'rclpy.topic_endpoint_info',
)
PRIVATE_IN_RCLPY = (
    '_parameter_overrides',
    '_parameters',
    '_state_machine',
    'ros_time_is_active',
    'take_message',
)
ROS_ONLY_SUFFIXES = ('_msgs', '_srvs', '_interfaces')
# These stay small and start fast: they never load torch, not even indirectly.
WITHOUT_TORCH = (
    'types',
    'config',
    'resources',
    'arm',
    'collision',
    'motion',
    'routes',
    'sweep',
    'stream',
    'joint_watch',
    'goals',
    'proposals',
    'guard',
    'episode_result',
    'evaluation_report',
    'sim',
    'sim.bullet',
    'sim.tasks',
    'sim.policies',
    'sim.turning',
    'data.episodes',
    'data.mcap_file',
    'data.recording_reader',
    'collection',
    'fuzzing.core',
    'cli',
    'nodes.environment',
    'nodes.conversions',
    'nodes.guard',
    'nodes.recorder',
    'nodes.rerun_view',
    'nodes.sim',
)


def module_files() -> dict[str, Path]:
    """Every module by its name inside the package ('' is the package itself)."""
    files = {}
    for path in sorted((SRC / PACKAGE).rglob('*.py')):
        parts = path.relative_to(SRC / PACKAGE).with_suffix('').parts
        files['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return files


def imported_names(name: str, path: Path) -> Iterator[str]:
    """Absolute names of what a module imports, at its top or inside functions."""
    package = [PACKAGE, *name.split('.')] if name else [PACKAGE]
    if path.name != '__init__.py':
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = '.'.join([*base, *([node.module] if node.module else [])])
            if origin == PACKAGE:  # from . import arm
                yield from (f'{origin}.{alias.name}' for alias in node.names)
            else:
                yield origin


FILES = module_files()
MODULES = pytest.mark.parametrize('name', [name for name in FILES if name])


@MODULES
def test_module_belongs_to_a_layer(name):
    part = name.split('.')[0]
    assert part in LEVEL, f'{part} is new: put it into a line of LAYERS in {__file__}'


@MODULES
def test_imports_go_one_way(name):
    part = name.split('.')[0]
    for imported in imported_names(name, FILES[name]):
        names = imported.split('.')
        if names[0] != PACKAGE or len(names) == 1 or names[1] == part or names[1] == '__version__':
            continue
        assert LEVEL.get(names[1], 99) < LEVEL.get(part, 99), (
            f'{name} imports {imported}, which is not in a layer before its own'
        )


@MODULES
def test_outside_libraries_are_imported_only_at_home(name):
    for imported in imported_names(name, FILES[name]):
        library = imported.split('.')[0]
        homes = {'nodes'} if library.endswith(ROS_ONLY_SUFFIXES) else HOMES.get(library)
        if homes is not None:
            assert name in homes or name.split('.')[0] in homes, (
                f'{name} imports {imported}; only {", ".join(sorted(homes))} may'
            )


@MODULES
def test_one_module_knows_ros_distributions_and_what_rclpy_hides(name):
    if name == 'nodes.compat' or not name.startswith('nodes.'):
        return
    used = {
        n.attr
        for n in ast.walk(ast.parse(FILES[name].read_text()))
        if isinstance(n, ast.Attribute)
    }
    found = sorted(set(imported_names(name, FILES[name])) & set(OF_ONE_DISTRIBUTION))
    found += sorted(used & set(PRIVATE_IN_RCLPY))
    assert not found, f'{name} uses {found}; reach it through nodes/compat.py'


def test_no_module_imports_itself_by_way_of_others():
    """Layers are of whole subpackages; inside one, a circle would not be seen by them."""
    imports = {
        name: {i.removeprefix(f'{PACKAGE}.') for i in imported_names(name, path)} & set(FILES)
        for name, path in FILES.items()
    }
    while free := [name for name, needed in imports.items() if not needed & set(imports)]:
        for name in free:
            del imports[name]
    assert not imports


def test_relative_imports_are_resolved_to_where_they_point(tmp_path):
    """The tests above see nothing if this is wrong."""
    source = tmp_path / 'thing.py'
    source.write_text('from . import a\nfrom ..arm import Arm\nfrom .. import cli\nimport x.y\n')
    assert list(imported_names('sim.thing', source)) == [
        'jepa_arm.sim',
        'jepa_arm.arm',
        'jepa_arm.cli',
        'x.y',
    ]


@pytest.mark.parametrize('name', [name for name in WITHOUT_TORCH if name in FILES])
def test_module_does_not_load_torch(name):
    modules = loaded_modules(f'{PACKAGE}.{name}')
    assert 'torch' not in modules


def loaded_modules(module: str) -> set[str]:
    """What is loaded after ``module`` is imported in a new Python; skips where it cannot be."""
    code = (
        'import importlib, json, sys\n'
        'try:\n'
        f'    importlib.import_module({module!r})\n'
        'except ImportError as error:\n'
        '    sys.exit(f"missing {error.name}")\n'
        'print("LOADED", json.dumps(sorted(sys.modules)))\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, 'PYTHONPATH': str(SRC)},
    )
    if 'missing rclpy' in result.stderr or 'missing pybullet' in result.stderr:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.partition('LOADED ')[2]))
