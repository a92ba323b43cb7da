"""What many tests need: the Panda and the other arms, settings of simulator and guard, a world."""

import resource
from collections.abc import Callable, Iterator

import pytest

from jepa_arm.config import ArmConfig, GuardConfig, SimConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.robot.arm import Arm

ARM_NAMES = sorted(path.stem for path in config_path('arms/panda.yaml').parent.glob('*.yaml'))


@pytest.fixture(scope='session')
def arm_config() -> ArmConfig:
    """The Panda."""
    return load(ArmConfig, config_path('arms/panda.yaml'))


@pytest.fixture(scope='session', params=ARM_NAMES)
def each_arm_config(request: pytest.FixtureRequest) -> ArmConfig:
    """Each arm of config/arms in turn."""
    return load(ArmConfig, config_path(f'arms/{request.param}.yaml'))


@pytest.fixture(scope='session')
def each_arm(each_arm_config: ArmConfig) -> Arm:
    """The kinematics of each arm in turn."""
    return Arm(each_arm_config)


@pytest.fixture(scope='session')
def guard_config() -> GuardConfig:
    """What the guard lets through."""
    return load(GuardConfig, config_path('guard.yaml'))


@pytest.fixture(scope='session')
def sim_config() -> SimConfig:
    """The virtual arm's settings."""
    return load(SimConfig, config_path('sim.yaml'))


@pytest.fixture(scope='session')
def arm(arm_config: ArmConfig) -> Arm:
    """The Panda's kinematics."""
    return Arm(arm_config)


@pytest.fixture
def world(arm: Arm, sim_config: SimConfig) -> Iterator:
    """A PyBullet world without a window."""
    from jepa_arm.sim.bullet import BulletWorld

    world = BulletWorld(arm, sim_config)
    yield world
    world.close()


@pytest.fixture(scope='module')
def one_thread() -> Iterator[None]:
    """torch computes with one thread, as the planner has; small networks gain by no more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def fill_disk() -> Iterator[Callable[[int], None]]:
    """From the call on no file of this process can have more than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
