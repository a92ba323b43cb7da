"""The reference of the nodes, written from what they declare while they run: ``docs/nodes.md``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import sleep

from rcl_interfaces.msg import ParameterDescriptor
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from .client import GraphClient
from .description import NodeSpec, simulation
from .domain import own_domain
from .graph import Supervisor
from .parameters import BY_OTHERS, LIVE

OF_RCLPY = ('/rosout', '/parameter_events')
PACKAGES_OF_RCLPY = ('rcl_interfaces', 'lifecycle_msgs', 'type_description_interfaces')
ABSOLUTE = ('/clock', '/diagnostics')
ACTION = '/_action/'
HEAD = """\
# Nodes

Written by `jepa-arm reference` from the running nodes; a test compares. Names are relative to the
namespace unless they begin with a slash. Parameters are read when a node starts (`sim`) or is
configured (`guard`, `planner`); *live* ones may be set at any time. A node that is given a
parameter which it does not have ends and names those that it has. What messages mean is said in
their files (`ros2 interface show jepa_arm_msgs/msg/PlannerStatus`).

Beside these, every node has the parameters and services of rclpy (`use_sim_time`, ...), and
`guard` and `planner` those of managed nodes (`ros2 lifecycle`).
"""

SETTLE_S = 2.0
"""In which something more is found of a node, if there is more."""
Row = Sequence[str]


def reference() -> str:
    """The whole page; starts the graph for it, on a ROS domain of its own."""
    specs = simulation()
    with own_domain(), Supervisor(specs) as graph:
        graph.wait_ready()
        client = GraphClient('reference')
        try:
            return page(client, specs)
        finally:
            client.close()


def page(client: GraphClient, specs: Sequence[NodeSpec]) -> str:
    """The page about nodes that run."""
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
    names = sorted(n for n in found if not n.startswith(BY_OTHERS))
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
