"""Plans and commands that nobody may follow, and what happens when they are sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import monotonic, sleep

import numpy as np
from trajectory_msgs.msg import JointTrajectory

from ..arm import Arm
from ..collision import Scene
from ..types import Command, FloatArray, GuardState
from . import conversions as convert
from .fault_scenarios import Trial, measure
from .fault_stage import ROGUE_FRAME, WAYPOINTS, Stage
from .parameters import COMMAND, COMMAND_TOPIC

Spoil = Callable[[Stage], list[JointTrajectory]]
"""The messages to be sent, a control step apart."""

SLOW = 0.8
"""Share of the velocity limit at which paths to forbidden places go there."""
LOOK = 60_000
TURN_RAD = 0.4
"""Of the first joint, at most, while ``Stage.drive`` moves the arm."""
TIP_STEP_M = 0.02
OUT_M = 0.06
REACH_M = 0.01
GOAL_S = 8.0
AT_THE_END_S = 0.3
"""Before its result, when a goal that is reached stops the arm."""


def send(spoil: Spoil, stage: Stage) -> float:
    """Sends what ``spoil`` makes; monotonic s of the first message."""
    sleep(stage.time.control_dt / 2.0)  # midway to a waypoint, at speed
    onset = 0.0
    for msg in spoil(stage):
        onset = onset or monotonic()
        stage.propose(msg)
        sleep(stage.time.control_dt)
    return onset


def nan(stage: Stage) -> list[JointTrajectory]:
    """One joint of one waypoint is NaN."""
    msg = stage.proposal()
    msg.points[1].positions[3] = float('nan')
    return [msg]


def outside(stage: Stage) -> list[JointTrajectory]:
    """The last waypoints lie beyond a joint limit."""
    positions = _still(stage)
    positions[1:, 0] = stage.arm.upper[0] + 0.1
    return [stage.proposal(positions=positions)]


def fast(stage: Stage) -> list[JointTrajectory]:
    """Twice the arm's speed limit."""
    fastest = stage.arm.velocity_limit[0] / stage.arm.config.velocity_scale
    positions = _still(stage)
    positions[:, 0] += np.arange(WAYPOINTS) * 2.0 * fastest * stage.time.control_dt * -stage.swing
    return [stage.proposal(positions=np.clip(positions, stage.arm.lower, stage.arm.upper))]


def far(stage: Stage) -> list[JointTrajectory]:
    """The first waypoint is far from where the arm is."""
    return [stage.proposal(positions=_still(stage) + 0.7 * np.eye(len(stage.arm.home))[0])]


def into_table(stage: Stage) -> list[JointTrajectory]:
    """The tip goes straight down to the table's surface."""
    return [_towards(stage, np.array([0.0, 0.0, -stage.tip()[2]]))]


def out_of_box(stage: Stage) -> list[JointTrajectory]:
    """The tip goes forward until it has left the workspace."""
    ahead = stage.arm.workspace_max[0] + OUT_M - stage.tip()[0]
    return [_towards(stage, np.array([ahead, 0.0, 0.0]))]


def look_for_self_collision(stage: Stage) -> None:
    """Finds a pose in which the arm would touch itself, for ``self_colliding``."""
    if stage.touching is None:
        turn = stage.inward() * TURN_RAD
        stage.touching = touching_pose(stage.arm, stage.command(), turn)


def self_colliding(stage: Stage) -> list[JointTrajectory]:
    """To a pose in which the arm touches itself, and back to where it is."""
    assert stage.touching is not None
    start = stage.command()
    there = straight(stage.arm, start, np.array([start[0], *stage.touching[1:]]))
    positions = np.vstack([there, there[-2::-1], start])
    return [_at_steps(stage, positions)]


def names(stage: Stage) -> list[JointTrajectory]:
    """One joint has another name."""
    return [stage.proposal(joint_names=(*stage.arm.joint_names[:-1], 'elbow'))]


def count(stage: Stage) -> list[JointTrajectory]:
    """One joint too few."""
    msg = stage.proposal()
    msg.joint_names = msg.joint_names[:-1]
    for point in msg.points:
        point.positions = point.positions[:-1]
    return [msg]


def times(stage: Stage) -> list[JointTrajectory]:
    """Times that go back."""
    return [stage.proposal(times=np.arange(WAYPOINTS, 0, -1) * stage.time.control_dt)]


def old(stage: Stage) -> list[JointTrajectory]:
    """From an observation one second ago."""
    return [stage.proposal(stamp=stage.now() - 1.0)]


def future(stage: Stage) -> list[JointTrajectory]:
    """From an observation in one second."""
    return [stage.proposal(stamp=stage.now() + 1.0)]


def twice(stage: Stage) -> list[JointTrajectory]:
    """The newest good proposal once more."""
    return [stage.last_proposal]


def many(stage: Stage) -> list[JointTrajectory]:
    """More bad ones in a row than the guard bears."""
    return [stage.proposal(stamp=stage.now() - 1.0) for _ in range(12)]


def publish_commands(stage: Stage) -> float:
    """Publishes commands in the guard's place: stay where you are."""
    publisher = stage.client.publisher(JointTrajectory, COMMAND_TOPIC, COMMAND)
    zeros = np.zeros(len(stage.arm.home))
    command = Command(stage.command(), zeros, zeros)
    msg = convert.command_to_msg(command, stage.arm.joint_names, stage.time.stream_dt)
    msg.header.frame_id = ROGUE_FRAME
    began = monotonic()
    publisher.publish(msg)
    stage.rogue = publisher
    return began


def end_publishing(stage: Stage) -> None:
    """The guard is alone again."""
    if stage.rogue is not None:
        stage.client.node.destroy_publisher(stage.rogue)
        stage.rogue = None


class GoesOn:
    """A fault of the virtual arm that must not matter: the goal is reached, nothing stops."""

    def __init__(self, fault: str) -> None:
        self._fault = fault

    @property
    def expected(self) -> str:
        """What must happen, in words."""
        return 'no stop; the goal is reached'

    def __call__(self, stage: Stage) -> Trial:
        """Tries it on a ``prepare``d stage."""
        onset = stage.inject(self._fault)
        future = stage.send(stage.far_goal(), tolerance=REACH_M).get_result_async()
        outcome = stage.outcome(future, GOAL_S)
        until = monotonic()
        trial = measure(stage, onset)
        problems = list(trial.problems)
        if not outcome.startswith('SUCCEEDED'):
            problems.append(outcome)
        if onset + trial.start_s < until - AT_THE_END_S:
            problems.append(f'a stop after {trial.start_s * 1000:.0f} ms: {stage.said(onset)}')
        return replace(
            trial,
            start_s=np.nan,
            hold_s=np.nan,
            reasons=(f'goal: {outcome}',),
            after='goes on',
            problems=tuple(problems),
        )


class Zigzag:
    """A plan that turns round at every waypoint, as fast as allowed: it is followed smoothly."""

    @property
    def expected(self) -> str:
        """What must happen, in words."""
        return 'followed within the limits of acceleration and jerk'

    def __call__(self, stage: Stage) -> Trial:
        """Tries it on a ``prepare``d stage."""
        stage.drive()
        step = 0.9 * stage.arm.velocity_limit[0] * stage.time.control_dt
        onset = monotonic()
        for i in range(6):
            positions = _still(stage)
            positions[:, 0] += step * stage.swing * (1 if i % 2 else -1)
            stage.propose(stage.proposal(positions=positions))
            sleep(stage.time.control_dt)
        trial = measure(stage, onset)
        problems = list(trial.problems)
        if stage.state() != GuardState.FOLLOWING.value:
            problems.append(f'not followed: {stage.said(onset)}')
        return replace(
            trial, start_s=np.nan, hold_s=np.nan, after='followed', problems=tuple(problems)
        )


def touching_pose(arm: Arm, start: FloatArray, turn: float) -> FloatArray:
    """(J,) rad, where the arm touches itself, on a way from ``start`` that is fine but for that.

    Args:
        arm: whose workspace, table and shape count.
        start: (J,) rad.
        turn: rad, by which the first joint will have turned until the way is gone; any part of it
            must be as fine.

    Raises:
        ValueError: none was found.
    """
    scene = Scene(arm)

    def is_usable(q: FloatArray) -> bool:
        turned = (q + share * turn * np.eye(len(q))[0] for share in (0.5, 1.0))
        is_inside = all(arm.in_workspace(arm.tip_position(p), 0.0) for p in turned)
        return is_inside and scene.clearance_below(scene.at(q)) > 0.03

    rng = np.random.default_rng(0)
    for _ in range(LOOK):
        pose = np.clip(start + rng.normal(0.0, 0.8, len(start)), arm.lower, arm.upper)
        pose[0] = start[0]
        if is_usable(pose) and scene.self_collision(pose):
            way = straight(arm, start, pose)
            if len(way) <= 19 and all(map(is_usable, way)):
                return pose
    raise ValueError('no pose was found in which the arm touches itself')


def straight(arm: Arm, start: FloatArray, end: FloatArray, control_dt: float = 0.1) -> FloatArray:
    """(N, J) rad, waypoints from ``start`` (left out) to ``end`` at a fair speed."""
    longest = (np.abs(end - start) / (SLOW * arm.velocity_limit * control_dt)).max()
    n = max(1, int(np.ceil(longest)))
    return start + np.arange(1, n + 1)[:, None] / n * (end - start)


def _still(stage: Stage) -> FloatArray:
    """(WAYPOINTS, J) rad, again and again where the arm is commanded to be."""
    return np.tile(stage.command(), (WAYPOINTS, 1))


def _at_steps(stage: Stage, positions: FloatArray) -> JointTrajectory:
    steps = np.arange(1, len(positions) + 1) * stage.time.control_dt
    return stage.proposal(positions=positions, times=steps)


def _towards(stage: Stage, way: FloatArray) -> JointTrajectory:
    """A plan that moves the tip straight along ``way`` (3,) m."""
    joints = stage.command()
    tip, positions = stage.arm.tip_position(joints), []
    count = max(1, int(np.ceil(np.linalg.norm(way) / TIP_STEP_M)))
    for i in range(1, count + 1):
        joints, _ = stage.arm.ik(tip + way * i / count, joints)
        positions.append(joints)
    return _at_steps(stage, np.array(positions))
