"""Which topics guard and planner of a running graph really use: names may have been remapped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rclpy.node import Node

COMMANDS = 'commands'
"""Role of the topic on which the guard commands the robot; its usual name depends on the arm."""
PROPOSALS = 'planner/joint_trajectory'
TRAJECTORY, NUMBERS = 'trajectory_msgs/msg/JointTrajectory', 'std_msgs/msg/Float64MultiArray'
FEEDBACK, STATUS = '/_action/feedback', '/_action/status'


@dataclass(frozen=True)
class Role:
    """What a topic is for.

    Attributes:
        name: its usual name. node: who uses it. hears: whether that subscribes, or publishes.
        kind: of its messages.
    """

    name: str
    node: str
    hears: bool
    kind: str


ROLES = (
    Role('joint_states', 'planner', True, 'sensor_msgs/msg/JointState'),
    Role('joint_states', 'guard', True, 'sensor_msgs/msg/JointState'),
    Role('camera/image_raw', 'planner', True, 'sensor_msgs/msg/Image'),
    Role('camera/camera_info', 'planner', True, 'sensor_msgs/msg/CameraInfo'),
    Role('wrist_camera/image_raw', 'planner', True, 'sensor_msgs/msg/Image'),
    Role('guard/status', 'guard', False, 'jepa_arm_msgs/msg/GuardStatus'),
    Role('planner/status', 'planner', False, 'jepa_arm_msgs/msg/PlannerStatus'),
    Role('planner/goal', 'planner', False, 'jepa_arm_msgs/msg/Goal'),
    Role('planner/plan_markers', 'planner', False, 'visualization_msgs/msg/MarkerArray'),
    Role(PROPOSALS, 'guard', True, TRAJECTORY),
)
"""Of one name, the first that is found counts."""


def nodes_seen(node: Node) -> set[str]:
    """Names of those nodes of ``ROLES`` that are in the namespace of ``node``."""
    space = node.get_namespace()
    there = {name for name, where in node.get_node_names_and_namespaces() if where == space}
    return there & {role.node for role in ROLES}


def topics_in_use(node: Node) -> dict[str, str]:
    """Whole names of the topics that guard and planner in the namespace of ``node`` use, by role.

    Where a role could be that of several topics, and none of them has its usual name, it is left
    out. ``COMMANDS`` is there once the guard commands, or listens whether others do.
    """
    ends = {
        (name, hears): _topics(node, name, hears)
        for name in nodes_seen(node)
        for hears in (False, True)
    }
    found: dict[str, str] = {}
    for role in ROLES:
        kinds = ends.get((role.node, role.hears), {})
        others = {topic for name, topic in found.items() if name != role.name}
        names = [t for t, kind in kinds.items() if kind == role.kind and t not in others]
        usual = node.resolve_topic_name(role.name)
        if usual in names:
            found.setdefault(role.name, usual)
        elif len(names) == 1:
            found.setdefault(role.name, names[0])
    proposals = found.get(PROPOSALS, node.resolve_topic_name(PROPOSALS))
    for topic in _commands(ends.get(('guard', False), {}), ends.get(('guard', True), {})):
        if topic != proposals:
            found.setdefault(COMMANDS, topic)
    return found


def _commands(says: dict[str, str], hears: dict[str, str]) -> Iterator[str]:
    """Topics on which the guard may command, the surest first; of an action that of its goals."""
    yield from (topic for topic, kind in says.items() if kind in (TRAJECTORY, NUMBERS))
    yield from (t.replace(FEEDBACK, STATUS) for t in hears if t.endswith(FEEDBACK))
    yield from (topic for topic, kind in hears.items() if kind in (TRAJECTORY, NUMBERS))


def _topics(node: Node, name: str, hears: bool) -> dict[str, str]:
    """Topics that a node subscribes to, or publishes, with the kind of their messages."""
    look = (
        node.get_subscriber_names_and_types_by_node
        if hears
        else node.get_publisher_names_and_types_by_node
    )
    try:
        found = look(name, node.get_namespace())
    except RuntimeError:  # it is gone since
        return {}
    return {topic: kinds[0] for topic, kinds in found if len(kinds) == 1}
