"""Episodes of the package's own policies: a file to train on, and held-out starts and goals."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_arm.config import CameraConfig, Contract, TimeConfig
from jepa_arm.data.episodes import EpisodeFile, EpisodeWriter

from .environments import IMAGE, Environment, make_world
from .rules import Floats

FRAME_SKIP = 5
"""Control steps in a model step, as published."""
OFFSET = 25
"""Control steps from start to goal, as published."""
HELD_OUT = 1_000_000
"""Seeds of held-out episodes begin here; those of training data are far below."""
MOST_EPISODES = 10_000
"""Of one held-out seed."""


@dataclass(frozen=True)
class Pair:
    """A start and a goal from one recorded episode.

    Attributes:
        start, goal: states (S,).
        start_image, goal_image: (h, w, 3) uint8 RGB, as recorded.
        actions: (OFFSET, A) that led from one to the other.
    """

    start: Floats
    goal: Floats
    start_image: NDArray[np.uint8]
    goal_image: NDArray[np.uint8]
    actions: NDArray[np.float32]


class Listener(contextlib.AbstractContextManager):
    """Hands each episode that a world collects to ``take``, until that returns False."""

    def __init__(self, take: Callable[[dict[str, NDArray[Any]]], bool]) -> None:
        self._take = take

    def __exit__(self, *_: object) -> None:
        return None

    def write_episodes(self, episodes: Iterable[dict[str, list[Any]]]) -> None:
        """What the package calls."""
        for episode in episodes:
            if not self._take({name: np.stack(rows) for name, rows in episode.items()}):
                return


def contract_of(environment: Environment) -> Contract:
    """What our training files and models say of where they come from."""
    camera = CameraConfig(IMAGE, IMAGE, 45.0, (0.0, 0.0, 1.0), (0.0, 0.0, 0.0), 'image')
    return Contract(
        arm=environment.env_id,
        joints=environment.joints,
        camera=camera,
        action_space='released',
        action_width=2,
        action_scale=1.0,
        time=TimeConfig(0.1, 0.1, 0.1, FRAME_SKIP),
    )


def collect(environment: Environment, path: Path, episodes: int) -> EpisodeFile:
    """The training file, made if it is not there; the policies' episodes follow each other."""
    if path.exists():
        return EpisodeFile(path)
    taken: list[dict[str, NDArray[Any]]] = []

    def take(columns: dict[str, NDArray[Any]]) -> bool:
        if len(columns['pixels']) > 2 * FRAME_SKIP:
            taken.append(_training_columns(environment, columns))
        return True

    share = episodes // len(environment.policies)
    for index, make_policy in enumerate(environment.policies):
        _run(environment, make_policy(index), share, index * share, Listener(take))
    lengths = [len(columns['pixels']) for columns in taken]
    contract = contract_of(environment)
    config = {'policy': environment.policy_text}
    with EpisodeWriter(path, lengths, contract, seed=0, config=config) as writer:
        for columns in taken:
            writer.append(columns)
    return EpisodeFile(path)


def held_out_pairs(environment: Environment, count: int, seed: int) -> list[Pair]:
    """``count`` pairs, one an episode of the last policy; none is solved by any rule at its start.

    The start is drawn evenly from the frames of an episode that make a task; the goal is what was
    there ``OFFSET`` control steps later.
    """
    rng = np.random.default_rng([seed, 1])
    pairs: list[Pair] = []

    def take(columns: dict[str, NDArray[Any]]) -> bool:
        states = environment.state(columns)
        starts = [
            t
            for t in range(len(states) - OFFSET)
            if environment.is_pair(states[t], states[t + OFFSET])
            and not is_solved(environment, states[t], states[t + OFFSET])
        ]
        if starts:
            t = int(rng.choice(starts))
            images, actions = columns['pixels'], columns['action']
            goal = t + OFFSET
            pairs.append(Pair(states[t], states[goal], images[t], images[goal], actions[t:goal]))
        return len(pairs) < count

    policy = environment.policies[-1](HELD_OUT + seed)
    _run(environment, policy, MOST_EPISODES, HELD_OUT + MOST_EPISODES * seed, Listener(take))
    return pairs


def is_solved(environment: Environment, state: Floats, goal: Floats) -> bool:
    """Whether a state fulfils a goal state by one of the rules, held or not."""
    return any(rule.is_solved(state, goal) for rule in environment.rules.values())


def _run(
    environment: Environment, policy: Any, episodes: int, seed: int, listener: Listener
) -> None:
    world = make_world(environment)
    world.set_policy(policy)
    world.collect(writer=listener, episodes=episodes, seed=seed, progress=False)
    world.close()


def _training_columns(
    environment: Environment, columns: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """One episode in our layout; what it says beside images and actions is not learned from."""
    frames = len(columns['pixels'])
    nowhere = np.zeros((frames, 3), np.float32)
    return {
        'pixels': columns['pixels'],
        'proprio': environment.state(columns)[:, : len(environment.joints)],
        'action': columns['action'][:-1],
        'tip_position': nowhere,
        'tip_target': nowhere,
        'object_position': nowhere,
        'object_yaw': nowhere[:, 0],
        'contact': nowhere[:, 0] > 0.0,
    }
