"""Graph under test: simulator, guard and planner in a ROS domain of their own, with a client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jepa_arm.ros.client import GraphClient
from jepa_arm.ros.graph.description import SimulationGraph
from jepa_arm.ros.graph.supervisor import Supervisor
from jepa_arm.ros.runtime.environment import isolated_domain


@contextmanager
def running_graph(
    graph: SimulationGraph, client_name: str
) -> Iterator[tuple[Supervisor, GraphClient]]:
    """Start the processes of ``graph`` and a client; stop them at the end.

    Raises:
        GraphError: the graph did not start.
    """
    with isolated_domain(), Supervisor(graph.nodes) as processes:
        processes.wait_ready()
        with GraphClient.connect(client_name) as client:
            yield processes, client
