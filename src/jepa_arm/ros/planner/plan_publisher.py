"""Plan publishers: status, goal, plan markers and predicted image of the planner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from geometry_msgs.msg import Quaternion, Vector3
from jepa_arm_msgs.msg import Goal, PlannerStatus
from rclpy.clock import Clock, ClockType  # pyright: ignore[reportPrivateImportUsage]
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import ColorRGBA
from torch import Tensor
from trajectory_msgs.msg import JointTrajectory
from transforms3d.euler import euler2quat
from visualization_msgs.msg import Marker, MarkerArray

from jepa_arm.agent.decision import Decision, StepFeedback
from jepa_arm.config import ObstacleConfig
from jepa_arm.core.goals import PositionGoal
from jepa_arm.core.types import FloatArray, JointSample, Observation, Proposal
from jepa_arm.model.checkpoint import DECODER_HINT, Checkpoint, load_decoder
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.conversions import PlanMarker
from jepa_arm.ros.runtime.qos import COMMAND_QOS, LATCHED_QOS, STATUS_QOS

Colour = Sequence[float]
"""Red, green, blue and opacity, each 0 to 1."""
COLOURS: dict[PlanMarker, Colour] = {
    PlanMarker.PATH: (0.2, 0.5, 1.0, 1.0),
    PlanMarker.GOAL: (0.2, 0.8, 0.3, 0.6),
    PlanMarker.CANDIDATES: (0.2, 0.5, 1.0, 0.25),
    PlanMarker.WORKSPACE: (0.6, 0.6, 0.6, 0.5),
    PlanMarker.OBSTACLE: (0.9, 0.5, 0.1, 0.6),
}
SURPRISED_COLOUR, UNRATED_COLOUR = (1.0, 0.2, 0.2, 1.0), (0.5, 0.5, 0.5, 1.0)
"""Colours of the path after a surprising observation, and without an image."""
PATH_WIDTH_M = 0.005
THIN_WIDTH_M = 0.002
"""Width of thin lines; narrower ones look dashed in RViz when the whole arm is in view."""
LATEST = 0.0
"""Stamp with which RViz uses the newest transform, however old the marker is."""
PREDICTED_IMAGE_PERIOD_S = 0.5


@dataclass(frozen=True)
class PlanEnd:
    """Predicted end of a plan.

    Attributes:
        latent: (D,) predicted latent.
        stamp: s, stamp of the observation that the plan starts from.
    """

    latent: Tensor
    stamp: float


@dataclass(frozen=True)
class StepRecord:
    """One step of the planning thread, with everything needed to reproduce its decision.

    Attributes:
        observation: observation, or joints alone, from which the decision was made.
        feedback: feedback given to the agent.
        decision: decision of the agent, after ``Agent.assess``.
        observation_age: s, age of the observation when the plan was ready; NaN without a plan.
    """

    observation: Observation | JointSample
    feedback: StepFeedback
    decision: Decision
    observation_age: float


NO_STEP = StepRecord(
    JointSample(np.empty(0), np.empty(0), 0.0), StepFeedback(), Decision(None), np.nan
)


class PlanPublisher:
    """Publisher of status, goal and plan; in a dry run also of the unsent proposals.

    Attributes:
        last: newest status.
        plan_end: predicted end of the current plan; None without one.
    """

    def __init__(
        self,
        node: Node,
        frame_id: str,
        workspace: FloatArray,
        obstacles: Sequence[ObstacleConfig] = (),
    ) -> None:
        """Create the publishers.

        Args:
            node: publishes the topics.
            frame_id: base frame of the arm.
            workspace: (2, 3) m, lowest and highest corner of the tip's workspace.
            obstacles: always drawn, like the workspace.
        """
        self._node, self._frame_id = node, frame_id
        self._edges, self._obstacles = _edges(workspace), tuple(obstacles)
        self._status_pub = node.create_publisher(PlannerStatus, 'planner/status', STATUS_QOS)
        self._markers_pub = node.create_publisher(MarkerArray, 'planner/plan_markers', LATCHED_QOS)
        self._goal_pub = node.create_publisher(Goal, 'planner/goal', LATCHED_QOS)
        topic = 'planner/plan_preview'  # the guard does not subscribe to it
        self._preview_pub = node.create_publisher(JointTrajectory, topic, COMMAND_QOS)
        self.last = PlannerStatus()
        self.plan_end: PlanEnd | None = None

    def status(
        self, state: int, reason: str = '', record: StepRecord | None = None, replans: int = 0
    ) -> None:
        """Publish a status.

        Args:
            state: a constant of ``PlannerStatus``.
            reason: why nothing is sent, or a note on the plan.
            record: the step; None if there was no observation.
            replans: plans made for the goal.
        """
        msg = PlannerStatus(state=state, reason=reason, replans=replans)
        _fill(msg, NO_STEP if record is None else record)
        msg.header.stamp = self._node.get_clock().now().to_msg()
        msg.header.frame_id = self._frame_id
        self._status_pub.publish(msg)
        self.last = msg

    def goal(self, msg: Goal) -> None:
        """Publish the new active goal."""
        self._goal_pub.publish(msg)

    def preview(self, proposal: Proposal) -> None:
        """Publish a proposal that a dry run does not send to the guard."""
        self._preview_pub.publish(convert.proposal_to_msg(proposal))

    def plan(
        self,
        decision: Decision,
        alternatives: FloatArray,
        goal: PositionGoal,
        radius: float,
        stamp: float,
    ) -> None:
        """Publish the markers of a plan.

        Args:
            decision: its tip path is drawn, the redder the more surprising the observation was.
            alternatives: (N, H, 3) m, tip paths of the next best candidates.
            goal: drawn as a sphere of ``radius`` m.
            stamp: s, stamp of the observation.
        """
        assert decision.tip_path is not None and decision.plan is not None
        self.plan_end = PlanEnd(decision.plan.latents[-1], stamp)
        path = self._marker(PlanMarker.PATH, Marker.LINE_STRIP, PATH_WIDTH_M, stamp)
        path.color = _to_msg(_path_colour(decision.surprise))
        path.points = [convert.point_to_msg(point) for point in decision.tip_path]
        sphere = self._marker(PlanMarker.GOAL, Marker.SPHERE, 2.0 * radius, stamp)
        sphere.pose.position = convert.point_to_msg(goal.position)
        kind = Marker.LINE_LIST
        candidates = self._marker(PlanMarker.CANDIDATES, kind, THIN_WIDTH_M, stamp)
        ends = np.stack([alternatives[:, :-1], alternatives[:, 1:]], axis=2).reshape(-1, 3)
        candidates.points = [convert.point_to_msg(point) for point in ends]
        markers = [path, sphere, candidates, *self._static_markers(stamp)]
        self._markers_pub.publish(MarkerArray(markers=markers))

    def clear(self) -> None:
        """Remove the plan and draw only workspace and obstacles, also for late subscribers."""
        self.plan_end = None
        clear = Marker(action=Marker.DELETEALL)
        self._markers_pub.publish(MarkerArray(markers=[clear, *self._static_markers(LATEST)]))

    def _static_markers(self, stamp: float) -> list[Marker]:
        box = self._marker(PlanMarker.WORKSPACE, Marker.LINE_LIST, THIN_WIDTH_M, stamp)
        box.points = [convert.point_to_msg(point) for point in self._edges]
        return [box, *(self._obstacle(i, stamp) for i in range(len(self._obstacles)))]

    def _obstacle(self, index: int, stamp: float) -> Marker:
        """Return the marker of an obstacle; a capsule becomes a cylinder of its total length."""
        obstacle, number = self._obstacles[index], PlanMarker.OBSTACLE + index
        first, *rest = obstacle.size
        if obstacle.shape == 'box':
            kind, size = Marker.CUBE, obstacle.size
        elif obstacle.shape == 'sphere':
            kind, size = Marker.SPHERE, [2.0 * first] * 3
        else:
            kind, size = Marker.CYLINDER, [2.0 * first, 2.0 * first, rest[0] + 2.0 * first]
        marker = self._marker(number, kind, 0.0, stamp)
        marker.scale = Vector3(x=size[0], y=size[1], z=size[2])
        marker.pose.position = convert.point_to_msg(np.array(obstacle.xyz))
        w, x, y, z = euler2quat(*obstacle.rpy)
        marker.pose.orientation = Quaternion(x=x, y=y, z=z, w=w)
        return marker

    def _marker(self, number: int, kind: int, size: float, stamp: float) -> Marker:
        drawn = PlanMarker(min(number, PlanMarker.OBSTACLE))
        marker = Marker(id=number, type=kind, action=Marker.ADD, color=_to_msg(COLOURS[drawn]))
        marker.ns = drawn.name.lower()  # can be switched off in RViz
        marker.header.frame_id, marker.header.stamp = self._frame_id, convert.to_time(stamp)
        marker.scale = Vector3(x=size, y=size, z=size)
        marker.pose.orientation.w = 1.0
        return marker


class PredictedImagePublisher:
    """Publisher of the image decoded from the latent at the end of the plan, for people to see.

    Nothing is decoded while nobody subscribes.
    """

    def __init__(self, node: Node, checkpoint: Checkpoint, plans: PlanPublisher) -> None:
        """Create the publisher.

        Args:
            node: publishes the topic.
            checkpoint: may contain a decoder; without one, a subscriber causes a warning.
            plans: knows the end of the current plan.

        Raises:
            CheckpointError: the decoder is corrupt, or belongs to other weights.
        """
        self._node, self._plans = node, plans
        self._decoder, self._name = load_decoder(checkpoint), checkpoint.folder.name
        self._frame_id = checkpoint.contract.camera.frame_id
        self._last_stamp, self._has_warned = -1.0, False
        self._publisher = node.create_publisher(Image, 'planner/imagined', STATUS_QOS)
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(PREDICTED_IMAGE_PERIOD_S, self._publish, clock=clock)

    def _publish(self) -> None:
        if not self._publisher.get_subscription_count():
            return
        if self._decoder is None:
            if not self._has_warned:
                self._node.get_logger().warning(
                    f'planner/imagined: the checkpoint {self._name} has no decoder; {DECODER_HINT}'
                )
            self._has_warned = True
            return
        end = self._plans.plan_end
        if end is None or end.stamp == self._last_stamp:
            return
        self._last_stamp = end.stamp
        image = self._decoder.decode(end.latent[None])[0]
        stamp = convert.to_time(end.stamp)
        self._publisher.publish(convert.image_to_msg(image, stamp, self._frame_id))


def _fill(msg: PlannerStatus, record: StepRecord) -> None:
    """Set the fields of ``msg`` that describe a step."""
    observation, feedback, decision = record.observation, record.feedback, record.decision
    plan, late = decision.plan, feedback.late_observations
    joints = observation.joints if isinstance(observation, Observation) else observation.position
    msg.source = 'hold' if plan is None else plan.source
    msg.distance, msg.predicted_distance = decision.distance, decision.predicted_distance
    msg.surprise, msg.risk = decision.surprise, decision.risk
    msg.plan_ms = np.nan if plan is None else plan.latency_ms
    msg.observation_age_ms = record.observation_age * 1000.0
    msg.candidates = 0 if plan is None else plan.candidates
    msg.iterations = 0 if plan is None else plan.iterations
    msg.observation_stamp = convert.to_time(observation.stamp)
    msg.setpoint = [] if decision.setpoint is None else decision.setpoint.tolist()
    msg.is_continued = decision.is_continued
    msg.speed_scale, msg.delay_ms = feedback.speed_scale, feedback.delay * 1000.0
    msg.joints = joints.tolist()
    msg.late_image_stamps = [convert.to_time(image.stamp) for image in late]


def _path_colour(surprise: float) -> Colour:
    """Return blue for no surprise, red from the alarm threshold on, grey without an image."""
    if np.isnan(surprise):
        return UNRATED_COLOUR
    share, calm = np.clip(surprise, 0.0, 1.0), np.array(COLOURS[PlanMarker.PATH])
    return ((1.0 - share) * calm + share * np.array(SURPRISED_COLOUR)).tolist()


def _to_msg(colour: Colour) -> ColorRGBA:
    r, g, b, a = colour
    return ColorRGBA(r=r, g=g, b=b, a=a)


def _edges(box: FloatArray) -> FloatArray:
    """Return both ends (24, 3) m of the twelve edges of a box with corners ``box`` (2, 3) m."""
    corners = np.array(list(product((0, 1), repeat=3)))
    pairs = [(a, b) for a, b in combinations(corners, 2) if np.abs(a - b).sum() == 1]
    return np.array([[box[c, range(3)] for c in pair] for pair in pairs]).reshape(-1, 3)
