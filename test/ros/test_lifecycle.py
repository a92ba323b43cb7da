"""Guard and planner as managed nodes: what they do in which state, and how transitions fail."""

import signal
import time

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from guard_bench import COMMANDS, EVERY, Robot, assert_smooth
from guard_bench import Bench as GuardBench
from jepa_arm_msgs.action import MoveToGoal
from jepa_arm_msgs.msg import GuardStatus, PlannerStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from planner_bench import FAR, Bench, Outcome, pose, quick_planner, usable_checkpoint
from rcl_interfaces.srv import SetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from jepa_arm.nodes.description import SETTING_REFUSED, NodeSpec
from jepa_arm.nodes.graph import Supervisor
from jepa_arm.nodes.lifecycle import ManagedNode
from jepa_arm.nodes.parameters import COMMAND, STATUS
from jepa_arm.nodes.vitals import resident_mb

pytestmark = [pytest.mark.ros, pytest.mark.slow]
AT_ONCE_S = 5.0


class Manager:
    """One managed node, started without configuring itself, and its transitions."""

    def __init__(self, harness, name, log_dir, **parameters):
        self.harness, self.name = harness, name
        spec = NodeSpec(name, {'autostart': False, **parameters}, f'{name}/transition_event')
        self.graph = Supervisor([spec], log_dir=log_dir, watcher=harness.node)
        harness.cleanup.append(self.graph.stop)
        self.graph.start()
        self.graph.wait_ready()
        self.process = self.graph.processes[name]

    def change(self, transition=0, label=''):
        """Whether the transition was made, be it at a first call whose answer was lost."""
        request = ChangeState.Request(transition=Transition(id=transition, label=label))
        before = Manager.state(self)
        answer = self.harness.call(ChangeState, f'{self.name}/change_state', request)
        return answer.success or Manager.state(self) != before

    def state(self):
        return self.harness.call(GetState, f'{self.name}/get_state').current_state.label

    def set(self, name, value):
        parameter = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        name = f'{self.name}/set_parameters'
        return self.harness.call(SetParameters, name, request).results[0]

    def log(self):
        return self.graph.log_file(self.name).read_text()


@pytest.fixture
def guard(harness, arm, tmp_path):
    robot = Robot(harness, arm)
    harness.cleanup.append(robot.close)
    guard = Manager(harness, 'guard', tmp_path)
    guard.robot, guard.status = robot, harness.record(GuardStatus, 'guard/status', STATUS)
    return guard


def configured(guard):
    assert guard.change(Transition.TRANSITION_CONFIGURE)
    guard.harness.wait(lambda: guard.status, 'status')
    return guard


def test_a_guard_commands_only_while_it_is_active(guard, arm):
    node = guard.harness.node
    assert guard.state() == 'unconfigured'
    configured(guard)
    planner = guard.harness.publisher(JointTrajectory, 'planner/joint_trajectory', COMMAND)
    planner.publish(JointTrajectory())
    guard.harness.wait(lambda: guard.status[-1][1].rejected == 1, 'refusal')
    assert guard.status[-1][1].state == GuardStatus.INACTIVE
    assert guard.status[-1][1].reasons[0].startswith('inactive: the guard is not active')
    time.sleep(1.5)
    assert not guard.robot.commands and node.count_publishers(COMMANDS) == 0
    began = time.monotonic()
    assert guard.change(Transition.TRANSITION_ACTIVATE)
    guard.harness.wait(lambda: guard.robot.commands, 'commands')
    assert time.monotonic() - began < AT_ONCE_S
    np.testing.assert_allclose(guard.robot.positions()[0], arm.home, atol=1e-9)


def test_a_guard_deactivated_in_motion_stops_in_order_and_releases_the_commands(harness, arm):
    bench = GuardBench(harness, arm)
    bench.follow()
    change = Manager.change
    bench.name = 'guard'
    assert change(bench, Transition.TRANSITION_DEACTIVATE)
    harness.wait(lambda: harness.node.count_publishers(COMMANDS) == 0, 'release of the topic')
    assert bench.robot.is_at_rest()
    assert_smooth(bench.robot, arm)
    count = len(bench.robot.commands)
    bench.send(bench.message())
    status = bench.wait_state(GuardStatus.INACTIVE)
    said = len(bench.status)
    time.sleep(0.5)
    assert len(bench.robot.commands) == count and len(status.command) == 0
    assert len(bench.status) - said < 20  # ten a second; it said and logged at every tick once
    bench.robot.position = bench.robot.position + 0.05  # moved by hand meanwhile
    assert change(bench, Transition.TRANSITION_ACTIVATE)
    harness.wait(lambda: len(bench.robot.commands) > count + 10, 'commands')
    np.testing.assert_allclose(bench.robot.positions()[count], bench.robot.position, atol=1e-9)
    bench.follow()


def test_a_guard_shut_down_in_motion_stops_in_order(harness, arm):
    bench = GuardBench(harness, arm)
    bench.follow()
    bench.name = 'guard'
    assert Manager.change(bench, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert Manager.state(bench) == 'finalized'
    assert bench.robot.is_at_rest()
    assert_smooth(bench.robot, arm)
    bench.process.send_signal(signal.SIGTERM)
    assert bench.process.wait(10.0) == 0


def test_what_cannot_be_configured_is_told_and_can_be_put_right(harness, tmp_path):
    guard = Manager(harness, 'guard', tmp_path, guard_config='nonesuch.yaml')
    health = harness.record(DiagnosticArray, '/diagnostics', STATUS)

    def says(*words):
        status = health[-1][1].status[0] if health else None
        is_so = status and all(word in status.message for word in words)
        return is_so and status.name == 'guard' and status.level == DiagnosticStatus.WARN

    harness.wait(lambda: says('unconfigured', 'ros2 lifecycle set /guard configure'), 'advice')
    assert not guard.change(Transition.TRANSITION_CONFIGURE)
    harness.wait(lambda: says('unconfigured', 'nonesuch.yaml'), 'what failed')
    assert guard.state() == 'unconfigured'
    assert 'nonesuch.yaml' in guard.log() and 'Traceback' not in guard.log()
    assert guard.set('guard_config', 'guard.yaml').successful
    assert guard.change(Transition.TRANSITION_CONFIGURE)
    refused = guard.set('guard_config', 'other.yaml')
    assert not refused.successful and 'guard_config' in refused.reason
    assert guard.change(Transition.TRANSITION_CLEANUP)
    assert guard.set('arm', 'panda').successful
    harness.wait(lambda: says('unconfigured') and not says('nonesuch'), 'advice again')
    assert guard.change(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    harness.wait(lambda: says('finalized', 'start it again'), 'its end')


def test_a_transition_that_cannot_be_is_refused_and_the_guard_goes_on(guard):
    for transition, label in [(250, ''), (0, 'nonsense'), (3, ''), (60, '')]:
        assert not guard.change(transition, label)
        assert guard.state() == 'unconfigured'
    assert configured(guard).state() == 'inactive'


def test_a_guard_beside_which_another_publisher_commands_ends_or_holds(guard, arm):
    configured(guard)
    other = guard.harness.make(
        lambda: guard.harness.node.create_publisher(JointTrajectory, COMMANDS, COMMAND)
    )
    assert guard.change(Transition.TRANSITION_ACTIVATE)

    def holds():
        reasons = guard.status[-1][1].reasons if guard.status else ()
        return any(reason.startswith('held: another publisher') for reason in reasons)

    deadline = time.monotonic() + 20.0
    while guard.process.poll() is None and not holds() and time.monotonic() < deadline:
        other.publish(JointTrajectory(points=[JointTrajectoryPoint(positions=arm.home)]))
        time.sleep(0.02)
    if not holds():  # else discovery took longer than it listened
        assert guard.process.poll() == SETTING_REFUSED and 'another guard' in guard.log()


class Clumsy:
    """A part that fails in one of its methods, in a way that nobody foresaw."""

    def __init__(self, node, failing):
        self.publisher = node.create_publisher(JointTrajectory, 'commands', COMMAND)
        self.failing, self.is_closed = failing, False

    def activate(self):
        self._fail('activate')

    def deactivate(self):
        self._fail('deactivate')

    def close(self):
        self.is_closed = True

    def end(self):
        return True

    def _fail(self, method):
        if method == self.failing:
            raise RuntimeError(f'no luck with {method}')


@pytest.mark.parametrize('failing', ['activate', 'deactivate'])
def test_a_transition_that_breaks_is_told_and_leaves_the_node_unconfigured(capfd, failing):
    rclpy.init()
    parts = []

    def make(node, settings):
        parts.append(Clumsy(node, failing))
        return parts[-1]

    node = ManagedNode('clumsy', lambda node: None, make)
    try:
        assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
        results = [node.trigger_activate()]
        if failing == 'deactivate':
            results.append(node.trigger_deactivate())
        assert results[-1] is not TransitionCallbackReturn.SUCCESS
        assert parts[0].is_closed and node.count_publishers('commands') == 0
        assert f'no luck with {failing}' in capfd.readouterr().err
        assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
    finally:
        node.destroy_node()
        rclpy.shutdown()
    assert parts[1].is_closed


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory, arm_config, sim_config):
    return usable_checkpoint(tmp_path_factory.mktemp('model'), arm_config, sim_config)


@pytest.mark.sim
def test_a_planner_deactivated_in_motion_ends_the_goal_and_proposes_no_more(
    harness, arm, checkpoint, tmp_path
):
    bench = Bench(harness, arm, checkpoint, tmp_path)
    bench.name = 'planner'
    proposals = harness.record(JointTrajectory, 'planner/joint_trajectory', EVERY)
    handle = bench.go()
    assert Manager.change(bench, Transition.TRANSITION_DEACTIVATE)
    outcome = bench.result(handle)[1]
    assert outcome.outcome == Outcome.CANCELED and 'deactivated' in outcome.message
    time.sleep(0.2)
    count = len(proposals)
    bench.wait_rest(2.0)
    sent = bench.client.send_goal_async(MoveToGoal.Goal(goal=pose(*FAR[0])))
    harness.wait(sent.done, 'rejection')
    assert not sent.result().accepted
    harness.wait(lambda: bench.status[-1][1].reason.startswith('inactive'), 'reason')
    assert len(proposals) == count
    assert Manager.change(bench, Transition.TRANSITION_ACTIVATE)
    bench.wait_status(PlannerStatus.IDLE)
    bench.go(FAR[1])


@pytest.mark.sim
def test_a_planner_is_configured_and_cleaned_up_again_and_again_without_growing(
    harness, checkpoint, tmp_path
):
    config = quick_planner(tmp_path)
    planner = Manager(
        harness, 'planner', tmp_path, checkpoint=str(checkpoint), planner_config=config
    )
    sizes, took = [], []
    for _ in range(8):
        assert planner.change(Transition.TRANSITION_CONFIGURE)
        began = time.monotonic()
        assert planner.change(Transition.TRANSITION_ACTIVATE)
        took.append(time.monotonic() - began)
        harness.call(GetState, 'planner/get_state')
        assert planner.change(Transition.TRANSITION_DEACTIVATE)
        assert planner.change(Transition.TRANSITION_CLEANUP)
        sizes.append(resident_mb(planner.process.pid))
    harness.wait(lambda: harness.node.count_services('planner/imagine') == 0, 'end of its service')
    assert np.median(took) < AT_ONCE_S, f's: managers wait no longer for a transition: {took}'
    assert sizes[-1] - sizes[3] < 30.0, f'MB, the first cycles fill the heap: {sizes}'
    assert planner.state() == 'unconfigured'
