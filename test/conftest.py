"""What many tests need: the Panda, the simulator's settings, a world."""

import resource
from collections.abc import Callable, Iterator

import pytest

from jepa_arm.arm import Arm
from jepa_arm.config import ArmConfig, SimConfig, load
from jepa_arm.resources import config_path


@pytest.fixture(scope='session')
def arm_config() -> ArmConfig:
    """The Panda."""
    return load(ArmConfig, config_path('arms/panda.yaml'))


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


@pytest.fixture
def fill_disk() -> Iterator[Callable[[int], None]]:
    """From the call on no file of this process can have more than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
