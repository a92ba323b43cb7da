"""The episode runner in process closes the world that it opens."""

import pybullet
import pytest

from jepa_arm.config import ArmConfig, GuardConfig, SimConfig
from jepa_arm.evaluation.episode_runner import EpisodeRunner, SimulationSetup
from jepa_arm.evaluation.protocol import EvaluationSettings, evaluate_policy

pytestmark = pytest.mark.sim


@pytest.fixture
def setup(
    arm_config: ArmConfig, sim_config: SimConfig, guard_config: GuardConfig
) -> SimulationSetup:
    return SimulationSetup(arm_config, sim_config, guard_config)


def open_worlds() -> int:
    clients = (pybullet.getConnectionInfo(physicsClientId=i) for i in range(16))
    return sum(client['isConnected'] for client in clients)


def test_a_runner_closes_its_world_although_an_episode_fails(setup: SimulationSetup) -> None:
    before = open_worlds()
    with pytest.raises(RuntimeError, match='in between'):
        with EpisodeRunner(setup, 'reach') as runner:
            assert open_worlds() == before + 1
            runner.world.reset(runner.prepare(50_000))
            raise RuntimeError('in between')
    assert open_worlds() == before


def test_an_evaluation_that_fails_leaves_no_world_open(setup: SimulationSetup) -> None:
    before = open_worlds()
    with pytest.raises(ZeroDivisionError):
        evaluate_policy('scripted', setup, EvaluationSettings('reach', episodes=0))
    assert open_worlds() == before
