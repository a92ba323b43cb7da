"""Faulty proposals and commands, and the scenarios in which they are sent."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from time import monotonic, sleep

import numpy as np
from rclpy.publisher import Publisher
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.core.types import Command, FloatArray, GuardState
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.collision import CollisionModel
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.node_contract import COMMAND_TOPIC
from jepa_arm.ros.runtime.qos import COMMAND_QOS

from .scenarios import FaultResult, measure
from .testbed import ROGUE_FRAME, WAYPOINTS, FaultTestbed

MakeProposals = Callable[[FaultTestbed], list[JointTrajectory]]
"""Function that returns the proposals to send, one per control step."""

SPEED_SHARE = 0.8
"""Share of the velocity limit at which joint paths to a self-collision are followed."""
CONTROL_DT_S = 0.1
"""Time (s) between the waypoints of such paths."""
MAX_SAMPLES, MAX_STEPS = 60_000, 19
"""Most poses drawn in search of a self-collision, and most control steps of the path to it."""
DRIVE_RAD = 0.4
"""Largest motion of the first joint during ``FaultTestbed.drive``."""
CLEARANCE_M = 0.03
TIP_STEP_M = 0.02
OUTSIDE_M = 0.06
TOLERANCE_M = 0.01
GOAL_S, GOAL_TIMEOUT_S = 8.0, 20.0
GOAL_STOP_S = 0.3
"""Time (s) before the result of a reached goal within which a stop is allowed."""


def send(make: MakeProposals, testbed: FaultTestbed) -> float:
    """Send the proposals of ``make`` to the moving arm; return the time of the first one, s."""
    sleep(testbed.time.control_dt / 2.0)  # between two waypoints, at speed
    onset = 0.0
    for msg in make(testbed):
        onset = onset or monotonic()
        testbed.send_proposal(msg)
        sleep(testbed.time.control_dt)
    return onset


def with_nan(testbed: FaultTestbed) -> list[JointTrajectory]:
    """Return a proposal with NaN for one joint of one waypoint."""
    msg = testbed.proposal()
    msg.points[1].positions[3] = float('nan')
    return [msg]


def beyond_joint_limit(testbed: FaultTestbed) -> list[JointTrajectory]:
    """Return a proposal whose last waypoints are beyond a joint limit."""
    positions = _repeat_command(testbed)
    positions[1:, 0] = testbed.arm.upper[0] + 0.1
    return [testbed.proposal(positions=positions)]


def too_fast(testbed: FaultTestbed) -> list[JointTrajectory]:
    """Return a proposal to move at twice the velocity limit of the arm."""
    arm = testbed.arm
    fastest = arm.velocity_limit[0] / arm.config.velocity_scale
    steps = np.arange(WAYPOINTS) * 2.0 * fastest * testbed.time.control_dt
    positions = _repeat_command(testbed)
    positions[:, 0] += steps * -testbed.swing
    return [testbed.proposal(positions=np.clip(positions, arm.lower, arm.upper))]


def far_start(testbed: FaultTestbed) -> list[JointTrajectory]:
    """Return a proposal whose first waypoint is far from the arm."""
    offset = 0.7 * np.eye(len(testbed.arm.home))[0]
    return [testbed.proposal(positions=_repeat_command(testbed) + offset)]


def into_table(testbed: FaultTestbed) -> list[JointTrajectory]:
    """Return a proposal to move the tip straight down to the surface of the table."""
    return [_straight_tip_path(testbed, np.array([0.0, 0.0, -testbed.tip()[2]]))]


def out_of_workspace(testbed: FaultTestbed) -> list[JointTrajectory]:
    """Return a proposal to move the tip forward out of the workspace."""
    forward = testbed.arm.workspace_max[0] + OUTSIDE_M - testbed.tip()[0]
    return [_straight_tip_path(testbed, np.array([forward, 0.0, 0.0]))]


def wrong_joint_name(testbed: FaultTestbed) -> list[JointTrajectory]:
    """Return a proposal with a wrong name for one joint."""
    return [testbed.proposal(joint_names=(*testbed.arm.joint_names[:-1], 'elbow'))]


def missing_joint(testbed: FaultTestbed) -> list[JointTrajectory]:
    """Return a proposal that lacks one joint."""
    msg = testbed.proposal()
    msg.joint_names = msg.joint_names[:-1]
    for point in msg.points:
        point.positions = point.positions[:-1]
    return [msg]


def decreasing_times(testbed: FaultTestbed) -> list[JointTrajectory]:
    """Return a proposal whose waypoints have decreasing times."""
    times = np.arange(WAYPOINTS, 0, -1) * testbed.time.control_dt
    return [testbed.proposal(times=times)]


def stamped(offset: float, count: int = 1) -> MakeProposals:
    """Return a function that makes ``count`` proposals stamped ``offset`` s from now."""
    return lambda testbed: [testbed.proposal(stamp=testbed.now() + offset) for _ in range(count)]


def repeated(testbed: FaultTestbed) -> list[JointTrajectory]:
    """Return the last proposal sent, to send it once more."""
    return [testbed.last_proposal]


@cache
def self_collision_pose(testbed: FaultTestbed) -> FloatArray:
    """Return joints (J,) rad in self-collision; the search at the first call takes seconds."""
    return find_self_collision(testbed.arm, testbed.command(), testbed.inward() * DRIVE_RAD)


def through_self_collision(testbed: FaultTestbed) -> list[JointTrajectory]:
    """Return a proposal to move through a self-collision and back to where the arm is."""
    start = testbed.command()
    pose = np.array([start[0], *self_collision_pose(testbed)[1:]])
    path = joint_path(testbed.arm, start, pose)
    return [_proposal_along(testbed, np.vstack([path, path[-2::-1], start]))]


class RoguePublisher:
    """Second publisher of commands, beside the guard."""

    def __init__(self) -> None:
        self._publisher: Publisher | None = None

    def start(self, testbed: FaultTestbed) -> float:
        """Publish a command to stay at the current position; return the time, s."""
        publisher = testbed.client.publisher(JointTrajectory, COMMAND_TOPIC, COMMAND_QOS)
        zeros = np.zeros(len(testbed.arm.home))
        command = Command(testbed.command(), zeros, zeros)
        msg = convert.command_to_msg(command, testbed.arm.joint_names, testbed.time.stream_dt)
        msg.header.frame_id = ROGUE_FRAME
        onset = monotonic()
        publisher.publish(msg)
        self._publisher = publisher
        return onset

    def stop(self, testbed: FaultTestbed) -> None:
        """Destroy the publisher."""
        client, publisher = testbed.client, self._publisher
        assert publisher is not None
        client.execute(lambda: client.node.destroy_publisher(publisher))


def permuted_joints(testbed: FaultTestbed) -> FaultResult:
    """Publish joint states in another joint order, which must not keep the arm from its goal."""
    onset = testbed.inject('joints_permuted')
    goal = testbed.client.send_goal(testbed.distant_goal(), TOLERANCE_M, GOAL_TIMEOUT_S)
    outcome = testbed.outcome(goal, GOAL_S)
    until = monotonic()
    result = measure(testbed, onset)
    result.expect(outcome.startswith('SUCCEEDED'), outcome)
    stop = f'a stop after {result.stop_s * 1000:.0f} ms: {testbed.reported_reasons(onset)}'
    result.expect(not onset + result.stop_s < until - GOAL_STOP_S, stop)
    result.stop_s = result.rest_s = np.nan
    result.reasons, result.after = [f'goal: {outcome}'], 'continues'
    return result


def zigzag(testbed: FaultTestbed) -> FaultResult:
    """Send proposals of alternating direction at nearly the velocity limit."""
    testbed.drive()
    step = 0.9 * testbed.arm.velocity_limit[0] * testbed.time.control_dt
    onset = monotonic()
    for i in range(6):
        positions = _repeat_command(testbed)
        positions[:, 0] += step * testbed.swing * (1 if i % 2 else -1)
        testbed.send_proposal(testbed.proposal(positions=positions))
        sleep(testbed.time.control_dt)
    result = measure(testbed, onset)
    is_following = testbed.state() is GuardState.FOLLOWING
    result.expect(is_following, f'not followed: {testbed.reported_reasons(onset)}')
    result.stop_s = result.rest_s = np.nan
    result.after = 'followed'
    return result


def find_self_collision(arm: Arm, start: FloatArray, rotation: float) -> FloatArray:
    """Return joints (J,) rad in self-collision; the path to them is otherwise valid.

    Args:
        arm: arm whose workspace, table and shape are checked.
        start: (J,) rad, start of the path.
        rotation: rad, largest rotation of the first joint before the path is sent; the path must
            stay in the workspace after half and all of it.

    Raises:
        ValueError: no such joints were found.
    """
    collisions = CollisionModel(arm)

    def is_valid(q: FloatArray) -> bool:
        rotated = (q + share * rotation * np.eye(len(q))[0] for share in (0.5, 1.0))
        is_inside = all(arm.in_workspace(arm.tip_position(p), 0.0) for p in rotated)
        return is_inside and collisions.ground_clearance(collisions.evaluate(q)) > CLEARANCE_M

    rng = np.random.default_rng(0)
    for _ in range(MAX_SAMPLES):
        pose = np.clip(start + rng.normal(0.0, 0.8, len(start)), arm.lower, arm.upper)
        pose[0] = start[0]
        if is_valid(pose) and collisions.self_collision(pose):
            path = joint_path(arm, start, pose)
            if len(path) <= MAX_STEPS and all(map(is_valid, path)):
                return pose
    raise ValueError('no pose of self-collision was found')


def joint_path(arm: Arm, start: FloatArray, end: FloatArray) -> FloatArray:
    """Return waypoints (N, J) rad of a straight path from ``start`` (excluded) to ``end``."""
    steps = (np.abs(end - start) / (SPEED_SHARE * arm.velocity_limit * CONTROL_DT_S)).max()
    n = max(1, int(np.ceil(steps)))
    return start + np.arange(1, n + 1)[:, None] / n * (end - start)


def _repeat_command(testbed: FaultTestbed) -> FloatArray:
    """Return waypoints (WAYPOINTS, J) rad that all equal the current command."""
    return np.tile(testbed.command(), (WAYPOINTS, 1))


def _proposal_along(testbed: FaultTestbed, positions: FloatArray) -> JointTrajectory:
    times = np.arange(1, len(positions) + 1) * testbed.time.control_dt
    return testbed.proposal(positions=positions, times=times)


def _straight_tip_path(testbed: FaultTestbed, motion: FloatArray) -> JointTrajectory:
    """Return a proposal that moves the tip by ``motion`` (3,) m in a straight line."""
    joints = testbed.command()
    tip, positions = testbed.arm.tip_position(joints), []
    count = max(1, int(np.ceil(np.linalg.norm(motion) / TIP_STEP_M)))
    for i in range(1, count + 1):
        joints, _ = testbed.arm.ik(tip + motion * i / count, joints)
        positions.append(joints)
    return _proposal_along(testbed, np.array(positions))
