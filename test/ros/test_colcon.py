"""``colcon build`` and ``colcon test`` as README says, on this checkout, into another folder.

Of ``jepa_arm`` alone: compiling the messages takes minutes, and ``make setup`` did it.
"""

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import pytest

from jepa_arm.ros.runtime.node_contract import EXIT_BAD_SETTING

pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.extended]

ROOT = Path(__file__).parents[2]
SOURCED = 'ROS_DISTRO' in os.environ
COLCON = shutil.which('colcon', path=f'{Path(sys.executable).parent}:{os.environ["PATH"]}')
NODES = ('jepa_arm_sim', 'jepa_arm_guard', 'jepa_arm_planner', 'jepa_arm_view')
KEPT = ('HOME', 'LANG', 'OMP_NUM_THREADS', 'PATH', 'ROS_DOMAIN_ID', 'ROS_LOG_DIR', 'TMPDIR')
WHERE = """
import json, jepa_arm
from ament_index_python.packages import get_package_prefix, get_package_share_directory
from jepa_arm.resources import checkpoint_path, config_path
known = [get_package_prefix('jepa_arm'), get_package_share_directory('jepa_arm')]
ours = [jepa_arm.__file__, checkpoint_path('compact'), config_path('sim.yaml')]
print(json.dumps([str(path) for path in known + ours]))
"""


@dataclass
class Workspace:
    """A folder into which colcon builds our package."""

    base: Path

    @property
    def prefix(self):
        return self.base / 'install/jepa_arm'

    @property
    def share(self):
        return self.prefix / 'share/jepa_arm'

    @property
    def environment(self):
        """Of a new shell, where a ROS 2 is sourced or not as around these tests."""
        names = os.environ if SOURCED else KEPT
        return {name: os.environ[name] for name in names if name in os.environ}

    def colcon(self, verb, *options):
        """Runs a verb in ``ros_ws``; ``colcon_defaults.yaml`` says where the packages are."""
        places = [f'--{kind}-base={self.base / kind}' for kind in ('build', 'install')]
        command = [COLCON, f'--log-base={self.base / "log"}', verb, *places]
        result = subprocess.run(
            [*command, '--packages-ignore=jepa_arm_msgs', *options],
            cwd=ROOT / 'ros_ws',
            env={**self.environment, 'COLCON_HOME': str(self.base / 'home')},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, result.stdout + result.stderr

    def run(self, *command):
        """Runs a command in a shell that sourced the workspace; its result."""
        line = ' '.join(quote(str(word)) for word in command)
        return subprocess.run(
            ['bash', '-c', f'source {quote(str(self.base))}/install/setup.bash && {line}'],
            cwd=self.base,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def executable(self, name):
        """The command that starts it; Debian's colcon names the Python of the system in it."""
        path = self.prefix / 'lib/jepa_arm' / name
        assert os.access(path, os.X_OK)
        return [sys.executable, path] if SOURCED else [path]


def built(base, *options):
    if SOURCED and COLCON is None:
        pytest.skip('colcon is not installed: apt install python3-colcon-common-extensions')
    assert COLCON, 'colcon is not installed: "make setup" does it'
    workspace = Workspace(base)
    workspace.colcon('build', *options)
    return workspace


@pytest.fixture(scope='module')
def linked(tmp_path_factory):
    """Our package built as README says: what is edited needs no further build."""
    return built(tmp_path_factory.mktemp('linked'), '--symlink-install')


@pytest.fixture(scope='module')
def copied(tmp_path_factory):
    """Our package built without ``--symlink-install``: what is installed needs no checkout."""
    return built(tmp_path_factory.mktemp('copied'))


@pytest.fixture(scope='module', params=['linked', 'copied'])
def workspace(request):
    return request.getfixturevalue(request.param)


def test_launch_config_and_urdf_files_are_all_installed(workspace):
    def files(folder, kind):
        return {
            path.relative_to(folder): path.read_bytes()
            for path in (folder / kind).rglob('*')
            if path.is_file() and path.suffix != '.pyc'
        }

    for kind in ('launch', 'config', 'urdf'):
        assert files(workspace.share, kind) == files(ROOT, kind) != {}
    assert (workspace.share / 'package.xml').read_bytes() == (ROOT / 'package.xml').read_bytes()


def found(workspace):
    """Our module, its checkpoint and its configuration, as a new shell finds them."""
    result = workspace.run(sys.executable, '-c', WHERE)
    assert result.returncode == 0, result.stderr
    prefix, share, *rest = map(Path, json.loads(result.stdout))
    assert (prefix, share) == (workspace.prefix, workspace.share)
    return rest


def test_a_linked_package_is_the_checkout(linked):
    if SOURCED and not list(linked.prefix.rglob('*.egg-link')):
        pytest.skip('this setuptools links nothing any more; colcon copied')
    module, *belongs = found(linked)
    assert linked.base in module.parents
    assert all(ROOT in path.parents for path in (module.resolve(), *belongs))


def test_a_copied_package_needs_no_checkout(copied):
    assert all(copied.prefix in path.resolve().parents for path in found(copied))


def test_the_installed_launch_files_show_their_arguments(workspace, start_command):
    if start_command[0] != 'ros2':
        pytest.skip('ros2 launch is not installed')
    for path in workspace.share.glob('launch/*'):
        shown = workspace.run('ros2', 'launch', 'jepa_arm', path.name, '--show-args')
        assert shown.returncode == 0 and "'namespace'" in shown.stdout, shown.stderr


@pytest.mark.parametrize('name', NODES)
def test_the_executable_of_each_node_starts_and_refuses_an_unknown_arm(linked, name):
    command = linked.executable(name)
    ended = linked.run(*command, '--ros-args', '-p', 'arm:=nobody')
    assert ended.returncode == EXIT_BAD_SETTING and 'Traceback' not in ended.stderr
    assert 'config/arms/nobody.yaml' in ended.stderr


def test_jepa_arm_itself_starts(workspace):
    shown = workspace.run(*workspace.executable('jepa-arm'), '--help')
    assert shown.returncode == 0 and 'doctor' in shown.stdout


def test_colcon_test_runs_pytest_and_the_fast_tests_alone(linked):
    """Shown on test_graph*.py, which are among the fast tests and in test/ros."""
    narrowed = ('--pytest-args', ' -opython_files=test_graph*.py')
    linked.colcon('test', '--return-code-on-test-failure', *narrowed)
    report = ElementTree.parse(linked.base / 'build/jepa_arm/pytest.xml')
    files = [case.get('classname') for case in report.iter('testcase')]
    assert len(files) > 20 and set(files) == {'jepa_arm.test.fast.test_graph_description'}
