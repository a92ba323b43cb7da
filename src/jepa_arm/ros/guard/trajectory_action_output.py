"""Trajectory action output: commands as goals of the action FollowJointTrajectory.

For a controller in which each goal replaces the previous one. The guard decides at every tick. A
goal contains, each with its time, the latest commands, the predicted ones, and the stop after
them. The robot thus executes the guard's own commands, ``DELAY_TICKS`` later, and comes to rest if
no other goal follows (``sent_trajectory``). Nothing is sent while the robot has received all it
needs, for example at rest.

The services of the action are called directly, as its protocol defines them
(https://design.ros2.org/articles/actions.html): rclpy's ``ActionClient`` reads every status
message, which lists all goals of the last 10 s, and in rclpy 9.1 keeps a future per goal forever.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from time import monotonic
from typing import Any
from uuid import uuid4

import numpy as np
from rclpy.client import Client
from rclpy.node import Node
from rclpy.subscription import Subscription
from rclpy.task import Future
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.config import ConfigError, GuardConfig
from jepa_arm.core.types import Command, FloatArray, GuardState, JointSample
from jepa_arm.guard.guard import Guard
from jepa_arm.robot.arm import Arm
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.diagnostics import RateMeter, percentiles
from jepa_arm.ros.runtime.qos import SENSOR_QOS

from .action_ledger import ActionLedger, ControllerFault
from .command_output import CommandOutput
from .sent_trajectory import PREDICTED_TICKS, SentTrajectory, TimedTrajectory
from .watchdogs import CompetingClients, CompetingPublishers, restart_at

SERVER_CHECK_PERIOD_S = 0.1
SETTLE_S = 0.2
"""Time for which an arm must have stood still before the guard takes it over again."""
STILL_RAD = 2e-3
RETRY_S = 1.0
"""Time from a fault to the next goal."""
MAX_CLOCK_OFFSET_S = 0.05
"""Largest offset of the joint states' stamps from this computer's time."""
MAX_RESULTS = 10
"""Largest number of results awaited; that of a replaced goal comes immediately, if at all."""
NOT_ACCEPTED_YET = 'controller: has not accepted the first goal yet'


def _import_types() -> tuple[Any, Any]:
    """Return the types FollowJointTrajectory and JointTolerance of control_msgs.

    Raises:
        ConfigError: control_msgs is not installed.
    """
    try:
        from control_msgs.action import FollowJointTrajectory  # pyright: ignore
        from control_msgs.msg import JointTolerance  # pyright: ignore
    except ImportError:
        raise ConfigError(
            'controller: follow_joint_trajectory needs the package control_msgs, which cannot be '
            'imported; get it with: sudo apt install ros-$ROS_DISTRO-control-msgs'
        ) from None
    return FollowJointTrajectory, JointTolerance


class TrajectoryActionOutput(CommandOutput):
    """Sends commands to a controller's action server as trajectory goals.

    If the server rejects or ends a goal, does not answer or disappears, no more goals are sent.
    The robot then completes the last goal, which ends at rest, and the guard restarts from the
    measured joints.

    Attributes:
        name: name of the action after remapping.
    """

    may_rest = False

    def __init__(self, node: Node, action: str, arm: Arm, dt: float, config: GuardConfig) -> None:
        """Create the output, which sends nothing before ``open``.

        Args:
            node: node that owns the action client.
            action: name of the action before remapping.
            arm: arm that is commanded.
            dt: s, period of the commands.
            config: guard configuration with the path tolerance.

        Raises:
            ConfigError: control_msgs is not installed.
        """
        self._action, tolerance = _import_types()
        self._node, self._arm = node, arm
        self.name = node.resolve_topic_name(action)
        # the server aborts a goal that arrives so late that the robot is off its path
        limit = config.fatal_tracking_error
        self._tolerances = [tolerance(name=name, position=limit) for name in arm.joint_names]
        self._trajectory = SentTrajectory(dt, arm.velocity_limit)
        self._ledger = ActionLedger(self.name)
        self._rate = RateMeter()
        self._clients: tuple[Client, Client] | None = None
        self._feedback: Subscription | None = None
        self._competitors: tuple[CompetingClients, CompetingPublishers] | None = None
        self._answers: list[Future] = []
        self._results: list[Future] = []
        self.is_open = self._is_ending = self._has_server = False
        self._reason = NOT_ACCEPTED_YET
        self._fault: ControllerFault | None = None
        self._retry_at = self._server_checked_at = -np.inf
        self._still_at: FloatArray | None = None
        self._still_since = np.inf
        self._clock_offsets: deque[float] = deque(maxlen=10)

    @property
    def is_clear(self) -> bool:
        """True if server and joint states are usable and no other node commands the robot."""
        if self._competitors is None or self._check_connection(monotonic()):
            return False
        return self._competitors[1].is_clear

    @property
    def unavailable_reason(self) -> str:
        """Why no proposal can be followed now, as 'code: text'; '' if it can."""
        if self.is_open:
            return self._reason
        return self._check_connection(monotonic()) or NOT_ACCEPTED_YET

    def listen(self) -> None:
        """Connect to the server and start to watch for other nodes that command the robot."""
        node, impl = self._node, self._action.Impl
        self._clients = (
            node.create_client(impl.SendGoalService, f'{self.name}/_action/send_goal'),
            node.create_client(impl.GetResultService, f'{self.name}/_action/get_result'),
        )
        # `ros2 node info` and `ros2 action info` recognise clients of an action by this topic.
        feedback = f'{self.name}/_action/feedback'
        self._feedback = node.create_subscription(
            impl.FeedbackMessage, feedback, lambda _: None, SENSOR_QOS, raw=True
        )
        topic = f'{self.name.rsplit("/", 1)[0]}/joint_trajectory'
        self._competitors = (
            CompetingClients(node, self.name),
            CompetingPublishers(node, JointTrajectory, topic, own=0),
        )

    def open(self) -> None:
        """Take over: the guard commands from now on."""
        assert self._competitors is not None
        clients, publishers = self._competitors
        publishers.stop_listening()
        clients.accept(clients.count())
        self.is_open = True

    def close(self) -> None:
        """Destroy clients and subscriptions."""
        if self._clients is None or self._competitors is None:
            return
        self._forget_goals()
        for client in self._clients:
            self._node.destroy_client(client)
        if self._feedback is not None:
            self._node.destroy_subscription(self._feedback)
        self._competitors[1].close()
        self._clients, self._feedback, self.is_open = None, None, False

    def expect_rest(self) -> None:
        """Stop supervising the server: the guard brings the arm to rest for the last time."""
        self._is_ending = True

    def is_finished(self, ros_now: float) -> bool:
        """Return whether the robot has executed everything that was sent."""
        return ros_now > self._trajectory.end

    def ticks_due(self, ros_now: float) -> int:
        """Return how many guard commands are needed now to keep up with the robot's clock."""
        return self._trajectory.ticks_due(ros_now) if self._fault is None else 1

    def observe(self, sample: JointSample, now: float, ros_now: float) -> None:
        """Record a measured joint state received at ``now`` (s, steady clock)."""
        self._clock_offsets.append(ros_now - sample.stamp)
        is_still = self._still_at is not None and bool(
            np.all(np.abs(sample.position - self._still_at) < STILL_RAD)
        )
        if not is_still:
            self._still_at, self._still_since = sample.position, now

    def check(self, guard: Guard, now: float, ros_now: float) -> None:
        """Stop ``guard`` on a controller fault; restart it after the fault, once the arm rests.

        If another node starts to command the robot, hold the guard until an operator resumes it.
        """
        if self._is_ending:
            return
        for competitors in self._competitors or ():
            reason = competitors.check(now)
            if reason:
                guard.hold(reason)
                break
        lost = self._check_connection(now)
        fault = ControllerFault(lost, is_transient=True) if lost else self._ledger.fault(now)
        if fault is not None and self._fault is None:
            self._fault, self._reason = fault, fault.reason
            self._retry_at = now + RETRY_S
            if fault.is_transient:
                guard.stop(fault.reason)
            else:
                guard.hold(fault.reason)
        elif self._fault is not None:
            self._try_recover(guard, self._fault.reason, now, ros_now)
        elif self._ledger.is_accepted:
            self._reason = ''

    def send(self, guard: Guard, command: Command, now: float, ros_now: float) -> None:
        """Record ``command``; send a goal if the last one lacks it or must be extended."""
        if self._fault is not None:
            return
        self._trajectory.record(command, ros_now)
        is_new = not self._trajectory.is_up_to_date
        if not is_new and not self._trajectory.must_extend:
            return
        is_stop = is_new and guard.state is not GuardState.FOLLOWING
        if self._ledger.may_send(is_stop):
            self._send_goal(self._trajectory.compose(*guard.predict(PREDICTED_TICKS, now)))

    def problems(self) -> list[str]:
        """Return the current problems other than the guard's own."""
        if self._clients is None or self._competitors is None:
            return []
        clients, publishers = self._competitors
        problems = (self.unavailable_reason, publishers.problem(), clients.problem())
        return [problem for problem in problems if problem]

    def values(self) -> dict[str, object]:
        """Return rate and latency of the goals."""
        return {
            'goals Hz': f'{self._rate.hz():.0f}',
            'goal to answer p50 / p99 ms': percentiles(self._ledger.latencies_ms),
        }

    def _try_recover(self, guard: Guard, reason: str, now: float, ros_now: float) -> None:
        """Restart ``guard`` at the measured joints, if the fault is over and the arm at rest."""
        may_retry = now > self._retry_at and self.is_finished(ros_now)
        is_still = now - self._still_since > SETTLE_S
        is_moving = guard.state in (GuardState.FOLLOWING, GuardState.STOPPING)
        if not may_retry or not is_still or guard.is_locked_out or is_moving:
            return
        if self._check_connection(now) or self._still_at is None:
            return
        if restart_at(guard, self._still_at, now, reason):
            self._fault = None
            self._trajectory.reset()
            self._forget_goals()

    def _check_connection(self, now: float) -> str:
        return self._check_server(now) or self._check_clocks()

    def _check_server(self, now: float) -> str:
        if self._clients is None or now - self._server_checked_at >= SERVER_CHECK_PERIOD_S:
            self._server_checked_at = now
            self._has_server = self._clients is not None and all(
                client.service_is_ready() for client in self._clients
            )
        if self._has_server:
            return ''
        return f'controller: no action server {self.name}; is the controller active?'

    def _check_clocks(self) -> str:
        offset = min(self._clock_offsets, key=abs, default=0.0)
        if abs(offset) <= MAX_CLOCK_OFFSET_S:
            return ''
        return (
            f"clock: joint states are stamped {offset:.2f} s off this computer's time, expected "
            f'<= {MAX_CLOCK_OFFSET_S} s, as goals are carried out by their stamps; synchronise '
            'the clocks'
        )

    def _forget_goals(self) -> None:
        """Ignore all answers and results that are still to come."""
        self._ledger.clear()
        for client, futures in zip(
            self._clients or (), (self._answers, self._results), strict=False
        ):
            for future in futures:
                client.remove_pending_request(future)
        self._answers.clear()
        self._results.clear()

    def _send_goal(self, trajectory: TimedTrajectory) -> None:
        if self._clients is None:
            return
        request = self._action.Impl.SendGoalService.Request()
        request.goal_id.uuid = list(uuid4().bytes)
        points, times, names = trajectory.points, trajectory.times, self._arm.joint_names
        stamp = convert.to_time(trajectory.start)
        request.goal.trajectory = convert.trajectory_to_msg(points, times, stamp, names)
        request.goal.path_tolerance = self._tolerances
        number = self._ledger.record_sent(monotonic())
        self._rate.count()
        future = self._clients[0].call_async(request)
        self._answers.append(future)
        future.add_done_callback(partial(self._on_answer, number, request.goal_id))

    def _on_answer(self, number: int, goal_id: Any, future: Future) -> None:
        if self._clients is None or future not in self._answers:
            return
        self._answers.remove(future)
        answer: Any = future.result()
        self._ledger.record_answer(number, answer.accepted, monotonic())
        if not answer.accepted:
            return
        request = self._action.Impl.GetResultService.Request(goal_id=goal_id)
        result = self._clients[1].call_async(request)
        self._results.append(result)
        result.add_done_callback(partial(self._on_result, number))
        if len(self._results) > MAX_RESULTS:
            self._clients[1].remove_pending_request(self._results.pop(0))

    def _on_result(self, number: int, future: Future) -> None:
        if future not in self._results:
            return
        self._results.remove(future)
        answer: Any = future.result()
        result = answer.result
        self._ledger.record_result(number, answer.status, result.error_code, result.error_string)
