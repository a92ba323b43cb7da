"""Data collection with the environments' data policies: a training file and held-out pairs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_arm.config import CameraConfig, Contract, TimeConfig
from jepa_arm.datasets.episodes import EpisodeFile, EpisodeWriter

from .environments import IMAGE, Environment, make_world
from .rules import Floats

FRAME_SKIP = 5
"""Control steps per model step, as published."""
GOAL_OFFSET = 25
"""Control steps from start to goal, as published."""
HELD_OUT_SEED = 1_000_000
"""First seed of held-out episodes; the seeds of training data are far below."""
MAX_HELD_OUT_EPISODES = 10_000
"""Largest number of episodes run to find the held-out pairs of one seed."""


@dataclass(frozen=True)
class StartGoalPair:
    """Start and goal from one recorded episode.

    Attributes:
        start, goal: states (S,).
        start_image, goal_image: (h, w, 3) uint8 RGB, as recorded.
        actions: (GOAL_OFFSET, A) that led from start to goal.
    """

    start: Floats
    goal: Floats
    start_image: NDArray[np.uint8]
    goal_image: NDArray[np.uint8]
    actions: NDArray[np.float32]


class EpisodeSink(contextlib.AbstractContextManager):
    """Writer for ``World.collect`` that passes episodes on until ``accept`` returns False."""

    def __init__(self, accept: Callable[[dict[str, NDArray[Any]]], bool]) -> None:
        self._accept = accept

    def __exit__(self, *_: object) -> None:
        return None

    def write_episodes(self, episodes: Iterable[dict[str, list[Any]]]) -> None:
        """Pass on ``episodes``; called by ``World.collect``."""
        for episode in episodes:
            if not self._accept({name: np.stack(rows) for name, rows in episode.items()}):
                return


def contract_of(environment: Environment) -> Contract:
    """Return the contract of training files and models of ``environment``."""
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


def collect(environment: Environment, path: Path) -> EpisodeFile:
    """Return the training file ``path``; collect it with each policy in turn if it is missing."""
    if path.exists():
        return EpisodeFile(path)
    accepted: list[dict[str, NDArray[Any]]] = []

    def accept(columns: dict[str, NDArray[Any]]) -> bool:
        if len(columns['pixels']) > 2 * FRAME_SKIP:
            accepted.append(_training_columns(environment, columns))
        return True

    count = len(environment.policies)
    share = environment.episodes // count
    for index in range(count):
        policy = environment.policy(index, seed=index)
        _run(environment, policy, share, index * share, EpisodeSink(accept))
    lengths = [len(columns['pixels']) for columns in accepted]
    contract = contract_of(environment)
    config = {'policy': environment.policy_text}
    with EpisodeWriter(path, lengths, contract, seed=0, config=config) as writer:
        for columns in accepted:
            writer.append(columns)
    return EpisodeFile(path)


def held_out_pairs(environment: Environment, count: int, seed: int) -> list[StartGoalPair]:
    """Return ``count`` pairs, one per episode of the last policy; no start is solved by any rule.

    The goal is the frame ``GOAL_OFFSET`` control steps after the start. The start is drawn
    uniformly from the frames of an episode that form a valid, unsolved task with their goal.
    """
    rng = np.random.default_rng([seed, 1])
    pairs: list[StartGoalPair] = []

    def accept(columns: dict[str, NDArray[Any]]) -> bool:
        states = environment.state(columns)
        starts = [
            t
            for t in range(len(states) - GOAL_OFFSET)
            if environment.is_pair(states[t], states[t + GOAL_OFFSET])
            and not is_solved(environment, states[t], states[t + GOAL_OFFSET])
        ]
        if starts:
            t = int(rng.choice(starts))
            images, actions = columns['pixels'], columns['action']
            goal = t + GOAL_OFFSET
            pairs.append(
                StartGoalPair(states[t], states[goal], images[t], images[goal], actions[t:goal])
            )
        return len(pairs) < count

    policy = environment.policy(-1, HELD_OUT_SEED + seed)
    first = HELD_OUT_SEED + MAX_HELD_OUT_EPISODES * seed
    _run(environment, policy, MAX_HELD_OUT_EPISODES, first, EpisodeSink(accept))
    return pairs


def is_solved(environment: Environment, state: Floats, goal: Floats) -> bool:
    """Return True if a state fulfils a goal state by any rule, for however few steps."""
    return any(rule.is_solved(state, goal) for rule in environment.rules.values())


def _run(
    environment: Environment, policy: Any, episodes: int, seed: int, sink: EpisodeSink
) -> None:
    world = make_world(environment)
    world.set_policy(policy)
    world.collect(writer=sink, episodes=episodes, seed=seed, progress=False)
    world.close()


def _training_columns(
    environment: Environment, columns: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return an episode in our layout; only its images and actions are used."""
    frames = len(columns['pixels'])
    unused = np.zeros((frames, 3), np.float32)
    return {
        'pixels': columns['pixels'],
        'proprio': environment.state(columns)[:, : len(environment.joints)],
        'action': columns['action'][:-1],
        'tip_position': unused,
        'tip_target': unused,
        'object_position': unused,
        'object_yaw': unused[:, 0],
        'contact': unused[:, 0] > 0.0,
    }
