"""Write docs/reference/nodes.md: topics, services and parameters, read from running nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from time import sleep

from rcl_interfaces.msg import ParameterDescriptor
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from jepa_arm.ros.client import GraphClient
from jepa_arm.ros.graph.description import NodeSpec, SimulationGraph
from jepa_arm.ros.graph.supervisor import Supervisor
from jepa_arm.ros.runtime.environment import isolated_domain, prepare_ros
from jepa_arm.ros.runtime.parameters import LIVE, RCLPY_PARAMETERS

OF_RCLPY = ('/rosout', '/parameter_events')
PACKAGES_OF_RCLPY = ('rcl_interfaces', 'lifecycle_msgs', 'type_description_interfaces')
ABSOLUTE = ('/clock', '/diagnostics')
ACTION = '/_action/'
HEAD = """\
# Nodes

Generated from the running nodes by `docs/node_reference.py`. Names are relative to the namespace
unless they begin with a slash. Parameters are read when a node starts (`sim`) or is
configured (`guard`, `planner`); *live* ones may be set at any time. A node rejects unknown
parameters and lists those that it has. The messages are explained in their files
(`ros2 interface show jepa_arm_msgs/msg/PlannerStatus`).

Besides these, every node has the parameters and services of rclpy (`use_sim_time`, ...), and
`guard` and `planner` those of managed nodes (`ros2 lifecycle`).
"""

PAGE = Path(__file__).parent / 'reference/nodes.md'
SETTLE_S = 2.0
"""Time without news after which discovery is complete."""
Row = Sequence[str]


def reference() -> str:
    """Return the page about all nodes; starts the graph on a ROS domain of its own."""
    specs = SimulationGraph().nodes
    with isolated_domain(), Supervisor(specs) as graph:
        graph.wait_ready()
        with GraphClient('reference') as client:
            return page(client, specs)


def page(client: GraphClient, specs: Sequence[NodeSpec]) -> str:
    """Return the page about running nodes."""
    names = {spec.name for spec in specs}
    client.wait(lambda: names <= set(client.node.get_node_names()), 'discovery of the nodes')
    before, found = None, dict[str, list[Row]]()
    while found != before:
        sleep(SETTLE_S)
        before, found = found, {s.name: _ends(client, s.name) for s in specs}
    return '\n'.join([HEAD, *(_section(client, name, ends) for name, ends in found.items())])


def _ends(client: GraphClient, name: str) -> list[Row]:
    return [*_topics(client, name), *_services(client, name)]


def _section(client: GraphClient, name: str, ends: list[Row]) -> str:
    parts = [f'## {name}', '', *_table(('', 'name', 'type', 'QoS'), ends), '']
    return '\n'.join(
        [*parts, *_table(('parameter', 'default', ''), _parameters(client, name)), '']
    )


def _table(head: Row, rows: Iterable[Row]) -> list[str]:
    return [f'| {" | ".join(row)} |' for row in (head, ['---'] * len(head), *rows)]


def _topics(client: GraphClient, name: str) -> list[Row]:
    node = client.node
    looks = (
        ('subscribes', node.get_subscriber_names_and_types_by_node, True),
        ('publishes', node.get_publisher_names_and_types_by_node, False),
    )
    rows = []
    for verb, look, is_reader in looks:
        for topic, kinds in sorted(look(name, '/')):
            kind = kinds[0]
            if topic in OF_RCLPY or ACTION in topic or kind.startswith(PACKAGES_OF_RCLPY):
                continue
            find = (
                node.get_subscriptions_info_by_topic
                if is_reader
                else node.get_publishers_info_by_topic
            )
            [info] = [i for i in find(topic) if i.node_name == name][:1]
            rows.append((verb, f'`{_relative(topic)}`', f'`{kind}`', _qos(info.qos_profile)))
    return rows


def _services(client: GraphClient, name: str) -> list[Row]:
    rows = []
    for service, kinds in sorted(client.node.get_service_names_and_types_by_node(name, '/')):
        kind = kinds[0]
        if kind.startswith(PACKAGES_OF_RCLPY):
            continue
        if service.endswith(f'{ACTION}send_goal'):
            action, kind = service.split(ACTION)[0], kind.removesuffix('_SendGoal')
            rows.append(('action', f'`{_relative(action)}`', f'`{kind}`', ''))
        elif ACTION not in service:
            rows.append(('serves', f'`{_relative(service)}`', f'`{kind}`', ''))
    return rows


def _parameters(client: GraphClient, name: str) -> list[Row]:
    found = client.call(ListParameters, f'{name}/list_parameters').result.names
    names = sorted(n for n in found if not n.startswith(RCLPY_PARAMETERS))
    request = DescribeParameters.Request(names=names)
    told = client.call(DescribeParameters, f'{name}/describe_parameters', request).descriptors
    values = client.call(
        GetParameters, f'{name}/get_parameters', GetParameters.Request(names=names)
    ).values
    return [
        (f'`{d.name}`', f'`{parameter_value_to_python(v)}`', _about(d))
        for d, v in zip(told, values, strict=True)
    ]


def _about(descriptor: ParameterDescriptor) -> str:
    notes = [f'{r.from_value:g} to {r.to_value:g}' for r in descriptor.floating_point_range]
    notes += [f'{r.from_value} to {r.to_value}' for r in descriptor.integer_range]
    notes += ['*live*'] if descriptor.additional_constraints == LIVE else []
    return '; '.join([descriptor.description, *notes]).replace('<', '&lt;')


def _relative(name: str) -> str:
    return name if name in ABSOLUTE else name.removeprefix('/')


def _qos(profile: QoSProfile) -> str:
    is_reliable = profile.reliability == ReliabilityPolicy.RELIABLE
    is_latched = profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    return ('reliable' if is_reliable else 'best effort') + (', latched' if is_latched else '')


if __name__ == '__main__':
    prepare_ros()
    PAGE.write_text(reference())
