"""The planning thread survives failing requests."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from jepa_arm.agent.agent import Agent
from jepa_arm.config import PlannerConfig, load
from jepa_arm.core.files import checkpoint_path, config_path
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.ros.planner.belief_file import BeliefFile
from jepa_arm.ros.planner.goal_server import GoalServer
from jepa_arm.ros.planner.guard_monitor import GuardMonitor
from jepa_arm.ros.planner.observer import Observer
from jepa_arm.ros.planner.plan_publisher import PlanPublisher
from jepa_arm.ros.planner.planning_loop import PlannerConnections, PlanningLoop
from jepa_arm.ros.planner.settings import PlannerSettings

pytestmark = pytest.mark.ros


@pytest.fixture
def loop(harness, arm):
    """Return a planning loop without images."""
    checkpoint = load_checkpoint(checkpoint_path('compact'))
    config = load(PlannerConfig, config_path('planner.yaml'))
    config = replace(config, backend='torch', iterations=1, deadline_ms=float('inf'))
    node = harness.node
    settings = PlannerSettings(lock_step=True, dry_run=True).without_steady_limits()
    agent = Agent(checkpoint, arm, config)
    workspace = np.stack([arm.workspace_min, arm.workspace_max])
    goals = harness.execute(lambda: GoalServer(node, '', lambda: None))
    publisher = harness.execute(lambda: PlanPublisher(node, 'base', workspace))
    connections = PlannerConnections(
        Observer(arm, checkpoint.contract.camera, settings),
        GuardMonitor(len(arm.joint_names)),
        goals,
        publisher,
        send=None,
        uninterrupted=nullcontext,
        logger=node.get_logger(),
    )
    belief_file = BeliefFile(None, agent, '', 1.0, node.get_logger())
    loop = PlanningLoop(agent, connections, settings, belief_file)
    yield loop
    loop.stop()
    harness.execute(goals.destroy)


@pytest.mark.parametrize('error', [ValueError, RuntimeError, KeyError])
def test_an_error_of_a_request_reaches_its_caller_and_planning_continues(harness, loop, error):
    def fail(agent):
        raise error('no')

    failing, next_one = loop.submit(fail), loop.submit(lambda agent: 7)
    harness.wait(next_one.done, 'the second answer')
    assert isinstance(failing.exception(), error)
    assert next_one.result() == 7 and loop.is_alive


def test_the_deadline_changes_on_the_planning_thread(harness, loop):
    loop.set_deadline(12.5)
    harness.wait(lambda: loop.planners.deadline_ms == 12.5, 'the new deadline')
