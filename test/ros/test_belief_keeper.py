"""What keeps the planner's belief: the newest is on disk, and what is refused is told."""

import time
from dataclasses import replace

import numpy as np
import pytest
from rclpy.logging import get_logger

from jepa_arm import memory
from jepa_arm.agent import Agent
from jepa_arm.config import PlannerConfig, load
from jepa_arm.goals import PositionGoal
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.nodes.belief_keeper import BeliefKeeper
from jepa_arm.resources import checkpoint_path, config_path
from jepa_arm.types import JointSample, Observation

pytestmark = pytest.mark.ros
OWNER = '/planner of domain 0'


@pytest.fixture(scope='module')
def checkpoint():
    return load_checkpoint(checkpoint_path('compact'))


@pytest.fixture
def make(checkpoint, arm):
    """An agent and its keeper, as in a new process."""
    config = load(PlannerConfig, config_path('planner.yaml'))
    config = replace(config, sweeps=1, runtime='torch')  # nothing is planned for
    keepers = []

    def new(path, max_age=30.0):
        agent = Agent(checkpoint, arm, config)
        keeper = BeliefKeeper(path, agent, checkpoint, max_age, OWNER, get_logger('test'))
        keepers.append(keeper)
        return agent, keeper

    yield new
    for keeper in keepers:
        keeper.close()


@pytest.fixture
def path(tmp_path):
    (tmp_path / 'kept').mkdir()
    return tmp_path / 'kept' / 'belief.safetensors'


def see(agent, keeper, camera, stamp):
    rng = np.random.default_rng(round(stamp * 10))
    image = rng.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
    agent.decide(Observation(image, agent._arm.home, stamp))
    keeper.keep()


def at(arm, stamp):
    return JointSample(arm.home, arm.home * 0.0, stamp)


def wait(condition):
    deadline = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_newest_belief_is_given_back_once_and_only_to_its_owner(
    make, path, checkpoint, arm, monkeypatch
):
    monkeypatch.setattr(memory, 'CLOCKS_S', 60.0)  # the stamps are not of this machine's clock
    agent, keeper = make(path)
    assert keeper.state == 'none was kept' and not keeper.problems
    for i in range(6):
        see(agent, keeper, checkpoint.contract.camera, 10.0 + 0.1 * i)
    wait(path.exists)
    keeper.close()
    other, again = make(path)
    assert again.recall(at(arm, 10.8)) == 10.5
    assert other.memory().stamp == pytest.approx(10.7)
    assert again.state.startswith('taken up, 0.3 s old') and not again.problems
    assert again.recall(at(arm, 10.9)) is None


def test_a_clock_that_began_anew_leaves_the_agent_blind_and_says_why(make, path, checkpoint, arm):
    agent, keeper = make(path)
    see(agent, keeper, checkpoint.contract.camera, 10.0)
    keeper.close()
    other, again = make(path)
    assert again.recall(at(arm, 0.5)) is None
    assert other.memory() is None
    assert 'not taken up: it is of 10.00 s, and now is 0.50 s' in again.problems[0]
    assert again.recall(at(arm, 10.5)) is None


def test_what_is_not_to_be_believed_is_kept_no_longer(make, path, checkpoint, arm):
    """A new process would plan from it."""
    agent, keeper = make(path)
    see(agent, keeper, checkpoint.contract.camera, 10.0)
    wait(path.exists)
    _, again = make(path)
    again.forget('the image has not changed')
    wait(lambda: not path.exists())
    assert again.recall(at(arm, 10.5)) is None
    assert 'the image has not changed' in again.problems[0]


def test_a_belief_that_cannot_be_written_is_told_until_it_can(make, path, checkpoint):
    agent, keeper = make(path)
    path.parent.rmdir()
    see(agent, keeper, checkpoint.contract.camera, 10.0)
    wait(lambda: keeper.problems)
    assert 'the belief is not kept' in keeper.problems[0]
    path.parent.mkdir()
    see(agent, keeper, checkpoint.contract.camera, 10.1)
    wait(lambda: not keeper.problems and path.exists())


def test_nothing_is_kept_where_no_file_is_named(make, checkpoint, tmp_path):
    agent, keeper = make(None)
    agent.set_goal(PositionGoal('tip', np.array([0.5, 0.0, 0.1])))
    see(agent, keeper, checkpoint.contract.camera, 10.0)
    keeper.forget('')
    assert keeper.state == 'off' and not list(tmp_path.iterdir())
