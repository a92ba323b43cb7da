"""The virtual arm behind a guard: what no plan, and no death of a process, makes it do."""

import signal
import time
from typing import Any

import numpy as np
import pytest
from jepa_arm_msgs.msg import GuardStatus
from rclpy.qos import QoSProfile
from sim_bench import COMMANDS, DT, SimBench
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.core.types import Proposal
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.qos import COMMAND_QOS, STATUS_QOS

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]


@pytest.fixture(scope='module')
def started(shared_harness, arm):
    return SimBench(shared_harness, arm).wait_camera()


@pytest.fixture
def bench(started):
    started.reset(seed=0)
    return started


class Loop:
    """Virtual arm and guard; the planner is this test."""

    def __init__(self, bench):
        self.bench, self.harness, self._seen = bench, bench.harness, 0
        bench.leave_commands_to_a_guard()
        self.status = self.harness.record(GuardStatus, 'guard/status', STATUS_QOS)
        self.commands = self.harness.record(JointTrajectory, COMMANDS, QoSProfile(depth=500))
        self.guard = self.harness.start('guard', use_sim_time=True)
        self._planner = self.harness.publisher(
            JointTrajectory, 'planner/joint_trajectory', COMMAND_QOS
        )
        self.harness.wait(lambda: len(self.commands) > 10 and self.status, 'guard')

    def follow(self, seconds=1.0, spoil=None):
        """Plans from each new image, as a planner would."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if len(self.bench.images) > self._seen:
                self._seen = len(self.bench.images)
                stamp = convert.to_seconds(self.bench.images[-1][1].header.stamp)
                start = np.array(self.commands[-1][1].points[0].positions)
                steps: Any = np.arange(1, 11)[:, None] * np.array([0, 0, 0, 0, 0, 0, 0.08])
                times: Any = np.arange(1, 11) * 0.1
                names = self.bench.arm.joint_names
                proposal = Proposal(names, start + steps, times, stamp, 0.25)
                msg = convert.proposal_to_msg(proposal)
                self._planner.publish(spoil(msg) if spoil else msg)
                self.last_sent = time.monotonic()
            time.sleep(0.005)

    def move(self):
        """Plans until the arm moves, however slow the machine is."""
        deadline = time.monotonic() + 10.0
        self.follow(0.5)
        while not self.was_moving():
            assert time.monotonic() < deadline, self.status[-1][1].reasons
            self.follow(0.2)

    def speed(self):
        return np.abs(self.bench.joints[-1][1].velocity).max()

    def was_moving(self):
        return max(np.abs(m.velocity).max() for _, m in self.bench.joints[-30:]) > 0.1


@pytest.fixture
def loop(bench):
    loop = Loop(bench)
    yield loop
    loop.guard.stop()
    time.sleep(0.2)


def test_planner_silence_stops_the_virtual_arm_smoothly_within_300_ms(loop):
    loop.move()
    time.sleep(0.6)
    fast = [t for t, m in loop.bench.joints if np.abs(m.velocity).max() > 0.02]
    assert fast[-1] - loop.last_sent < 0.3
    velocity = np.array([m.points[0].velocities for _, m in loop.commands])
    change = np.abs(np.diff(velocity, axis=0)) / DT
    assert np.all(change <= loop.bench.arm.braking_limit * 1.001)


def test_a_reset_scene_needs_a_reset_guard_and_nothing_pulls_the_arm_back(loop):
    response = loop.bench.reset(11)
    start = loop.bench.position()
    time.sleep(0.5)
    assert response.success and loop.bench.is_at(start, 2e-3)
    answer = loop.harness.call(Trigger, 'guard/reset')
    assert answer.success, answer.message
    loop.harness.wait(lambda: loop.status[-1][1].state == GuardStatus.IDLE, 'idle')
    loop.move()
    assert loop.status[-1][1].state == GuardStatus.FOLLOWING


def test_the_virtual_arm_holds_when_the_guard_is_killed(loop):
    loop.move()
    loop.guard.processes['guard'].send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    time.sleep(0.6)
    fast = [t for t, m in loop.bench.joints if np.abs(m.velocity).max() > 0.02]
    assert fast[-1] - killed_at < 0.3
    held = loop.bench.position()
    time.sleep(0.5)
    assert loop.bench.is_at(held, 2e-3)
