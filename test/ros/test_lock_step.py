"""In lock-step nothing depends on the speed of the machine; and how the virtual arm ends."""

import signal
import time
from typing import Any

import numpy as np
import pytest
from jepa_arm_msgs.msg import GuardStatus
from jepa_arm_msgs.srv import Step
from sim_bench import SimBench, stamps
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.config import GuardConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.core.types import JointSample, Proposal
from jepa_arm.guard.guard import Guard
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.qos import COMMAND_QOS, STATUS_QOS
from jepa_arm.sim.bullet import BulletWorld
from jepa_arm.sim.tasks import load_task

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]


def test_lock_step_gives_the_same_motion_as_in_process(harness, arm, sim_config):
    """Every tick waits for its command, so nothing depends on the speed of the machine."""
    steps: Any = np.arange(1, 11)[:, None] * np.array([0.001, 0, 0, 0.001, 0, 0, 0.06])
    times: Any = np.arange(1, 11) * 0.1
    names = arm.joint_names

    bench = SimBench(harness, arm, lock_step=True, seed=4)
    status = harness.record(GuardStatus, 'guard/status', STATUS_QOS)
    harness.start('guard', lock_step=True)
    planner = harness.publisher(JointTrajectory, 'planner/joint_trajectory', COMMAND_QOS)
    harness.wait(lambda: status and status[-1][1].state == GuardStatus.IDLE, 'guard')
    # The service answers from now on, so that no step is asked for twice.
    assert harness.call(Step, 'sim/step', Step.Request()).success
    began = time.monotonic()
    for i in range(5):
        stamp = stamps(bench.joints)[-1]
        start = np.array(status[-1][1].command)
        accepted = status[-1][1].accepted
        planner.publish(
            convert.proposal_to_msg(Proposal(names, start + steps, times, stamp, 0.25))
        )
        harness.wait(lambda n=accepted: status[-1][1].accepted > n, 'acceptance')
        response = harness.call(Step, 'sim/step', Step.Request(control_steps=1))
        assert response.success, response.message
        now = convert.to_seconds(response.sim_time)
        harness.wait(lambda now=now: abs(stamps(bench.joints)[-1] - now) < 1e-6, 'joints')
        harness.wait(lambda now=now: convert.to_seconds(status[-1][1].header.stamp) > 0, 'status')
        count = len(status)
        harness.wait(lambda n=count: len(status) > n, 'status after the step')
        assert now == pytest.approx(0.1 * (i + 2))
    assert time.monotonic() - began < 20.0

    world = BulletWorld(arm, sim_config)
    scene = load_task('push', arm, sim_config).sample(4)
    world.reset(scene)
    guard: Any = Guard(arm, sim_config.time, load(GuardConfig, config_path('guard.yaml')))
    guard.reset(world.joints()[0], 0.0)
    for _ in range(5):
        start = guard.command.position
        assert not guard.submit(
            Proposal(names, start + steps, times, world.time, 0.25), world.time
        ).reasons
        for _ in range(10):
            position, velocity = world.joints()
            guard.observe(JointSample(position, velocity, world.time), world.time)
            command = guard.tick(world.time).command
            world.command(command.position, command.velocity)
            world.step()
    np.testing.assert_allclose(bench.position(), world.joints()[0], atol=1e-9)
    world.close()


@pytest.mark.extended
def test_lock_step_without_a_guard_fails_with_a_reason(harness, arm):
    SimBench(harness, arm, lock_step=True)
    response = harness.call(Step, 'sim/step', Step.Request(control_steps=1), retry_after=20.0)
    assert not response.success and 'guard' in response.message


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_with_0(harness, arm, number):
    bench = SimBench(harness, arm)
    bench.process.send_signal(number)
    assert bench.process.wait(10.0) == 0
