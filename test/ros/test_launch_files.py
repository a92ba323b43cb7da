"""The launch files, run by the real ``launch``, start what the graph description says.

In place of the nodes it starts programs that record their arguments.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from transforms3d.quaternions import quat2mat

from jepa_arm.ros.graph.description import BringupGraph, SimulationGraph

pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(not find_spec('launch_ros'), reason='launch_ros is not installed'),
]
REPOSITORY = Path(__file__).parents[2]
LAUNCH = REPOSITORY / 'launch'
EXECUTABLES = {
    'jepa_arm': ['jepa_arm_sim', 'jepa_arm_guard', 'jepa_arm_planner', 'jepa_arm_view'],
    'rviz2': ['rviz2'],
    'tf2_ros': ['static_transform_publisher'],
    'robot_state_publisher': ['robot_state_publisher'],
}
RECORD = """#!{python}
import json, os, signal, sys
from pathlib import Path
import yaml
name, words = Path(sys.argv[0]).name, sys.argv[1:]
files = [words[i + 1] for i, word in enumerate(words) if word == '--params-file']
parameters = {{}}
for file in files:
    [section] = yaml.safe_load(Path(file).read_text()).values()
    parameters |= section['ros__parameters']
record = Path(os.environ['RECORDS']) / f'{{name}}.{{os.getpid()}}'
record.with_suffix('.part').write_text(json.dumps([words, parameters]))
if name == os.environ.get('FAILS'):
    sys.exit(3)
signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
record.with_suffix('.part').rename(record.with_suffix('.json'))
signal.pause()
"""
DRIVER = """
import os, sys, threading, time
from pathlib import Path
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
expected, file, *words = sys.argv[1:]
sys.argv[1:] = [os.environ.get('LAUNCHED', file), *words]
service = LaunchService(argv=words, noninteractive=True)
source = PythonLaunchDescriptionSource(file)
arguments = [word.split(':=', 1) for word in words]
service.include_launch_description(IncludeLaunchDescription(source, launch_arguments=arguments))
def end():
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:
        if len(list(Path(os.environ['RECORDS']).glob('*.json'))) >= int(expected):
            break
        time.sleep(0.05)
    service.shutdown()
if int(expected):
    threading.Thread(target=end, daemon=True).start()
sys.exit(service.run())
"""


@dataclass(frozen=True)
class Started:
    """One program that was started: its words and its parameters."""

    words: list[str]
    parameters: dict

    @property
    def remappings(self):
        pairs = [w.split(':=', 1) for w in self.words if ':=' in w and not w.startswith('__')]
        return dict(pairs)

    @property
    def namespace(self):
        return next((w.split(':=')[1] for w in self.words if w.startswith('__ns:=')), '')


@pytest.fixture
def prefix(tmp_path):
    """A prefix of ament in which recording programs are installed."""
    prefix = tmp_path / 'prefix'
    index = prefix / 'share/ament_index/resource_index/packages'
    index.mkdir(parents=True)
    for package, names in EXECUTABLES.items():
        (index / package).touch()
        folder = prefix / 'lib' / package
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text(RECORD.format(python=sys.executable))
            (folder / name).chmod(0o755)
    return prefix


@pytest.fixture
def run(prefix, tmp_path):
    """Run a launch file until ``expected`` programs have recorded; (process, what started)."""

    def run(expected, file, *words, **environment):
        records = tmp_path / f'records{len(list(tmp_path.iterdir()))}'
        records.mkdir()
        paths = f'{prefix}{os.pathsep}{os.environ["AMENT_PREFIX_PATH"]}'
        process = subprocess.run(
            [sys.executable, '-c', DRIVER, str(expected), str(LAUNCH / file), *words],
            env={
                **os.environ,
                'AMENT_PREFIX_PATH': paths,
                'RECORDS': str(records),
                'ROS_LOG_DIR': str(tmp_path / 'log'),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60.0,
        )
        started = {
            path.name.partition('.')[0]: Started(*json.loads(path.read_text()))
            for path in records.iterdir()
        }
        return process, started

    return run


def test_sim_launch_starts_the_nodes_of_the_description(run):
    words = ('task:=reach', 'seed:=7', 'lock_step:=true', 'namespace:=left', 'autostart:=false')
    process, started = run(3, 'sim.launch.py', *words)
    graph = SimulationGraph(
        task='reach', seed=7, lock_step=True, namespace='left', autostart=False
    )
    assert {name: s.parameters for name, s in started.items()} == {
        spec.executable: dict(spec.parameters) for spec in graph.nodes
    }
    assert {s.namespace for s in started.values()} == {'/left'}
    assert {s.remappings['/clock'] for s in started.values()} == {'/left/clock'}
    assert process.returncode == 0, process.stderr


def test_bringup_launch_starts_guard_and_planner_on_the_given_topics(run):
    words = ('arm:=xarm6', 'image:=/cam/rgb', 'dry_run:=true', 'use_sim_time:=true')
    _, started = run(2, 'bringup.launch.py', *words)
    topics = {'camera/image_raw': '/cam/rgb'}
    graph = BringupGraph(arm='xarm6', dry_run=True, use_sim_time=True, topics=topics)
    for spec in graph.nodes:
        assert started[spec.executable].parameters == dict(spec.parameters)
        assert spec.remappings.items() <= started[spec.executable].remappings.items()
    assert len(started) == 2


def test_a_viewer_shows_the_arm_under_the_topics_of_the_graph(run):
    words = ('viewer:=rviz', 'namespace:=left', 'arm:=ur5e', 'image:=/cam/rgb')
    _, started = run(3, 'view.launch.py', *words, 'use_sim_time:=true')
    assert set(started) == {'rviz2', 'static_transform_publisher', 'robot_state_publisher'}
    own = {'/clock': 'clock', '/tf': 'tf', '/tf_static': 'tf_static'}
    for program in started.values():
        assert own.items() <= program.remappings.items(), (
            'another arm of its kind has the same frames'
        )
        assert program.parameters['use_sim_time'] is True
    assert started['rviz2'].remappings['camera/image_raw'] == '/cam/rgb'
    assert 'base_link' in started['rviz2'].words
    assert 'name="ur5e"' in started['robot_state_publisher'].parameters['robot_description']


def test_beside_a_driver_the_viewer_leaves_arm_and_frames_to_it(run):
    words = ('viewer:=rviz', 'namespace:=left', 'use_sim_time:=true')
    _, started = run(4, 'bringup.launch.py', *words)
    assert 'robot_state_publisher' not in started
    assert '/tf' not in started['rviz2'].remappings


def test_the_frame_of_a_wrist_camera_hangs_at_the_tip(monkeypatch):
    from jepa_arm.config import ArmConfig, WristCameraConfig, load
    from jepa_arm.core.files import arm_path
    from jepa_arm.ros.graph.viewing import camera_transforms

    wrist = WristCameraConfig(
        height=32,
        fov_deg=55.0,
        position=(-0.07, 0.0, -0.16),
        look_at=(0.02, 0.0, 0.0),
        frame_id='wrist_optical',
    )
    config = load(ArmConfig, arm_path('panda'))
    object.__setattr__(config.camera, 'wrist', wrist)
    first, second = camera_transforms(config)
    assert first[-4:] == ['--frame-id', 'panda_link0', '--child-frame-id', 'camera_optical_frame']
    assert second[-4:] == ['--frame-id', config.tip_link, '--child-frame-id', 'wrist_optical']
    x, y, z, w = map(float, second[7:14:2])
    rotation = quat2mat([w, x, y, z])
    ahead = np.array([0.09, 0.0, 0.16]) / np.hypot(0.09, 0.16)
    np.testing.assert_allclose(rotation[:, 2], ahead, atol=1e-6)
    assert rotation[:, 1] @ config.tool_axis > 0.0, 'down in the image is where the tool points'


def test_a_viewer_that_is_not_installed_is_named_before_any_node_starts(run, prefix):
    (prefix / 'share/ament_index/resource_index/packages/rviz2').unlink()
    process, started = run(0, 'sim.launch.py', 'viewer:=rviz')
    assert process.returncode == 1 and not started
    assert 'apt install ros-$ROS_DISTRO-rviz2' in process.stderr + process.stdout


@pytest.mark.parametrize(
    ('file', 'word'),
    [
        ('sim.launch.py', 'arm:=nobody'),
        ('sim.launch.py', 'seed:=nought'),
        ('sim.launch.py', 'task:=juggle'),
        ('bringup.launch.py', 'params_file:=nowhere.yaml'),
        ('bringup.launch.py', 'dryrun:=true'),  # launch itself would ignore it: the arm would move
        ('view.launch.py', 'namspace:=left'),
    ],
)
def test_an_argument_that_cannot_be_used_is_named_before_any_node_starts(run, file, word):
    process, started = run(0, file, word)
    name, _, value = word.partition(':=')
    output = process.stderr + process.stdout
    assert process.returncode == 1 and not started
    assert value in output if name in ('arm', 'seed', 'task', 'params_file') else name in output


def test_a_launch_file_that_includes_ours_may_have_other_arguments(run, tmp_path):
    process, started = run(
        2, 'bringup.launch.py', 'speed:=2', LAUNCHED=str(tmp_path / 'cell.launch.py')
    )
    assert process.returncode == 0 and len(started) == 2


def test_a_node_that_fails_ends_the_launch_with_an_error(run):
    process, _ = run(3, 'sim.launch.py', FAILS='jepa_arm_guard')
    assert process.returncode == 1
    assert 'guard ended with 3' in process.stderr + process.stdout


def test_rerun_is_started_as_a_viewer_or_named_if_it_is_not_installed(run):
    is_installed = bool(find_spec('rerun'))
    words = ('viewer:=rerun', 'namespace:=left', 'arm:=ur5e')
    process, started = run(int(is_installed), 'view.launch.py', *words)
    if is_installed:
        assert started['jepa_arm_view'].parameters == {'arm': 'ur5e'}
    else:
        assert process.returncode == 1 and not started
        assert '.[rerun]' in process.stderr + process.stdout
