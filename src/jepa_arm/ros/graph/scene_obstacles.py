"""Scene obstacles: declares the obstacles of each scene to simulator, guard and planner.

All three read the file that their parameter ``guard_config`` names: guard and planner when they
are configured, the simulator at each reset. Guard and planner are deactivated and cleaned up
before the file is written, and activated again after the scene was reset, so that the guard is
never active among obstacles that it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import yaml
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState

from jepa_arm.config import GuardConfig, ObstacleConfig, load, to_dict
from jepa_arm.core.files import config_path
from jepa_arm.ros.client import GraphClient
from jepa_arm.ros.runtime.node_contract import GraphError

TAKE_DOWN = {
    State.PRIMARY_STATE_ACTIVE: Transition.TRANSITION_DEACTIVATE,
    State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_CLEANUP,
}
"""Transition from each state towards unconfigured."""
BRING_UP = {
    State.PRIMARY_STATE_UNCONFIGURED: Transition.TRANSITION_CONFIGURE,
    State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_ACTIVATE,
}
"""Transition from each state towards active."""
TRANSITIONS_S = 60.0
"""Longest time for the transitions of a node; one takes seconds on a busy machine."""


class SceneObstacles:
    """File with a graph's guard configuration, which declares the current scene's obstacles.

    Attributes:
        path: path of the file, in a temporary folder that ``close`` removes.
    """

    def __init__(self, obstacles: tuple[ObstacleConfig, ...]) -> None:
        """Declare ``obstacles`` (base frame) in a new file."""
        self._folder = TemporaryDirectory(prefix='jepa_arm_scene_')
        self.path = Path(self._folder.name) / 'guard.yaml'
        self.declare(obstacles)

    def close(self) -> None:
        """Remove file and folder."""
        self._folder.cleanup()

    def declare(self, obstacles: tuple[ObstacleConfig, ...]) -> None:
        """Write a guard configuration with ``obstacles``, replacing the old file atomically."""
        config = replace(load(GuardConfig, config_path('guard.yaml')), obstacles=obstacles)
        part = self.path.with_suffix('.part')
        part.write_text(yaml.safe_dump(to_dict(config), sort_keys=False))
        part.replace(self.path)

    @contextmanager
    def redeclare(
        self, obstacles: tuple[ObstacleConfig, ...], client: GraphClient
    ) -> Iterator[None]:
        """Declare the obstacles of another scene; reset the scene within this context.

        Raises:
            GraphError: guard or planner does not change its state.
        """
        for name in ('planner', 'guard'):  # the planner first, so that proposals end
            drive_lifecycle(client, name, TAKE_DOWN, State.PRIMARY_STATE_UNCONFIGURED)
        self.declare(obstacles)
        yield
        for name in ('guard', 'planner'):
            drive_lifecycle(client, name, BRING_UP, State.PRIMARY_STATE_ACTIVE)


def drive_lifecycle(
    client: GraphClient, name: str, transitions: dict[int, int], target: int
) -> None:
    """Bring a managed node to the lifecycle state ``target``.

    Args:
        client: client of the graph.
        name: name of the node.
        transitions: id of the transition to request in each state, by state id.
        target: id of a primary state.

    Raises:
        GraphError: the node refuses a transition, or does not answer.
    """
    deadline = monotonic() + TRANSITIONS_S
    while (state := _state(client, name)).id != target:
        is_stuck = monotonic() > deadline
        if state.id in transitions:
            request = ChangeState.Request(transition=Transition(id=transitions[state.id]))
            if not client.call(ChangeState, f'{name}/change_state', request).success:
                is_stuck = _state(client, name).id == state.id  # otherwise it did change state
        if is_stuck:
            raise GraphError(
                f'{name} is {state.label} and refuses the transition; see the log of {name}'
            )


def _state(client: GraphClient, name: str) -> State:
    return client.call(GetState, f'{name}/get_state').current_state
