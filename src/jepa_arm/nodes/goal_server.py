"""The action ``move_to_goal``: goals as they are asked for, pursued and ended, one at a time.

Callbacks put requests and cancellations; the planning thread takes, reads and ends them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from threading import Lock

import numpy as np
from jepa_arm_msgs.action import MoveToGoal
from jepa_arm_msgs.msg import Goal
from rclpy.action.server import ActionServer, CancelResponse, GoalResponse, ServerGoalHandle
from rclpy.node import Node
from rclpy.task import Future

from ..agent import Agent
from ..angles import QUARTER
from ..arm import Arm
from ..config import CameraConfig
from ..goals import HOLD_STEPS, GoalError, PositionGoal
from ..planning.detours import METRES_A_RADIAN
from ..types import FloatArray, Observation
from . import conversions as convert
from .progress import Progress

Outcome = MoveToGoal.Result
LONGEST_MESSAGE = 1000
MARGIN_M = {'tip': 0.001, 'object': 0.02}
"""How far outside the tip's workspace a goal may be asked for; the tip reaches into objects."""
READ_MARGIN_M = 0.03
"""The same for goals read from an image."""
JOINT_SLACK_RAD = 0.01
JOINTS_NOTE = '; of a JOINTS goal only the place of the tip counts'


class Pursuit:
    """One goal from the request to its outcome; ended once, from any thread.

    Attributes:
        request: as it came. goal: what it was read into; None until then.
        reach: m, read distance that counts as reached. turn_reach: rad, likewise of the yaw.
        distance: m, read last; NaN before. replans: plans made.
        progress: towards the goal.
        ended: done once there is an outcome. outcome, message: of ``MoveToGoal``, then.
    """

    def __init__(self, request: MoveToGoal.Goal, handle: ServerGoalHandle | None = None) -> None:
        self.request, self.handle = request, handle
        self.goal: PositionGoal | None = None
        self.reach, self.turn_reach = 0.0, np.inf
        self.distance = np.nan
        self.replans = 0
        self.ended: Future = Future()
        self._lock = Lock()

    def begin(
        self,
        goal: PositionGoal,
        reach: float,
        timeout: float,
        patience: float,
        turn_reach: float = np.inf,
    ) -> None:
        """Says where to go; the clock starts with the first plan.

        Args:
            goal: where to.
            reach: m, read distance that counts as reached. turn_reach: rad, read turn that does.
            timeout: s in all; patience: s of moving at full speed without coming nearer.
        """
        self.goal, self.reach, self._timeout = goal, reach, timeout
        self.turn_reach = turn_reach
        self._held, self.progress = 0, Progress(patience, turns=self.wants_yaw)
        self.restart_clock()

    @property
    def wants_yaw(self) -> bool:
        """Whether the goal asks for a yaw."""
        return self.goal is not None and self.goal.yaw is not None

    def restart_clock(self) -> None:
        """Counts time from the next plan on."""
        self._began: float | None = None
        self.progress.restart_clock()

    def judge(
        self, stamp: float, distance: float, cost: float, turn: float = np.nan, **how: float
    ) -> None:
        """Counts one plan, and ends it all if due; see ``Progress.see``.

        ``turn``: rad, by which the object is to be turned yet; NaN where no yaw counts.
        """
        self._began = stamp if self._began is None else self._began
        centimetres, is_turned = f'{distance * 100:.1f} cm', True
        way = distance
        if self.wants_yaw:
            centimetres += f' and {np.degrees(turn):.0f} degrees'
            is_turned, way = bool(turn <= self.turn_reach), distance + METRES_A_RADIAN * turn
        self.progress.see(stamp, way, cost, **how)
        self.distance = distance
        self.replans += 1
        self._held = self._held + 1 if distance <= self.reach and is_turned else 0
        took = stamp - self._began
        if self._held >= HOLD_STEPS:
            self.end(Outcome.SUCCEEDED, f'{centimetres} from the goal after {took:.1f} s')
        elif took >= self._timeout:
            self.end(Outcome.TIMED_OUT, f'{centimetres} from the goal after {took:.1f} s')
        elif self.progress.is_over:
            nearest, stuck = self.progress.nearest, self.progress.stuck
            counted = f' ({METRES_A_RADIAN * 100:.0f} cm for each rad)' if self.wants_yaw else ''
            self.end(
                Outcome.UNREACHABLE,
                f'no nearer than {nearest * 100:.1f} cm{counted} for {stuck:.1f} s; try '
                'another goal, or a longer progress_timeout',
            )

    def end(self, outcome: int, message: str) -> None:
        """Gives the outcome, if there is none yet."""
        with self._lock:
            if self.ended.done():
                return
            self.outcome, self.message = outcome, message[:LONGEST_MESSAGE]
            self.ended.set_result(None)

    def feedback(self, **values: float) -> None:
        """Sends the caller the fields of ``MoveToGoal.Feedback``."""
        if self.handle is not None and not self.ended.done():
            self.handle.publish_feedback(MoveToGoal.Feedback(**values))


class GoalServer:
    """Serves ``move_to_goal``; the newest goal takes over from the one before.

    Attributes:
        closed: why no goal is accepted; empty if they are.
    """

    def __init__(
        self, node: Node, closed: str = '', begin: Callable[[], None] = lambda: None
    ) -> None:
        """``begin`` is called when a goal is accepted."""
        self._node, self.closed, self._begin = node, closed, begin
        self._lock = Lock()
        self._waiting: Pursuit | None = None
        self.active: Pursuit | None = None
        self._server = ActionServer(
            node,
            MoveToGoal,
            'move_to_goal',
            self._execute,
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel,
        )
        self._unanswered: dict[bytes, Pursuit] = {}

    def take(self) -> Pursuit | None:
        """The newest request that nobody took yet."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
        return waiting

    def activate(self, pursuit: Pursuit) -> None:
        """Pursues ``pursuit`` from now on."""
        if self.active is not None:
            self.active.end(Outcome.PREEMPTED, 'a newer goal took over')
        self.active = pursuit

    def end_all(self, outcome: int, message: str) -> None:
        """Ends every goal."""
        for pursuit in list(self._unanswered.values()):
            pursuit.end(outcome, message)

    @property
    def is_idle(self) -> bool:
        """Whether every request has its result."""
        return not self._unanswered

    def destroy(self) -> None:
        """Takes the action out of service."""
        self._server.destroy()

    def _on_goal(self, request: MoveToGoal.Goal) -> GoalResponse:
        if not self.closed:
            return GoalResponse.ACCEPT
        self._node.get_logger().warning(f'goal rejected: {self.closed}')
        return GoalResponse.REJECT

    def _on_accepted(self, handle: ServerGoalHandle) -> None:
        pursuit = Pursuit(handle.request, handle)
        self._unanswered[bytes(handle.goal_id.uuid)] = pursuit
        with self._lock:
            waiting, self._waiting = self._waiting, pursuit
        self._begin()
        if waiting is not None:
            waiting.end(Outcome.PREEMPTED, 'a newer goal took over')
        handle.execute()

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        pursuit = self._unanswered.get(bytes(handle.goal_id.uuid))
        if pursuit is None:
            return CancelResponse.REJECT
        pursuit.end(Outcome.CANCELED, 'canceled; the arm comes to a stop')
        return CancelResponse.ACCEPT

    async def _execute(self, handle: ServerGoalHandle) -> MoveToGoal.Result:
        key = bytes(handle.goal_id.uuid)
        pursuit = self._unanswered[key]
        await pursuit.ended
        outcome, message = pursuit.outcome, pursuit.message
        if handle.request.goal.kind == Goal.JOINTS:
            message += JOINTS_NOTE
        if outcome == Outcome.SUCCEEDED:
            handle.succeed()
        elif outcome == Outcome.CANCELED and handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        del self._unanswered[key]
        self._node.get_logger().info(f'goal ended: {OUTCOME_NAMES[outcome]}: {message}')
        return MoveToGoal.Result(
            outcome=outcome,
            message=message,
            final_distance=float(pursuit.distance),
            replans=pursuit.replans,
        )


class GoalReader:
    """Reads goal messages into places for the object or the tip."""

    def __init__(
        self,
        agent: Agent,
        arm: Arm,
        camera: CameraConfig,
        saved: Mapping[str, Observation],
    ) -> None:
        self._agent, self._arm, self._camera, self._saved = agent, arm, camera, saved

    def read(self, msg: Goal) -> PositionGoal:
        """The place that ``msg`` means.

        Raises:
            GoalError, ConversionError: malformed, unknown, or outside the workspace.
        """
        if msg.kind == Goal.IMAGE:
            return self._read_observation(msg, self._shown(msg))
        if msg.kind == Goal.SAVED:
            return self._read_observation(msg, self._recalled(msg.saved_name))
        if msg.kind == Goal.JOINTS:
            goal = PositionGoal('tip', self._arm.tip_position(self._joints(msg)))
        elif msg.kind in (Goal.OBJECT_POSE, Goal.TIP_POSE):
            goal = convert.position_goal_from_msg(msg, self._arm.config.base_link)
        else:
            raise GoalError(f'goal kind: expected 0 (IMAGE) to 4 (JOINTS), got {msg.kind}')
        self._check_place(goal, MARGIN_M[goal.subject])
        return self._check_turn(msg, goal)

    def spelled_out(self, msg: Goal) -> Goal:
        """``msg`` as one that needs no memory: a saved state becomes the image that was saved."""
        if msg.kind != Goal.SAVED:
            return msg
        saved = self._recalled(msg.saved_name)
        return convert.image_goal_to_msg(
            'object' if msg.subject == Goal.SUBJECT_OBJECT else 'tip',
            saved.image,
            saved.joints,
            self._arm.joint_names,
            self._camera.frame_id,
            convert.to_time(saved.stamp),
        )

    def _read_observation(self, msg: Goal, shown: Observation) -> PositionGoal:
        subjects = {Goal.SUBJECT_OBJECT: 'object', Goal.SUBJECT_TIP: 'tip'}
        if msg.subject not in subjects:
            raise GoalError(f'goal subject: expected 0 (object) or 1 (tip), got {msg.subject}')
        with_yaw = msg.yaw_tolerance != 0.0 and msg.subject == Goal.SUBJECT_OBJECT
        goal = self._agent.goal_images.read(shown, subjects[msg.subject], with_yaw)
        self._check_place(goal, READ_MARGIN_M)
        if goal.subject == 'tip':
            goal = replace(goal, position=self._arm.clip_to_workspace(goal.position))
        return self._check_turn(msg, goal)

    @staticmethod
    def _check_turn(msg: Goal, goal: PositionGoal) -> PositionGoal:
        """``goal``, if what ``msg`` says of the yaw makes sense."""
        tolerance = msg.yaw_tolerance
        if not 0.0 <= tolerance < QUARTER / 2.0 or (tolerance and goal.yaw is None):
            raise GoalError(
                'goal yaw_tolerance: expected 0, or less than an eighth of a turn (0.785 rad) for '
                f'the object, got {tolerance} for the {goal.subject}'
            )
        return goal

    def _shown(self, msg: Goal) -> Observation:
        pixels = convert.image_from_msg(msg.image, (self._camera.width, self._camera.seen[0]))
        return Observation(pixels, self._joints(msg), convert.to_seconds(msg.image.header.stamp))

    def _recalled(self, name: str) -> Observation:
        if name not in self._saved:
            raise GoalError(
                f'saved state: expected one of {sorted(self._saved)}, got {name!r}; save one '
                'with planner/save_state'
            )
        return self._saved[name]

    def _joints(self, msg: Goal) -> FloatArray:
        joints = convert.joints_from_msg(msg.joints, self._arm.joint_names).position
        slack = JOINT_SLACK_RAD
        if not np.all((joints > self._arm.lower - slack) & (joints < self._arm.upper + slack)):
            raise GoalError(
                f'goal joints: expected finite positions within the limits of '
                f'{self._arm.config.name}, got {np.round(joints, 3).tolist()}'
            )
        return joints

    def _check_place(self, goal: PositionGoal, margin: float) -> None:
        if not self._arm.in_workspace(goal.position, margin):
            raise GoalError(
                f'goal: expected a place for the {goal.subject} in the workspace '
                f'{self._arm.config.workspace_min} to {self._arm.config.workspace_max} m, got '
                f'{np.round(goal.position, 3).tolist()}'
            )


OUTCOME_NAMES = {
    getattr(Outcome, name): name
    for name in (
        'SUCCEEDED',
        'TIMED_OUT',
        'UNREACHABLE',
        'SURPRISED',
        'GUARD_STOPPED',
        'NO_OBSERVATION',
        'PREEMPTED',
        'CANCELED',
        'INVALID_GOAL',
    )
}
