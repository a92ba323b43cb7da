"""The virtual arm's process: what a driver and a camera would offer, and what may go wrong."""

import signal
import time
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from jepa_arm_msgs.msg import Goal, GuardStatus
from jepa_arm_msgs.srv import InjectFault, ResetScene, Step
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from jepa_arm.nodes import conversions as convert
from jepa_arm.nodes.parameters import COMMAND, STATUS
from jepa_arm.sim.camera import intrinsics
from jepa_arm.types import Proposal

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]
COMMANDS = 'joint_trajectory_controller/joint_trajectory'
EVERY = QoSProfile(depth=500, reliability=ReliabilityPolicy.BEST_EFFORT)
DT = 0.01


class Bench:
    """A virtual arm in real time, and everything it publishes."""

    def __init__(self, harness, arm, **parameters):
        self.harness, self.arm = harness, arm
        self.joints = harness.record(JointState, 'joint_states', EVERY)
        self.images = harness.record(Image, 'camera/image_raw', EVERY)
        self.infos = harness.record(CameraInfo, 'camera/camera_info', EVERY)
        self.clock = harness.record(Clock, '/clock', EVERY)
        self.truth = harness.record(PoseArray, 'ground_truth/objects', EVERY)
        self.process = harness.start('sim', **parameters).processes['sim']
        self._commands = None
        harness.wait(lambda: self.joints, 'joint states')

    def wait_camera(self):
        self.harness.wait(lambda: self.infos and self.images and self.truth, 'camera')
        return self

    def position(self):
        return convert.joints_from_msg(self.joints[-1][1], self.arm.joint_names).position

    def is_at(self, position, tolerance=0.01):
        return np.abs(self.position() - position).max() < tolerance

    def send(self, positions, times, names=None):
        """A trajectory through ``positions`` (N, J) at ``times`` s."""
        points = [
            JointTrajectoryPoint(
                positions=np.asarray(p, dtype=float).tolist(),
                time_from_start=convert.to_duration(t),
            )
            for p, t in zip(positions, times, strict=True)
        ]
        if self._commands is None:
            self._commands = self.harness.publisher(JointTrajectory, COMMANDS, COMMAND)
        self._commands.publish(
            JointTrajectory(joint_names=list(names or self.arm.joint_names), points=points)
        )

    def leave_commands_to_a_guard(self):
        """A guard that discovers another publisher of commands holds."""
        if self._commands is not None:
            self.harness.make(lambda: self.harness.node.destroy_publisher(self._commands))
            self._commands = None

    def reset(self, seed=0, task=''):
        response = self.harness.call(
            ResetScene, 'sim/reset', ResetScene.Request(seed=seed, task=task)
        )
        time.sleep(0.15)
        return response

    def break_(self, fault, duration=0.0, value=0.0):
        request = InjectFault.Request(fault=fault, duration=duration, value=value)
        return self.harness.call(InjectFault, 'sim/inject_fault', request)

    def object_position(self):
        p = self.truth[-1][1].poses[0].position
        return np.array([p.x, p.y, p.z])


@pytest.fixture(scope='module')
def started(shared_harness, arm):
    return Bench(shared_harness, arm).wait_camera()


@pytest.fixture
def bench(started):
    started.reset(seed=0)
    return started


def stamps(log):
    return np.array([convert.to_seconds(msg.header.stamp) for _, msg in log])


def test_readings_come_at_their_rates_with_stamps_that_fit(bench):
    for log in (bench.joints, bench.images, bench.clock):
        log.clear()
    time.sleep(1.5)
    joints, images = stamps(bench.joints), stamps(bench.images)
    assert 120 <= len(joints) <= 180 and 12 <= len(images) <= 18
    assert np.all(np.diff(joints) > 0.009)
    np.testing.assert_allclose(images / 0.1, np.round(images / 0.1), atol=1e-6)
    inside = images[(images >= joints[0]) & (images <= joints[-1])]
    assert np.mean([np.abs(joints - stamp).min() < 1e-6 for stamp in inside]) > 0.9
    clock = np.array([convert.to_seconds(m.clock) for _, m in bench.clock])
    assert np.all(np.diff(clock) > 0.0)
    wall = bench.joints[-1][0] - bench.joints[0][0]
    assert (joints[-1] - joints[0]) / wall == pytest.approx(1.0, abs=0.1)


def test_camera_info_and_image_are_those_of_the_configured_camera(bench, arm):
    camera = arm.config.camera
    image = convert.image_from_msg(bench.images[-1][1], (camera.width, camera.height))
    assert image.std() > 10.0
    info = bench.infos[-1][1]
    np.testing.assert_allclose(np.array(info.k).reshape(3, 3), intrinsics(camera))
    assert info.header.frame_id == camera.frame_id == bench.images[-1][1].header.frame_id


def test_a_trajectory_is_followed_through_its_points_and_held_at_the_end(bench):
    start = bench.position()
    via, end = start + 0.1, start + [0.2, 0.1, 0, 0.1, 0, 0, 0.3]
    began = len(bench.joints)
    bench.send([via, end], [0.5, 1.0])
    bench.harness.wait(lambda: bench.is_at(end), 'end of the trajectory')
    path = np.array([m.position for _, m in bench.joints[began:]])
    assert np.abs(path - via).max(axis=1).min() < 0.02
    time.sleep(0.5)
    assert bench.is_at(end)


def test_joints_may_come_in_another_order(bench):
    end = bench.position() + [0.1, 0, 0, 0, 0, 0, -0.2]
    order = [3, 0, 6, 1, 2, 5, 4]
    bench.send([end[order]], [0.5], [bench.arm.joint_names[i] for i in order])
    bench.harness.wait(lambda: bench.is_at(end), 'end of the trajectory')


def test_a_newer_trajectory_replaces_and_an_empty_one_stops(bench):
    start = bench.position()
    bench.send([start + 0.5], [2.0])
    time.sleep(0.3)
    back = start - [0, 0, 0, 0, 0, 0, 0.2]
    bench.send([back], [0.6])
    bench.harness.wait(lambda: bench.is_at(back), 'end of the newer trajectory')
    bench.send([back + 0.4], [2.0])
    time.sleep(0.5)
    bench.send([], [])
    time.sleep(0.3)
    stopped = bench.position()
    time.sleep(0.3)
    assert np.abs(stopped - back).max() > 0.02
    assert bench.is_at(stopped, 2e-3)


def test_commands_that_cannot_be_meant_are_refused(bench):
    start, names = bench.position(), bench.arm.joint_names
    bench.send([start + 0.3], [0.5], ['x', *names[1:]])
    bench.send([start[:6] + 0.3], [0.5], names[:6])
    bench.send([start + np.nan], [0.5])
    bench.send([start + 0.3, start + 0.4], [0.5, 0.4])
    bench.send([start + 0.5], [DT])  # a jump
    time.sleep(0.8)
    assert bench.is_at(start, 2e-3)


def test_plain_positions_move_the_arm_too(bench):
    publisher = bench.harness.publisher(
        Float64MultiArray, 'forward_position_controller/commands', COMMAND
    )
    start = bench.position()
    for i in range(1, 31):
        publisher.publish(Float64MultiArray(data=(start + i * 0.005).tolist()))
        time.sleep(0.01)
    bench.harness.wait(lambda: bench.is_at(start + 0.15), 'the last position')
    publisher.publish(Float64MultiArray(data=[0.0]))
    time.sleep(0.3)
    assert bench.is_at(start + 0.15)


def test_plain_velocities_move_the_arm_until_nobody_sends_them_any_more(bench):
    publisher = bench.harness.publisher(
        Float64MultiArray, 'forward_velocity_controller/commands', COMMAND
    )
    start = bench.position()
    for _ in range(50):
        publisher.publish(Float64MultiArray(data=[0.3] * 7))
        time.sleep(0.01)
    sent_at = time.monotonic()
    time.sleep(0.6)
    fast = [t for t, m in bench.joints if np.abs(m.velocity).max() > 0.02]
    assert 0.1 < fast[-1] - sent_at < 0.4
    held = bench.position()
    assert np.all(held - start > 0.1)
    publisher.publish(Float64MultiArray(data=[0.0]))
    publisher.publish(Float64MultiArray(data=[100.0] * 7))
    time.sleep(0.3)
    assert bench.is_at(held, 2e-3)


def test_the_same_seed_gives_the_same_scene_and_goal(bench):
    first, again, other = bench.reset(7), bench.reset(7), bench.reset(8)
    for response in (first, again, other):
        assert response.success and response.goal.kind == Goal.IMAGE
    assert first.goal.image.data == again.goal.image.data
    assert first.goal.joints.position == again.goal.joints.position
    assert first.goal_position == again.goal_position
    assert first.object_position == again.object_position
    assert first.object_position != other.object_position
    np.testing.assert_allclose(bench.object_position()[0], other.object_position.x, atol=1e-3)
    image = convert.image_from_msg(first.goal.image, (80, 64))
    assert image.std() > 10.0 and len(first.goal.joints.position) == 7


def test_task_can_be_changed_and_an_unknown_one_is_refused(bench):
    response = bench.reset(0, 'nonesuch')
    assert not response.success and 'push.yaml' in response.message
    response = bench.reset(0, 'reach')
    assert response.success and response.goal.subject == Goal.SUBJECT_TIP
    response = bench.reset(0, 'avoid_reach')
    assert not response.success and 'avoid_reach, seed 0: expected' in response.message
    assert bench.reset(0, 'push').goal.subject == Goal.SUBJECT_OBJECT


def test_time_goes_on_across_a_reset(bench):
    before = convert.to_seconds(bench.clock[-1][1].clock)
    bench.reset(3)
    after = [convert.to_seconds(m.clock) for _, m in bench.clock[-10:]]
    assert min(after) > before


def test_camera_faults(bench):
    assert bench.break_('camera_black', duration=0.35).success
    time.sleep(0.3)
    assert not convert.image_from_msg(bench.images[-1][1]).any()
    time.sleep(0.4)
    assert convert.image_from_msg(bench.images[-1][1]).any()

    bench.break_('camera_delay', value=0.25)
    time.sleep(0.7)
    delay = stamps(bench.joints)[-1] - stamps(bench.images)[-1]
    assert 0.2 < delay < 0.45
    bench.reset(0)

    bench.break_('camera_freeze')
    start = bench.position()
    bench.send([start + 0.4], [0.4])
    time.sleep(0.6)
    frozen = [bytes(m.data) for _, m in bench.images[-3:]]
    assert len(set(frozen)) == 1 and len({*stamps(bench.images[-3:])}) == 3
    bench.reset(0)

    bench.break_('camera_stop')
    time.sleep(0.15)
    count = len(bench.images)
    time.sleep(0.5)
    assert len(bench.images) == count


def test_joint_and_object_faults(bench):
    bench.break_('joints_nan', duration=0.2)
    time.sleep(0.1)
    assert np.isnan(bench.joints[-1][1].position).all()
    time.sleep(0.3)
    assert np.isfinite(bench.joints[-1][1].position).all()

    before = bench.object_position()
    bench.break_('object_move', value=0.05)
    time.sleep(0.3)
    assert np.linalg.norm(bench.object_position() - before) == pytest.approx(0.05, abs=5e-3)

    start = bench.position()
    bench.break_('arm_blocked')
    bench.send([start + 0.3], [0.3])
    time.sleep(0.6)
    assert bench.is_at(start)
    bench.reset(0)

    bench.break_('joints_stop')
    time.sleep(0.1)
    count = len(bench.joints)
    time.sleep(0.2)
    assert len(bench.joints) == count


def test_an_unknown_fault_is_answered_with_the_known_ones(bench):
    response = bench.break_('earthquake')
    assert not response.success and 'camera_stop' in response.message
    assert not bench.break_('camera_stop', duration=float('nan')).success


def test_diagnostics_name_the_faults_in_force(bench):
    log = bench.harness.record(DiagnosticArray, '/diagnostics', STATUS)
    bench.break_('arm_blocked')
    bench.harness.wait(lambda: any('arm_blocked' in m.status[0].message for _, m in log), 'fault')


def test_step_is_refused_in_real_time(bench):
    response = bench.harness.call(Step, 'sim/step', Step.Request(control_steps=1))
    assert not response.success and 'lock_step' in response.message


# With the guard.


class Loop:
    """Virtual arm and guard; the planner is this test."""

    def __init__(self, bench):
        self.bench, self.harness, self._seen = bench, bench.harness, 0
        bench.leave_commands_to_a_guard()
        self.status = self.harness.record(GuardStatus, 'guard/status', STATUS)
        self.commands = self.harness.record(JointTrajectory, COMMANDS, QoSProfile(depth=500))
        self.guard = self.harness.start('guard', use_sim_time=True)
        self._planner = self.harness.publisher(
            JointTrajectory, 'planner/joint_trajectory', COMMAND
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


def test_a_nan_plan_never_reaches_the_robot_side(loop):
    loop.move()

    def spoil(msg):
        msg.points[2].positions[1] = float('nan')
        return msg

    loop.follow(0.5, spoil)
    loop.harness.wait(lambda: loop.status[-1][1].state == GuardStatus.LATCHED, 'latch')
    sent = np.array([m.points[0].positions for _, m in loop.commands])
    assert np.all(np.isfinite(sent))
    measured = np.array([m.position for _, m in loop.bench.joints])
    assert np.all(np.isfinite(measured[-200:]))
    time.sleep(0.2)
    assert loop.speed() < 1e-3


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
