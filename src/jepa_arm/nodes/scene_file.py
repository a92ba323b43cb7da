"""What guard, planner and simulator know of the obstacles of one scene, and then of another.

All three read the file that their parameter ``guard_config`` names: guard and planner when they
are configured, the simulator at each reset. So that the guard is never active among obstacles that
it does not know, both are taken down before the file is written, and up after the scene was reset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import yaml
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.client import Client
from rclpy.node import Node

from ..config import GuardConfig, ObstacleConfig, load, to_dict
from ..resources import config_path
from .graph import GraphError, Supervisor

Call = Callable[[Client, Any, str], Any]
"""The response of a service's client to a request; the name of the service is for errors."""

DOWN = {
    State.PRIMARY_STATE_ACTIVE: Transition.TRANSITION_DEACTIVATE,
    State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_CLEANUP,
}
"""What leads a node from each state towards being unconfigured."""
UP = {
    State.PRIMARY_STATE_UNCONFIGURED: Transition.TRANSITION_CONFIGURE,
    State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_ACTIVATE,
}
"""What leads it from each state towards being active."""
LONGEST_S = 60.0
"""For which a node may be on its way; one transition takes seconds on a busy machine."""


class SceneFile:
    """The configuration of the guard, with a scene's obstacles in place of its own.

    Attributes:
        path: of the file, in a folder of its own that ``close`` removes.
    """

    def __init__(self, obstacles: tuple[ObstacleConfig, ...]) -> None:
        """Declares ``obstacles`` (base frame)."""
        self._folder = TemporaryDirectory(prefix='jepa_arm_scene_')
        self.path = Path(self._folder.name) / 'guard.yaml'
        self.declare(obstacles)

    def declare(self, obstacles: tuple[ObstacleConfig, ...]) -> None:
        """Writes the file anew; who reads it meanwhile reads the old one or the new one."""
        config = replace(load(GuardConfig, config_path('guard.yaml')), obstacles=obstacles)
        part = self.path.with_suffix('.part')
        part.write_text(yaml.safe_dump(to_dict(config), sort_keys=False))
        part.replace(self.path)

    def close(self) -> None:
        """Removes file and folder."""
        self._folder.cleanup()


class Readers:
    """Guard and planner, who read their files when they are configured."""

    def __init__(self, node: Node, graph: Supervisor, call: Call) -> None:
        """Makes the clients on ``node``.

        Args:
            node: who asks. graph: of the two, for what they say when something fails.
            call: waits for an answer.
        """
        self._graph, self._call = graph, call
        self._clients = {
            f'{name}/{service}': node.create_client(kind, f'{name}/{service}')
            for name in ('guard', 'planner')
            for service, kind in (('change_state', ChangeState), ('get_state', GetState))
        }

    def take_down(self) -> None:
        """Deactivates both and cleans them up; the planner first, so that proposals end.

        Raises:
            GraphError: one cannot be, or does not answer.
        """
        for name in ('planner', 'guard'):
            self._lead(name, DOWN, State.PRIMARY_STATE_UNCONFIGURED)

    def take_up(self) -> None:
        """Configures both and activates them; the guard first.

        Raises:
            GraphError: one cannot be, or does not answer.
        """
        for name in ('guard', 'planner'):
            self._lead(name, UP, State.PRIMARY_STATE_ACTIVE)

    def _lead(self, name: str, way: dict[int, int], target: int) -> None:
        deadline = monotonic() + LONGEST_S
        while (state := self._state(name)).id != target:
            if state.id in way and not self._change(name, way[state.id]):
                is_stuck = self._state(name).id == state.id  # else the answer alone was lost
            else:
                is_stuck = monotonic() > deadline
            if is_stuck:
                raise GraphError(
                    f'{name} is {state.label} and cannot be taken '
                    f'{"up" if way is UP else "down"}; its output:\n{self._graph.tail(name)}'
                )

    def _state(self, name: str) -> State:
        service = f'{name}/get_state'
        return self._call(self._clients[service], GetState.Request(), service).current_state

    def _change(self, name: str, transition: int) -> bool:
        service = f'{name}/change_state'
        request = ChangeState.Request(transition=Transition(id=transition))
        return self._call(self._clients[service], request, service).success
