"""Parameters of the nodes: invalid ones, and those that change while a node is active."""

import subprocess
import sys
from contextlib import contextmanager
from itertools import cycle, pairwise

import numpy as np
import pytest
import rclpy
from guard_bench import Bench as GuardBench
from guard_bench import assert_smooth
from jepa_arm_msgs.msg import PlannerStatus
from planner_bench import FAR, Bench, Outcome, pose, usable_checkpoint
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.context import Context
from rclpy.parameter import Parameter
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.config import ConfigError, PlannerConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.robot.action_space import ACTION_METRES
from jepa_arm.ros.guard.settings import GuardSettings
from jepa_arm.ros.planner.settings import PlannerSettings
from jepa_arm.ros.runtime.node_contract import EXIT_BAD_SETTING
from jepa_arm.ros.runtime.parameters import (
    AT_CONFIGURE,
    AT_START,
    LIVE,
    declare_settings,
    read_settings,
    reject_unknown_parameters,
)
from jepa_arm.ros.runtime.process import SETTING_ERRORS
from jepa_arm.ros.runtime.qos import COMMAND_QOS
from jepa_arm.ros.sim.node import SimSettings

pytestmark = [pytest.mark.ros, pytest.mark.slow]


def set_parameter(harness, node, name, value):
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return harness.call(SetParameters, f'{node}/set_parameters', request).results[0]


@contextmanager
def node_with(*arguments):
    context = Context()
    rclpy.init(args=['--ros-args', *arguments], context=context)
    node = rclpy.create_node('node', context=context)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


@pytest.mark.parametrize('kind', [GuardSettings, PlannerSettings, SimSettings])
def test_settings_are_declared_with_defaults_and_unknown_parameters_are_rejected(kind):
    with node_with('-p', 'arm:=ur5e') as node:
        declare_settings(node, kind)
        reject_unknown_parameters(node)
        assert read_settings(node, kind) == kind(arm='ur5e')
    with node_with('-p', 'amr:=panda') as node:
        declare_settings(node, kind)
        with pytest.raises(ConfigError, match="'amr', expected one of .*'arm'"):
            reject_unknown_parameters(node)


@pytest.mark.parametrize(
    'argument', ['seed:=text', 'seed:=-1', 'max_image_age:=11.0', 'guard_timeout:=0.0']
)
def test_value_of_another_type_or_out_of_bounds_is_rejected(argument):
    with node_with('-p', argument) as node, pytest.raises(SETTING_ERRORS):
        declare_settings(node, PlannerSettings)


def test_belief_file_needs_an_absolute_path_in_an_existing_folder(tmp_path):
    PlannerSettings(belief_file=str(tmp_path / 'belief'))
    for file in ('belief', str(tmp_path / 'nowhere' / 'belief')):
        with pytest.raises(ConfigError, match='belief_file'):
            PlannerSettings(belief_file=file)


@pytest.mark.parametrize(
    ('words', 'expected'),
    [(('-p', 'amr:=panda'), "'amr'"), (('--params-file', 'nofile.yaml'), 'nofile.yaml')],
)
def test_bad_argument_ends_a_node_with_one_line(words, expected):
    command = [sys.executable, '-m', 'jepa_arm.ros.guard.node', '--ros-args', *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    *_, line = ended.stderr.splitlines()  # rcl may log before it
    assert ended.returncode == EXIT_BAD_SETTING and 'Traceback' not in ended.stderr
    assert line.startswith('guard: ') and expected in line


def test_parameters_say_when_they_take_effect_and_fixed_ones_are_read_only(harness):
    harness.start('guard')
    names = ['arm', 'speed_scale', 'autostart', 'autoactivate']
    request = DescribeParameters.Request(names=names)
    found = harness.call(DescribeParameters, 'guard/describe_parameters', request).descriptors
    assert [d.additional_constraints for d in found] == [AT_CONFIGURE, LIVE, AT_START, AT_START]
    for name in ('autostart', 'autoactivate'):
        assert not set_parameter(harness, 'guard', name, False).successful


def test_speed_scale_slows_a_moving_arm_down(harness, arm):
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
    just_above = 1.0 + 5e-7  # rclpy accepts it
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
def test_plans_respect_the_speed_scale_of_the_guard(bench, arm):
    harness, share = bench.harness, 0.2
    proposals = harness.record(JointTrajectory, 'planner/joint_trajectory', COMMAND_QOS)
    assert set_parameter(harness, 'guard', 'speed_scale', share).successful
    known = len(bench.guard) + 3  # enough for the planner to receive one
    harness.wait(lambda: len(bench.guard) > known, 'status of the guard')
    assert bench.guard[-1][1].speed_scale == share
    handle = bench.send(pose(*FAR[0]))
    harness.wait(lambda: len(proposals) > 10, 'proposals')
    handle.cancel_goal_async()
    bench.result(handle)
    planned = [m for _, m in bench.status if m.state == PlannerStatus.PLANNING]
    assert planned and all(m.speed_scale == share for m in planned)
    for msg in (m for _, m in proposals if m.points):  # one without points is the end of the goal
        tips = [arm.tip_position(np.array(p.positions)) for p in msg.points]
        steps = [np.abs(b - a).max() for a, b in pairwise(tips)]
        assert max(steps) <= share * ACTION_METRES + 1e-3
    assert set_parameter(harness, 'guard', 'speed_scale', 1.0).successful


@pytest.mark.sim
def test_deadline_and_tolerance_of_an_active_planner_can_change(bench):
    bench.reset()
    harness = bench.harness

    def iterations(deadline):
        """Return the largest number of iterations in a few plans."""
        assert set_parameter(harness, 'planner', 'deadline_ms', deadline).successful
        bench.go(next(places))
        begin = len(bench.status) + 2  # after the plan in progress

        def planned():
            new = [m for _, m in bench.status[begin:] if m.state == PlannerStatus.PLANNING]
            return [m.iterations for m in new]

        harness.wait(lambda: len(planned()) > 4, 'plans')
        return max(planned())

    places = cycle(FAR)
    most = load(PlannerConfig, config_path('planner.yaml')).iterations
    assert [iterations(ms) for ms in (0.1, 1000.0, 0.1)] == [1, most, 1]
    sizes = {m.candidates // m.iterations for _, m in bench.status if m.iterations}
    assert len(sizes) == 1, 'fitted once, to the deadline at start-up'
    assert not set_parameter(harness, 'planner', 'deadline_ms', -1.0).successful
    assert set_parameter(harness, 'planner', 'deadline_ms', 0.0).successful
    assert set_parameter(harness, 'planner', 'goal_tolerance', 0.2).successful
    status, result = bench.result(bench.send(pose(*FAR[1])))
    assert result.outcome == Outcome.SUCCEEDED and result.final_distance > 0.02
    assert set_parameter(harness, 'planner', 'goal_tolerance', 0.0).successful
