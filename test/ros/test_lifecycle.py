"""Lifecycle of guard and planner: what they do in each state, and transitions that fail."""

import signal
import time
from dataclasses import dataclass

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

from jepa_arm.ros.graph.description import NodeSpec
from jepa_arm.ros.graph.supervisor import Supervisor
from jepa_arm.ros.runtime.lifecycle import ManagedNode
from jepa_arm.ros.runtime.node_contract import EXIT_BAD_SETTING
from jepa_arm.ros.runtime.process import resident_mb
from jepa_arm.ros.runtime.qos import COMMAND_QOS, STATUS_QOS

pytestmark = [pytest.mark.ros, pytest.mark.slow]
PROMPT_S = 5.0


class Manager:
    """Process of one managed node with autostart off, and its transitions."""

    def __init__(self, harness, name, log_dir, **parameters):
        self.harness, self.name = harness, name
        spec = NodeSpec(name, {'autostart': False, **parameters}, f'{name}/transition_event')
        self.graph = Supervisor([spec], log_dir=log_dir, observer=harness.node)
        harness.cleanup.append(self.graph.stop)
        self.graph.start()
        self.graph.wait_ready()
        self.process = self.graph.processes[name]

    def change(self, transition=0, label=''):
        """Return whether the transition was made, even if the first response was lost."""
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
    guard.robot, guard.status = robot, harness.record(GuardStatus, 'guard/status', STATUS_QOS)
    return guard


def configured(guard):
    assert guard.change(Transition.TRANSITION_CONFIGURE)
    guard.harness.wait(lambda: guard.status, 'status')
    return guard


def test_guard_commands_only_while_active(guard, arm):
    node = guard.harness.node
    assert guard.state() == 'unconfigured'
    configured(guard)
    planner = guard.harness.publisher(JointTrajectory, 'planner/joint_trajectory', COMMAND_QOS)
    planner.publish(JointTrajectory())
    guard.harness.wait(lambda: guard.status[-1][1].rejected == 1, 'refusal')
    assert guard.status[-1][1].state == GuardStatus.INACTIVE
    assert guard.status[-1][1].reasons[0].startswith('inactive: the guard is not active')
    known = len(guard.status)
    guard.harness.wait(lambda: len(guard.status) > known + 10, 'statuses while inactive')
    assert not guard.robot.commands and node.count_publishers(COMMANDS) == 0
    began = time.monotonic()
    assert guard.change(Transition.TRANSITION_ACTIVATE)
    guard.harness.wait(lambda: guard.robot.commands, 'commands')
    assert time.monotonic() - began < PROMPT_S
    np.testing.assert_allclose(guard.robot.positions()[0], arm.home, atol=1e-9)


def test_deactivated_guard_stops_the_arm_and_releases_the_command_topic(harness, arm):
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
    known, began = len(bench.status), time.monotonic()
    harness.wait(lambda: len(bench.status) > known + 5, 'statuses while inactive')
    assert len(bench.robot.commands) == count and len(status.command) == 0
    assert time.monotonic() - began > 0.2, 'ten a second, not one per tick'
    bench.robot.position = bench.robot.position + 0.05  # moved by hand meanwhile
    assert change(bench, Transition.TRANSITION_ACTIVATE)
    harness.wait(lambda: len(bench.robot.commands) > count + 10, 'commands')
    np.testing.assert_allclose(bench.robot.positions()[count], bench.robot.position, atol=1e-9)
    bench.follow()


def test_guard_shut_down_in_motion_stops_the_arm(harness, arm):
    bench = GuardBench(harness, arm)
    bench.follow()
    bench.name = 'guard'
    assert Manager.change(bench, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert Manager.state(bench) == 'finalized'
    assert bench.robot.is_at_rest()
    assert_smooth(bench.robot, arm)
    bench.process.send_signal(signal.SIGTERM)
    assert bench.process.wait(10.0) == 0


def test_failed_configuration_is_reported_and_can_be_corrected(harness, tmp_path):
    guard = Manager(harness, 'guard', tmp_path, guard_config='nonesuch.yaml')
    health = harness.record(DiagnosticArray, '/diagnostics', STATUS_QOS)

    def is_reported(*words):
        status = health[-1][1].status[0] if health else None
        is_so = status and all(word in status.message for word in words)
        return is_so and status.name == 'guard' and status.level == DiagnosticStatus.WARN

    harness.wait(
        lambda: is_reported('unconfigured', 'ros2 lifecycle set /guard configure'), 'advice'
    )
    assert not guard.change(Transition.TRANSITION_CONFIGURE)
    harness.wait(lambda: is_reported('unconfigured', 'nonesuch.yaml'), 'what failed')
    assert guard.state() == 'unconfigured'
    assert 'nonesuch.yaml' in guard.log() and 'Traceback' not in guard.log()
    assert guard.set('guard_config', 'guard.yaml').successful
    assert guard.change(Transition.TRANSITION_CONFIGURE)
    refused = guard.set('guard_config', 'other.yaml')
    assert not refused.successful and 'guard_config' in refused.reason
    assert guard.change(Transition.TRANSITION_CLEANUP)
    assert guard.set('arm', 'panda').successful
    harness.wait(
        lambda: is_reported('unconfigured') and not is_reported('nonesuch'), 'advice again'
    )
    assert guard.change(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    harness.wait(lambda: is_reported('finalized', 'start it again'), 'its end')


def test_invalid_transition_is_refused(guard):
    for transition, label in [(250, ''), (0, 'nonsense'), (3, ''), (60, '')]:
        assert not guard.change(transition, label)
        assert guard.state() == 'unconfigured'
    assert configured(guard).state() == 'inactive'


def test_guard_beside_another_publisher_of_commands_ends_or_holds(guard, arm):
    configured(guard)
    other = guard.harness.execute(
        lambda: guard.harness.node.create_publisher(JointTrajectory, COMMANDS, COMMAND_QOS)
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
        assert guard.process.poll() == EXIT_BAD_SETTING and 'another guard' in guard.log()


@dataclass(frozen=True)
class NoSettings:
    pass


class FailingComponent:
    """Component with a bug in one of its methods."""

    def __init__(self, node, failing):
        self.publisher = node.create_publisher(JointTrajectory, 'commands', COMMAND_QOS)
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
            raise RuntimeError(f'bug in {method}')


@pytest.mark.parametrize('failing', ['activate', 'deactivate'])
def test_bug_in_a_transition_is_logged_and_leaves_the_node_unconfigured(harness, capfd, failing):
    rclpy.init()
    components = []

    def make(node, settings):
        components.append(FailingComponent(node, failing))
        return components[-1]

    node = ManagedNode('failing', NoSettings, make)
    try:
        assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
        results = [node.trigger_activate()]
        if failing == 'deactivate':
            results.append(node.trigger_deactivate())
        assert results[-1] is not TransitionCallbackReturn.SUCCESS
        assert components[0].is_closed and node.count_publishers('commands') == 0
        assert f'bug in {failing}' in capfd.readouterr().err
        assert node.trigger_configure() is TransitionCallbackReturn.SUCCESS
        harness.wait(lambda: 'failing' in harness.node.get_node_names(), 'the node')
    finally:
        node.destroy_node()
        rclpy.shutdown()
    assert components[1].is_closed
    harness.wait(lambda: 'failing' not in harness.node.get_node_names(), 'its end')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory, arm_config, sim_config):
    return usable_checkpoint(tmp_path_factory.mktemp('model'), arm_config, sim_config)


@pytest.mark.sim
def test_deactivated_planner_ends_the_goal_and_sends_no_proposals(
    harness, arm, checkpoint, tmp_path
):
    bench = Bench(harness, arm, checkpoint, tmp_path)
    bench.name = 'planner'
    proposals = harness.record(JointTrajectory, 'planner/joint_trajectory', EVERY)
    handle = bench.go()
    assert Manager.change(bench, Transition.TRANSITION_DEACTIVATE)
    outcome = bench.result(handle)[1]
    assert outcome.outcome == Outcome.CANCELED and 'deactivated' in outcome.message
    bench.wait_rest(2.0)
    count = len(proposals)
    sent = bench.client.send_goal_async(MoveToGoal.Goal(goal=pose(*FAR[0])))
    harness.wait(sent.done, 'rejection')
    assert not sent.result().accepted
    harness.wait(lambda: bench.status[-1][1].reason.startswith('inactive'), 'reason')
    assert len(proposals) == count
    assert Manager.change(bench, Transition.TRANSITION_ACTIVATE)
    bench.wait_status(PlannerStatus.IDLE)
    bench.go(FAR[1])


@pytest.mark.sim
@pytest.mark.extended
def test_repeated_configure_and_cleanup_of_the_planner_leaks_nothing(
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
    assert np.median(took) < PROMPT_S, (
        f'lifecycle managers wait {PROMPT_S} s for a transition: {took}'
    )
    assert sizes[-1] - sizes[3] < 30.0, f'MB; the first cycles fill the heap: {sizes}'
    assert planner.state() == 'unconfigured'
