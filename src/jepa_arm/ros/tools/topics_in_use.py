"""Topics in use: the names, possibly remapped, that guard and planner of a graph use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rclpy.node import Node

COMMANDS = 'commands'
"""Key of the topic on which the guard commands the robot; its default name depends on the arm."""
PROPOSALS = 'planner/joint_trajectory'
TRAJECTORY, NUMBERS = 'trajectory_msgs/msg/JointTrajectory', 'std_msgs/msg/Float64MultiArray'
FEEDBACK, STATUS = '/_action/feedback', '/_action/status'


@dataclass(frozen=True)
class TopicRole:
    """Role of a topic in the graph.

    Attributes:
        name: default name of the topic.
        node: name of the node that uses it.
        is_subscribed: whether the node subscribes to it; otherwise it publishes it.
        kind: type of its messages.
    """

    name: str
    node: str
    is_subscribed: bool
    kind: str


ROLES = (
    TopicRole('joint_states', 'planner', True, 'sensor_msgs/msg/JointState'),
    TopicRole('joint_states', 'guard', True, 'sensor_msgs/msg/JointState'),
    TopicRole('camera/image_raw', 'planner', True, 'sensor_msgs/msg/Image'),
    TopicRole('camera/camera_info', 'planner', True, 'sensor_msgs/msg/CameraInfo'),
    TopicRole('wrist_camera/image_raw', 'planner', True, 'sensor_msgs/msg/Image'),
    TopicRole('guard/status', 'guard', False, 'jepa_arm_msgs/msg/GuardStatus'),
    TopicRole('planner/status', 'planner', False, 'jepa_arm_msgs/msg/PlannerStatus'),
    TopicRole('planner/goal', 'planner', False, 'jepa_arm_msgs/msg/Goal'),
    TopicRole('planner/plan_markers', 'planner', False, 'visualization_msgs/msg/MarkerArray'),
    TopicRole(PROPOSALS, 'guard', True, TRAJECTORY),
)
"""Of roles with the same name, the first that is found counts."""
MANAGED_NODES = {'guard', 'planner'}


def nodes_seen(node: Node) -> set[str]:
    """Return the names of the ``MANAGED_NODES`` that are in the namespace of ``node``."""
    space = node.get_namespace()
    there = {name for name, where in node.get_node_names_and_namespaces() if where == space}
    return there & MANAGED_NODES


def topics_in_use(node: Node) -> dict[str, str]:
    """Return the full names of the topics that guard and planner use, by role.

    A role is left out if several topics fit it and none of them has the default name.
    ``COMMANDS`` is included once the guard publishes commands, or listens for those of others.

    Args:
        node: a node in the namespace of the graph.
    """
    ends = {
        (name, is_subscribed): _topics(node, name, is_subscribed)
        for name in nodes_seen(node)
        for is_subscribed in (False, True)
    }
    found: dict[str, str] = {}
    for role in ROLES:
        kinds = ends.get((role.node, role.is_subscribed), {})
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


def _commands(published: dict[str, str], subscribed: dict[str, str]) -> Iterator[str]:
    """Yield topics on which the guard may command, the most certain first.

    An action is represented by its status topic.
    """
    yield from (topic for topic, kind in published.items() if kind in (TRAJECTORY, NUMBERS))
    yield from (t.replace(FEEDBACK, STATUS) for t in subscribed if t.endswith(FEEDBACK))
    yield from (topic for topic, kind in subscribed.items() if kind in (TRAJECTORY, NUMBERS))


def _topics(node: Node, name: str, is_subscribed: bool) -> dict[str, str]:
    """Return the topics that a node subscribes to, or publishes, with their types."""
    get_topics = (
        node.get_subscriber_names_and_types_by_node
        if is_subscribed
        else node.get_publisher_names_and_types_by_node
    )
    try:
        found = get_topics(name, node.get_namespace())
    except RuntimeError:  # the node has left
        return {}
    return {topic: kinds[0] for topic, kinds in found if len(kinds) == 1}
