"""The virtual arm's process: what a driver and a camera would offer, and what may go wrong."""

import subprocess
import sys
import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from jepa_arm_msgs.msg import Goal
from jepa_arm_msgs.srv import Step
from sensor_msgs.msg import JointState
from sim_bench import DT, SimBench, stamps
from std_msgs.msg import Float64MultiArray

from jepa_arm.robot.camera import intrinsics
from jepa_arm.ros.graph.description import SimulationGraph
from jepa_arm.ros.graph.supervisor import Supervisor
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.node_contract import EXIT_BAD_SETTING
from jepa_arm.ros.runtime.qos import COMMAND_QOS, SENSOR_QOS, STATUS_QOS

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]


@pytest.fixture(scope='module')
def started(shared_harness, arm):
    return SimBench(shared_harness, arm).wait_camera()


@pytest.fixture
def bench(started):
    started.reset(seed=0)
    return started


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


def test_images_of_an_arm_at_rest_are_not_late(bench):
    for seed in range(2):  # each begins at another time of the ticks that are made at once
        bench.reset(seed)
        time.sleep(0.5 + 0.013 * seed)
        for log in (bench.joints, bench.images):
            log.clear()
        bench.harness.wait(lambda: len(bench.images) >= 8, 'images')
        joints = np.array([at for at, _ in bench.joints]) - stamps(bench.joints)
        images = np.array([at for at, _ in bench.images]) - stamps(bench.images)
        assert np.median(images) - np.min(joints) < 0.015  # the newest of the joint states


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


def test_invalid_commands_are_refused(bench):
    start, names = bench.position(), bench.arm.joint_names
    bench.send([start + 0.3], [0.5], ['x', *names[1:]])
    bench.send([start[:6] + 0.3], [0.5], names[:6])
    bench.send([start + np.nan], [0.5])
    bench.send([start + 0.3, start + 0.4], [0.5, 0.4])
    bench.send([start + 0.5], [DT])  # a jump
    bench.send_bytes(b'\x00\x01\x00\x00' + 40 * b'\xff')
    time.sleep(0.8)
    assert bench.is_at(start, 2e-3)


def test_forward_positions_move_the_arm(bench):
    publisher = bench.harness.publisher(
        Float64MultiArray, 'forward_position_controller/commands', COMMAND_QOS
    )
    start = bench.position()
    for i in range(1, 31):
        publisher.publish(Float64MultiArray(data=(start + i * 0.005).tolist()))
        time.sleep(0.01)
    bench.harness.wait(lambda: bench.is_at(start + 0.15), 'the last position')
    publisher.publish(Float64MultiArray(data=[0.0]))
    time.sleep(0.3)
    assert bench.is_at(start + 0.15)


def test_forward_velocities_move_the_arm_until_they_time_out(bench):
    publisher = bench.harness.publisher(
        Float64MultiArray, 'forward_velocity_controller/commands', COMMAND_QOS
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


def test_the_task_can_be_changed_and_an_unknown_one_is_refused(bench):
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


def test_an_unknown_fault_is_refused_with_the_known_ones(bench):
    response = bench.break_('earthquake')
    assert not response.success and 'camera_stop' in response.message
    assert not bench.break_('camera_stop', duration=float('nan')).success


def test_diagnostics_name_the_active_faults(bench):
    log = bench.harness.record(DiagnosticArray, '/diagnostics', STATUS_QOS)
    bench.break_('arm_blocked')
    bench.harness.wait(lambda: any('arm_blocked' in m.status[0].message for _, m in log), 'fault')


def test_a_step_is_refused_in_real_time(bench):
    response = bench.harness.call(Step, 'sim/step', Step.Request(control_steps=1))
    assert not response.success and 'lock_step' in response.message


def test_a_second_virtual_arm_ends_with_a_reason_before_it_publishes(bench):
    """Both published: the clock jumped back and forth, and the first graph's guard held."""
    bench.clock.clear()
    command = [sys.executable, '-m', 'jepa_arm.ros.sim.node', '--ros-args', '-r']
    others = [
        subprocess.Popen([*command, space], stderr=subprocess.PIPE, text=True)
        for space in ('__node:=sim_2', '__ns:=/other')  # there it would share the clock
    ]
    for other in others:
        _, errors = other.communicate(timeout=60.0)
        assert other.returncode == EXIT_BAD_SETTING and 'Traceback' not in errors, errors
        assert 'publishes on ROS domain' in errors and 'choose another namespace' in errors
    times = [convert.to_seconds(m.clock) for _, m in bench.clock]
    assert len(times) > 40 and 0.0 < np.diff(times).min() and np.diff(times).max() < 0.5


def test_of_two_virtual_arms_started_at_once_at_most_one_stays(tmp_path):
    """Neither sees the other's topics before it makes its own."""
    command = [sys.executable, '-m', 'jepa_arm.ros.sim.node', '--ros-args', '-r', '__ns:=/twin']
    with (tmp_path / 'log').open('w') as log:
        twins = [subprocess.Popen([*command, '-r', '/clock:=clock'], stderr=log) for _ in '12']
    try:
        deadline = time.monotonic() + 20.0
        while all(t.poll() is None for t in twins) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        assert EXIT_BAD_SETTING in [t.poll() for t in twins]
    finally:
        for twin in twins:
            twin.terminate()
            twin.wait(10.0)
    assert 'expected to be the only publisher of /twin/' in (tmp_path / 'log').read_text()


def test_a_virtual_arm_waits_for_one_that_is_listed_but_silent(harness, tmp_path):
    """It has died perhaps, which the others do not know for a while."""
    other = harness.execute(
        lambda: harness.node.create_publisher(JointState, 'late/joint_states', SENSOR_QOS)
    )
    [sim] = SimulationGraph(namespace='late').nodes[:1]

    def log():
        return graph.log_file('sim').read_text()

    for attempt in range(3):  # discovery may take longer than it listens: a datagram may be lost
        graph = Supervisor([sim], 'late', tmp_path / str(attempt))
        harness.cleanup.append(graph.stop)
        graph.start()
        harness.wait(lambda: 'it may have died' in log() or 'push, seed 0' in log(), 'its choice')
        if 'it may have died' in log():
            break
        graph.stop()
    assert 'it may have died' in log()
    time.sleep(0.5)
    assert harness.node.count_publishers('late/joint_states') == 1 and graph.poll_ended() is None
    harness.execute(lambda: harness.node.destroy_publisher(other))
    harness.wait(lambda: harness.node.count_publishers('late/joint_states') == 1, 'the arm')
    harness.wait(lambda: 'push, seed 0' in log(), 'its first words')
