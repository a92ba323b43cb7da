"""What the planner shows of itself: its status, its goal, and its plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from geometry_msgs.msg import Quaternion, Vector3
from jepa_arm_msgs.msg import Goal, PlannerStatus
from rclpy.node import Node
from std_msgs.msg import ColorRGBA
from torch import Tensor
from trajectory_msgs.msg import JointTrajectory
from transforms3d.euler import euler2quat
from visualization_msgs.msg import Marker, MarkerArray

from ..config import ObstacleConfig
from ..decision import Decision
from ..goals import PositionGoal
from ..types import FloatArray, Proposal
from . import conversions as convert
from .conversions import PlanMarker
from .parameters import COMMAND, LATCHED, STATUS

GOAL_COLOUR = ColorRGBA(r=0.2, g=0.8, b=0.3, a=0.6)
PATH_COLOUR = ColorRGBA(r=0.2, g=0.5, b=1.0, a=1.0)
SURPRISED_COLOUR = ColorRGBA(r=1.0, g=0.2, b=0.2, a=1.0)
FAN_COLOUR = ColorRGBA(r=0.2, g=0.5, b=1.0, a=0.25)
BOX_COLOUR = ColorRGBA(r=0.6, g=0.6, b=0.6, a=0.5)
OBSTACLE_COLOUR = ColorRGBA(r=0.9, g=0.5, b=0.1, a=0.6)
LINE_M = 0.005
THIN_M = 0.002
"""RViz breaks lines of 1 mm into dashes from where the whole arm is seen."""
ANY_TIME = 0.0
"""Stamp with which RViz takes the newest transform, however old the marker is."""


@dataclass(frozen=True)
class PlanEnd:
    """Where a plan ends.

    Attributes:
        latent: (D,) as predicted. stamp: s, of the observation that was planned from.
    """

    latent: Tensor
    stamp: float


class PlanView:
    """Publishes status, goal and plan; what would be proposed only where nothing is sent.

    Attributes:
        last: the newest status.
        plan_end: of the present plan; None while there is none.
    """

    def __init__(
        self,
        node: Node,
        frame_id: str,
        workspace: FloatArray,
        obstacles: Sequence[ObstacleConfig] = (),
    ) -> None:
        """Publishes nothing yet.

        Args:
            node: of the topics. frame_id: base frame of the arm.
            workspace: (2, 3) m, lowest and highest corner of where the tip may be.
            obstacles: that are drawn, as the workspace is, with a plan and without.
        """
        self._node, self._frame_id = node, frame_id
        self._edges, self._obstacles = _edges(workspace), tuple(obstacles)
        self._status_pub = node.create_publisher(PlannerStatus, 'planner/status', STATUS)
        self._markers_pub = node.create_publisher(MarkerArray, 'planner/plan_markers', LATCHED)
        self._goal_pub = node.create_publisher(Goal, 'planner/goal', LATCHED)
        topic = 'planner/plan_preview'  # to which no guard listens
        self._preview_pub = node.create_publisher(JointTrajectory, topic, COMMAND)
        self.last = PlannerStatus()
        self.plan_end: PlanEnd | None = None

    def status(
        self,
        state: int,
        reason: str = '',
        stamp: float = 0.0,
        decision: Decision | None = None,
        age: float = np.nan,
        replans: int = 0,
        latency: float = 0.0,
        speed: float = 1.0,
        joints: FloatArray | None = None,
        seen_late: Sequence[float] = (),
    ) -> None:
        """Publishes one status.

        Args:
            state: of ``PlannerStatus``. reason: why nothing is sent.
            stamp: s, of the observation; 0 if there is none.
            decision: made of it. age: s, of the observation when the proposal was sent.
            replans: plans made for the goal.
            latency: s, assumed from the observation to the first command.
            speed: share of the tip's full speed that was planned with.
            joints: (J,) rad, measured at ``stamp``.
            seen_late: s, stamps of images that came late since the last step.
        """
        plan = None if decision is None else decision.plan
        msg = PlannerStatus(
            state=state,
            reason=reason,
            source='hold' if plan is None else plan.source,
            distance=np.nan if decision is None else decision.distance,
            predicted_distance=np.nan if decision is None else decision.predicted_distance,
            surprise=np.nan if decision is None else decision.surprise,
            risk=np.nan if decision is None else decision.contact,
            plan_ms=np.nan if plan is None else plan.latency_ms,
            observation_age_ms=age * 1000.0,
            replans=replans,
            candidates=0 if plan is None else plan.candidates,
            sweeps=0 if plan is None else plan.sweeps,
            observation_stamp=convert.to_time(stamp),
            told=[] if decision is None or decision.told is None else decision.told.tolist(),
            is_continued=decision is not None and decision.is_continued,
            speed_scale=speed,
            latency_ms=latency * 1000.0,
            joints=[] if joints is None else joints.tolist(),
            seen_late=[convert.to_time(late) for late in seen_late],
        )
        msg.header.stamp = self._node.get_clock().now().to_msg()
        msg.header.frame_id = self._frame_id
        self._status_pub.publish(msg)
        self.last = msg

    def goal(self, msg: Goal) -> None:
        """Publishes the goal that is pursued from now on."""
        self._goal_pub.publish(msg)

    def preview(self, proposal: Proposal) -> None:
        """Publishes what a dry run would have sent to the guard."""
        self._preview_pub.publish(convert.proposal_to_msg(proposal))

    def plan(
        self,
        decision: Decision,
        others: FloatArray,
        goal: PositionGoal,
        radius: float,
        stamp: float,
    ) -> None:
        """Draws the plan.

        Args:
            decision: its path of the tip, the redder the more surprising the observation.
            others: (N, H, 3) m, paths of the next best candidates.
            goal: as a sphere of ``radius`` m.
            stamp: s.
        """
        assert decision.tip_path is not None and decision.plan is not None
        self.plan_end = PlanEnd(decision.plan.latents[-1], stamp)
        path = self._marker(
            PlanMarker.PATH, Marker.LINE_STRIP, _path_colour(decision.surprise), LINE_M, stamp
        )
        path.points = [convert.point_to_msg(point) for point in decision.tip_path]
        sphere = self._marker(PlanMarker.GOAL, Marker.SPHERE, GOAL_COLOUR, 2.0 * radius, stamp)
        sphere.pose.position = convert.point_to_msg(goal.position)
        fan = self._marker(PlanMarker.CANDIDATES, Marker.LINE_LIST, FAN_COLOUR, THIN_M, stamp)
        ends = np.stack([others[:, :-1], others[:, 1:]], axis=2).reshape(-1, 3)
        fan.points = [convert.point_to_msg(point) for point in ends]
        self._markers_pub.publish(MarkerArray(markers=[path, sphere, fan, *self._scene(stamp)]))

    def clear(self) -> None:
        """Draws workspace and obstacles alone, also for who comes later; once, as they stay."""
        self.plan_end = None
        nothing = Marker(action=Marker.DELETEALL)
        self._markers_pub.publish(MarkerArray(markers=[nothing, *self._scene(ANY_TIME)]))

    def _scene(self, stamp: float) -> list[Marker]:
        box = self._marker(PlanMarker.WORKSPACE, Marker.LINE_LIST, BOX_COLOUR, THIN_M, stamp)
        box.points = [convert.point_to_msg(point) for point in self._edges]
        return [box, *(self._obstacle(i, stamp) for i in range(len(self._obstacles)))]

    def _obstacle(self, index: int, stamp: float) -> Marker:
        """A capsule is drawn as a cylinder of its whole length."""
        obstacle, number = self._obstacles[index], PlanMarker.OBSTACLE + index
        first, *rest = obstacle.size
        if obstacle.shape == 'box':
            kind, size = Marker.CUBE, obstacle.size
        elif obstacle.shape == 'sphere':
            kind, size = Marker.SPHERE, [2.0 * first] * 3
        else:
            kind, size = Marker.CYLINDER, [2.0 * first, 2.0 * first, rest[0] + 2.0 * first]
        marker = self._marker(number, kind, OBSTACLE_COLOUR, 0.0, stamp)
        marker.scale = Vector3(x=size[0], y=size[1], z=size[2])
        marker.pose.position = convert.point_to_msg(np.array(obstacle.xyz))
        w, x, y, z = euler2quat(*obstacle.rpy)
        marker.pose.orientation = Quaternion(x=x, y=y, z=z, w=w)
        return marker

    def _marker(
        self, number: int, kind: int, colour: ColorRGBA, size: float, stamp: float
    ) -> Marker:
        space = PlanMarker(min(number, PlanMarker.OBSTACLE)).name.lower()  # switched by itself
        marker = Marker(ns=space, id=number, type=kind, action=Marker.ADD, color=colour)
        marker.header.frame_id, marker.header.stamp = self._frame_id, convert.to_time(stamp)
        marker.scale = Vector3(x=size, y=size, z=size)
        marker.pose.orientation.w = 1.0
        return marker


def _path_colour(surprise: float) -> ColorRGBA:
    """From that of a plan to that of an alarm; of a plan where nothing was seen."""
    share = float(np.clip(np.nan_to_num(surprise), 0.0, 1.0))
    calm, alarm = PATH_COLOUR, SURPRISED_COLOUR
    return ColorRGBA(
        r=(1.0 - share) * calm.r + share * alarm.r,
        g=(1.0 - share) * calm.g + share * alarm.g,
        b=(1.0 - share) * calm.b + share * alarm.b,
        a=1.0,
    )


def _edges(box: FloatArray) -> FloatArray:
    """(24, 3) m, both ends of the twelve edges of a box with corners ``box`` (2, 3)."""
    corners = np.array(list(product((0, 1), repeat=3)))
    pairs = [(a, b) for a, b in combinations(corners, 2) if np.abs(a - b).sum() == 1]
    return np.array([[box[c, range(3)] for c in pair] for pair in pairs]).reshape(-1, 3)
