"""Parameters of the nodes: unknown ones, and those that change while a node works."""

import subprocess
import sys
from itertools import cycle, pairwise

import numpy as np
import pytest
from guard_bench import Bench as GuardBench
from guard_bench import assert_smooth
from jepa_arm_msgs.msg import PlannerStatus
from planner_bench import FAR, Bench, Outcome, pose, usable_checkpoint
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.parameter import Parameter
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.config import PlannerConfig, load
from jepa_arm.motion import ACTION_METRES
from jepa_arm.nodes.description import SETTING_REFUSED
from jepa_arm.nodes.parameters import COMMAND
from jepa_arm.resources import config_path

pytestmark = [pytest.mark.ros, pytest.mark.slow]


def set_parameter(harness, node, name, value):
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return harness.call(SetParameters, f'{node}/set_parameters', request).results[0]


@pytest.mark.parametrize('node', ['sim', 'guard', 'planner'])
def test_a_parameter_that_a_node_does_not_have_ends_it_and_is_named(node):
    command = [sys.executable, '-m', f'jepa_arm.nodes.{node}', '--ros-args', '-p', 'amr:=panda']
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == SETTING_REFUSED and 'Traceback' not in ended.stderr
    assert "unknown parameter 'amr'" in ended.stderr and "'arm'" in ended.stderr


@pytest.mark.parametrize(
    ('words', 'told'), [(('--params-file', 'nofile.yaml'), 'nofile.yaml'), (('--bogus',), 'bogus')]
)
def test_arguments_that_ros_cannot_use_are_one_line(words, told):
    command = [sys.executable, '-m', 'jepa_arm.nodes.guard', '--ros-args', *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    *_, line = ended.stderr.splitlines()  # before it rcl may log
    assert ended.returncode == SETTING_REFUSED and 'Traceback' not in ended.stderr
    assert line.startswith('guard: ') and told in line


def test_a_parameter_says_when_it_counts_and_one_without_effect_is_not_taken(harness):
    """``autostart`` took another value of a running node, and nothing came of it."""
    harness.start('guard')
    names = ['arm', 'speed_scale', 'autostart', 'autoactivate']
    request = DescribeParameters.Request(names=names)
    told = harness.call(DescribeParameters, 'guard/describe_parameters', request).descriptors
    start = 'read when the process starts'
    texts = ['read when configured', 'may be set at any time', start, start]
    assert [d.additional_constraints for d in told] == texts
    for name in ('autostart', 'autoactivate'):
        assert not set_parameter(harness, 'guard', name, False).successful


def test_the_guard_slows_the_arm_down_while_it_moves(harness, arm):
    bench = GuardBench(harness, arm)
    bench.follow()
    fast = np.abs(bench.robot.velocities()[-30:]).max()
    assert set_parameter(harness, 'guard', 'speed_scale', 0.1).successful
    bench.follow()
    slow = np.abs(bench.robot.velocities()[-30:])
    assert np.all(slow <= 0.1 * arm.velocity_limit + 1e-6) and slow.max() < 0.5 * fast
    for value in (0.0, 1.5, float('nan'), 'fast', 1, None):
        assert not set_parameter(harness, 'guard', 'speed_scale', value).successful
    assert not set_parameter(harness, 'guard', 'arm', 'other').successful  # not while configured
    assert harness.wait(lambda: bench.status[-1][1].speed_scale == 0.1, 'status')
    just_above = 1.0 + 5e-7  # rclpy takes it for 1; it ended the guard in motion
    assert set_parameter(harness, 'guard', 'speed_scale', just_above).successful
    assert harness.wait(lambda: bench.status[-1][1].speed_scale == 1.0, 'status')
    bench.follow()
    assert_smooth(bench.robot, arm)


@pytest.fixture(scope='module')
def bench(shared_harness, arm, arm_config, sim_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp('graph')
    checkpoint = usable_checkpoint(folder, arm_config, sim_config)
    bench = Bench(shared_harness, arm, checkpoint, folder)
    yield bench
    bench.close()


@pytest.mark.sim
def test_a_planner_plans_as_slowly_as_the_guard_lets_the_arm_move(bench, arm):
    harness, share = bench.harness, 0.2
    proposals = harness.record(JointTrajectory, 'planner/joint_trajectory', COMMAND)
    assert set_parameter(harness, 'guard', 'speed_scale', share).successful
    told = len(bench.guard) + 3  # the planner hears of it, too
    harness.wait(lambda: len(bench.guard) > told, 'status of the guard')
    assert bench.guard[-1][1].speed_scale == share
    handle = bench.send(pose(*FAR[0]))
    harness.wait(lambda: len(proposals) > 10, 'proposals')
    handle.cancel_goal_async()
    bench.result(handle)
    planned = [m for _, m in bench.status if m.state == PlannerStatus.PLANNING]
    assert planned and all(m.speed_scale == share for m in planned)
    for msg in (m for _, m in proposals if m.points):  # without points it is the goal's end
        tips = [arm.tip_position(np.array(p.positions)) for p in msg.points]
        steps = [np.abs(b - a).max() for a, b in pairwise(tips)]
        assert max(steps) <= share * ACTION_METRES + 1e-3
    assert set_parameter(harness, 'guard', 'speed_scale', 1.0).successful


@pytest.mark.sim
def test_deadline_and_tolerance_of_a_planner_change_while_it_works(bench):
    bench.reset()
    harness = bench.harness

    def sweeps(deadline):
        """The most of a few plans."""
        assert set_parameter(harness, 'planner', 'deadline_ms', deadline).successful
        bench.go(next(places))
        begin = len(bench.status) + 2  # after what was under way

        def planned():
            new = [m for _, m in bench.status[begin:] if m.state == PlannerStatus.PLANNING]
            return [m.sweeps for m in new]

        harness.wait(lambda: len(planned()) > 4, 'plans')
        return max(planned())

    places = cycle(FAR)
    most = load(PlannerConfig, config_path('planner.yaml')).sweeps
    assert [sweeps(ms) for ms in (0.1, 1000.0, 0.1)] == [1, most, 1]
    sizes = {m.candidates // m.sweeps for _, m in bench.status if m.sweeps}
    assert len(sizes) == 1, 'measured once, for the deadline of the start'
    assert not set_parameter(harness, 'planner', 'deadline_ms', -1.0).successful
    assert set_parameter(harness, 'planner', 'deadline_ms', 0.0).successful
    assert set_parameter(harness, 'planner', 'goal_tolerance', 0.2).successful
    status, result = bench.result(bench.send(pose(*FAR[1])))
    assert result.outcome == Outcome.SUCCEEDED and result.final_distance > 0.02
    assert set_parameter(harness, 'planner', 'goal_tolerance', 0.0).successful
