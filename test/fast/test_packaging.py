"""What is shipped is whole, and its descriptions agree with each other."""

import ast
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import pytest

from jepa_arm import __version__
from jepa_arm.core import files as resources
from jepa_arm.core.installation import MODULES

ROOT = Path(__file__).parents[2]
MESSAGES = ROOT / 'ros_ws/src/jepa_arm_msgs'

# Keys that rosdep or a ROS 2 distribution (Humble to Rolling) knows; looked up there by hand.
KNOWN_KEYS = {
    'ament_index_python',
    'builtin_interfaces',
    'coal',
    'diagnostic_msgs',
    'geometry_msgs',
    'launch',
    'launch_ros',
    'lifecycle_msgs',
    'pinocchio',
    'python3-h5py',
    'python3-hypothesis',
    'python3-matplotlib',
    'python3-numpy',
    'python3-opencv',
    'python3-pybullet-pip',
    'python3-pytest',
    'python3-torch',
    'python3-tqdm',
    'python3-transforms3d',
    'python3-yaml',
    'rclpy',
    'robot_state_publisher',
    'rviz2',
    'rcl_interfaces',
    'rosgraph_msgs',
    'rosidl_parser',
    'sensor_msgs',
    'std_msgs',
    'std_srvs',
    'tf2_ros',
    'trajectory_msgs',
    'visualization_msgs',
    'xacro',
}


def package_xml(folder: Path) -> ElementTree.Element:
    return ElementTree.parse(folder / 'package.xml').getroot()


@pytest.fixture(scope='module')
def setup_arguments():
    """The arguments with which setup.py calls setuptools."""
    pytest.importorskip('setuptools')
    code = (
        'import json, runpy, setuptools\n'
        'setuptools.setup = lambda **given: print(json.dumps(given))\n'
        'runpy.run_path("setup.py")\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_setup_and_both_package_xml_agree_on_names_and_version(setup_arguments):
    ours, messages = package_xml(ROOT), package_xml(MESSAGES)
    assert ours.findtext('name') == setup_arguments['name'] == 'jepa_arm'
    assert messages.findtext('name') == MESSAGES.name
    versions = {ours.findtext('version'), messages.findtext('version')}
    assert versions == {setup_arguments['version']} == {__version__}


def test_every_launch_config_and_urdf_file_is_installed(setup_arguments):
    installed = {file: target for target, files in setup_arguments['data_files'] for file in files}
    for folder, pattern in (('launch', '*.launch.py'), ('config', '**/*'), ('urdf', '**/*')):
        for path in (ROOT / folder).glob(pattern):
            if path.is_file():
                file = path.relative_to(ROOT)
                assert installed.get(file.as_posix()) == f'share/jepa_arm/{file.parent.as_posix()}'
    index = 'share/ament_index/resource_index/packages'
    assert installed['resource/jepa_arm'] == index
    assert installed['package.xml'] == 'share/jepa_arm'


def test_colcon_test_runs_pytest_and_the_fast_tests_alone(setup_arguments):
    """It takes pytest where the extra 'test' asks for it; a bare pytest takes the paths below."""
    assert any(item.startswith('pytest>') for item in setup_arguments['extras_require']['test'])
    [paths] = re.findall(
        r'^testpaths = (.+?)(?:  #|$)', (ROOT / 'pyproject.toml').read_text(), re.M
    )
    assert ast.literal_eval(paths) == ['test/fast']


def test_every_executable_names_a_main_function(setup_arguments):
    for line in setup_arguments['entry_points']['console_scripts']:
        module, function = re.fullmatch(r'[\w-]+ = ([\w.]+):(\w+)', line).groups()
        assert callable(getattr(import_module(module), function)), line


def test_colcon_puts_the_command_where_ros2_run_looks(setup_arguments):
    folders = ConfigParser(interpolation=None)
    folders.read(ROOT / 'setup.cfg')
    assert folders['install']['install_scripts'] == '$base/lib/jepa_arm'
    assert folders['develop']['script_dir'] == '$base/lib/jepa_arm'  # --symlink-install
    scripts = setup_arguments['entry_points']['console_scripts']
    assert 'jepa-arm' in [script.split(' = ')[0] for script in scripts]
    for page in ('how_to/install_ros2.md', 'tutorials/simulated_arm.md'):
        assert 'ros2 run jepa_arm jepa-arm' in (ROOT / 'docs' / page).read_text()


def test_package_xml_depends_only_on_keys_that_rosdep_knows():
    root = package_xml(ROOT)
    keys = {
        element.text
        for tag in ('depend', 'exec_depend', 'test_depend', 'build_depend')
        for element in root.iter(tag)
    }
    assert keys - KNOWN_KEYS == {'jepa_arm_msgs'}


def test_the_installation_page_installs_everything_that_rosdep_does_not():
    text = (ROOT / 'docs/how_to/install_ros2.md').read_text()
    asked = set(re.search(r'pip install ([^#\n]+)', text.split('rosdep install')[1])[1].split())
    by_rosdep = {e.text.removeprefix('python3-') for e in package_xml(ROOT).iter('exec_depend')}
    skipped = set(re.search(r'--skip-keys "([^"]+)"', text)[1].split())
    assert skipped <= KNOWN_KEYS
    by_rosdep -= {key.removeprefix('python3-') for key in skipped}
    other = {'cv2': 'opencv'}  # the same by another name
    needed = {m for m in MODULES if other.get(m, m) not in by_rosdep}
    for module in needed:
        assert asked & set(MODULES[module]), module
    assert len(asked) == len(needed)


def test_every_interface_file_is_built():
    cmake = (MESSAGES / 'CMakeLists.txt').read_text()
    files = [path for kind in ('msg', 'srv', 'action') for path in MESSAGES.glob(f'{kind}/*')]
    assert files
    listed = set(re.findall(r'"((?:msg|srv|action)/\w+\.\w+)"', cmake))
    assert listed == {path.relative_to(MESSAGES).as_posix() for path in files}


def test_every_dependency_is_explained(setup_arguments):
    page = (ROOT / 'docs/dependencies.md').read_text()
    needed = setup_arguments['install_requires'] + setup_arguments['extras_require']['test']
    for requirement in needed:
        name = re.match(r'[\w-]+', requirement)[0]
        assert re.search(rf'^\|[^\n]*\b{name}\b', page, re.MULTILINE), f'{name} is not explained'


def test_missing_files_are_named_with_what_there_is():
    assert resources.config_path('sim.yaml').is_file()
    with pytest.raises(
        FileNotFoundError, match=r'config/arms/nobody\.yaml.*arms/panda\.yaml'
    ) as told:
        resources.config_path('arms/nobody.yaml')
    assert 'planner.yaml' not in str(told.value), 'it is not what was asked for'
    with pytest.raises(FileNotFoundError, match=r'panda\.urdf\.xacro'):
        resources.urdf_path('nobody.urdf')


def test_an_incomplete_checkpoint_is_refused_with_the_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="got 'nobody'.*make model"):
        resources.checkpoint_path('nobody')
    (tmp_path / 'config.json').touch()
    with pytest.raises(FileNotFoundError, match=r'missing model\.safetensors'):
        resources.checkpoint_path(str(tmp_path))
    (tmp_path / 'model.safetensors').touch()
    assert resources.checkpoint_path(str(tmp_path)) == tmp_path
