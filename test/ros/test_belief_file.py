"""The belief file holds the newest belief, and what is refused is reported."""

import time
from dataclasses import replace

import numpy as np
import pytest
from rclpy.logging import get_logger

from jepa_arm.agent.agent import Agent
from jepa_arm.belief import snapshot
from jepa_arm.config import PlannerConfig, load
from jepa_arm.core.files import checkpoint_path, config_path
from jepa_arm.core.goals import PositionGoal
from jepa_arm.core.types import JointSample, Observation
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.ros.planner.belief_file import BeliefFile

pytestmark = pytest.mark.ros
OWNER = '/planner of domain 0'


@pytest.fixture(scope='module')
def checkpoint():
    return load_checkpoint(checkpoint_path('compact'))


@pytest.fixture
def make(checkpoint, arm):
    """Return an agent and its belief file, as in a new process."""
    config = load(PlannerConfig, config_path('planner.yaml'))
    config = replace(config, iterations=1, backend='torch')  # nothing is planned for
    files = []

    def new(path, max_age=30.0):
        agent = Agent(checkpoint, arm, config)
        file = BeliefFile(path, agent, OWNER, max_age, get_logger('test'))
        files.append(file)
        return agent, file

    yield new
    for file in files:
        file.close()


@pytest.fixture
def path(tmp_path):
    (tmp_path / 'kept').mkdir()
    return tmp_path / 'kept' / 'belief.safetensors'


def see(agent, file, camera, stamp):
    rng = np.random.default_rng(round(stamp * 10))
    image = rng.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
    agent.step(Observation(image, agent.arm.home, stamp))
    file.save()


def at(arm, stamp):
    return JointSample(arm.home, arm.home * 0.0, stamp)


def wait(condition):
    deadline = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_newest_belief_is_restored_once(make, path, checkpoint, arm, monkeypatch):
    monkeypatch.setattr(snapshot, 'MAX_CLOCK_DIFFERENCE_S', 60.0)  # stamps are made up
    agent, file = make(path)
    assert file.state == 'not found' and not file.problems
    for i in range(6):
        see(agent, file, checkpoint.contract.camera, 10.0 + 0.1 * i)
    wait(path.exists)
    file.close()
    other, again = make(path)
    assert again.restore(at(arm, 10.8)) == 10.5
    assert other.snapshot().stamp == pytest.approx(10.7)
    assert again.state.startswith('restored, 0.3 s old') and not again.problems
    assert again.restore(at(arm, 10.9)) is None


def test_a_belief_from_the_future_is_refused_and_reported(make, path, checkpoint, arm):
    agent, file = make(path)
    see(agent, file, checkpoint.contract.camera, 10.0)
    file.close()
    other, again = make(path)
    assert again.restore(at(arm, 0.5)) is None
    assert other.snapshot() is None
    assert 'not restored: it is of 10.00 s, and now is 0.50 s' in again.problems[0]
    assert again.restore(at(arm, 10.5)) is None


def test_a_distrusted_belief_is_deleted(make, path, checkpoint, arm):
    """A new process would plan from it."""
    agent, file = make(path)
    see(agent, file, checkpoint.contract.camera, 10.0)
    wait(path.exists)
    _, again = make(path)
    again.delete('the image has not changed')
    wait(lambda: not path.exists())
    assert again.restore(at(arm, 10.5)) is None
    assert 'the image has not changed' in again.problems[0]


def test_a_write_error_is_reported_until_writing_works(make, path, checkpoint):
    agent, file = make(path)
    path.parent.rmdir()
    see(agent, file, checkpoint.contract.camera, 10.0)
    wait(lambda: file.problems)
    assert 'the belief is not saved' in file.problems[0]
    path.parent.mkdir()
    see(agent, file, checkpoint.contract.camera, 10.1)
    wait(lambda: not file.problems and path.exists())


def test_without_a_path_nothing_is_saved(make, checkpoint, tmp_path):
    agent, file = make(None)
    agent.set_goal(PositionGoal('tip', np.array([0.5, 0.0, 0.1])))
    see(agent, file, checkpoint.contract.camera, 10.0)
    file.delete('')
    assert file.state == 'off' and not list(tmp_path.iterdir())
