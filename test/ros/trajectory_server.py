"""Plays the JointTrajectoryController of a robot: run it as a process, so that it can die.

The action follow_joint_trajectory: a new goal replaces the one that is carried out, which is
aborted, as the controller of ros2_control does it. What it commands comes out on ``commanded``,
and is where the robot stands. What it does wrong is asked for by its parameter ``fault``.
"""

import time

import numpy as np
import rclpy
from action_msgs.msg import GoalStatus
from control_msgs.action import FollowJointTrajectory
from rclpy.action import ActionServer, GoalResponse
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import JointState

from jepa_arm.core.types import JointSample
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.parameters import load_arm
from jepa_arm.ros.runtime.process import create_steady_timer
from jepa_arm.ros.runtime.qos import SENSOR_QOS, STATUS_QOS
from jepa_arm.ros.sim.controller import CommandError, JointController

NAME = 'joint_trajectory_controller/follow_joint_trajectory'
Result = FollowJointTrajectory.Result
DT = 0.01


class TrajectoryServer(Node):
    def __init__(self):
        super().__init__('controller_manager')
        self.declare_parameter('fault', '')
        self.arm = load_arm('panda')
        start = self.declare_parameter('start', self.arm.home.tolist()).value
        self.measured = np.array(start)
        self.controller = JointController(self.arm.velocity_limit, DT, timeout=1e9)
        self.controller.reset(self.measured)
        self._running = None
        self._commanded = self.create_publisher(JointState, 'commanded', STATUS_QOS)
        self._states = self.create_publisher(JointState, 'joint_states', SENSOR_QOS)
        self._server = ActionServer(
            self,
            FollowJointTrajectory,
            NAME,
            lambda handle: None,
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
        )
        create_steady_timer(self, DT, 0.0, self.tick)

    def now(self):
        return self.get_clock().now().nanoseconds / 1e9

    def fault(self, name):
        return self.get_parameter('fault').value == name

    def _on_goal(self, goal):
        trajectory = convert.trajectory_from_msg(goal.trajectory, self.arm.joint_names)
        assert trajectory.velocities is not None and not np.any(trajectory.velocities[-1])
        has_ended = 0.0 < trajectory.start < self.now() - trajectory.times[-1]
        if has_ended or self.fault('reject'):
            return GoalResponse.REJECT
        if self.fault('late'):
            time.sleep(0.06)
        return GoalResponse.ACCEPT

    def _on_accepted(self, handle):
        self.end(GoalStatus.STATUS_ABORTED, -1, 'Current goal preempted by new incoming action.')
        trajectory = convert.trajectory_from_msg(handle.request.trajectory, self.arm.joint_names)
        future = Future()
        self._running, self._ends_at = (handle, future), trajectory.start + trajectory.times[-1]

        async def execute(handle):
            return await future

        handle.execute(execute)
        try:
            self.controller.follow(trajectory, self.now())
        except CommandError as error:
            self.end(GoalStatus.STATUS_ABORTED, -1, str(error))

    def end(self, status, code=0, text=''):
        """Ends the goal that is carried out, if there is one."""
        if self._running is None:
            return
        handle, future = self._running
        self._running = None
        handle.succeed() if status == GoalStatus.STATUS_SUCCEEDED else handle.abort()
        future.set_result(Result(error_code=code, error_string=text))

    def tick(self):
        now = self.now()
        position, velocity = self.controller.next_target(now, self.measured)
        self.command(position, velocity, now)
        if self.fault('abort') and self._running is not None:
            self.controller.reset(self.measured)
            self.end(GoalStatus.STATUS_ABORTED, -4, 'Aborted due to path tolerance violation')
        elif self._running is not None and now > self._ends_at:
            self.end(GoalStatus.STATUS_SUCCEEDED)

    def command(self, position, velocity, now):
        self.measured = position
        msg = convert.joints_to_msg(JointSample(position, velocity, now), self.arm.joint_names)
        self._commanded.publish(msg)
        self._states.publish(msg)


def main(kind=TrajectoryServer):
    rclpy.init()
    try:
        rclpy.spin(kind())
    except (ExternalShutdownException, KeyboardInterrupt):
        rclpy.try_shutdown()


if __name__ == '__main__':
    main()
