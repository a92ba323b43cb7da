"""The environments of ``stable-worldmodel``: their data policies, states and rules of success.

States are vectors of what an environment restores and judges; the model never sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import rules
from .rules import Floats, Rule

IMAGE = 64
"""px, side of the images the model sees; 224 as published."""
STEPS = 100
"""Of an episode, at most."""


@dataclass(frozen=True)
class Environment:
    """One environment.

    Attributes:
        env_id: its name in gymnasium; options: how it is made.
        joints: names of what its agent's own position consists of; labels only.
        policies: makers of the policies that training episodes are collected with, in equal
            shares, from a seed; the last is the published one and gives the held-out episodes.
        columns: of an episode or of an ``info``, equally wide, that make up its state.
        prepare: what is done to an environment once it is made.
        place: puts an unwrapped environment into a state (S,).
        rules: what counts as success, by name.
        is_pair: whether start and goal state make a task.
        expert: state and goal state -> the action (A,) of a policy that sees both, or None.
        policy_text: the policies in words.
        episodes: to train on; minutes: processor time of the world model; heads_steps: optimiser
            steps of each head.
    """

    env_id: str
    options: dict[str, Any]
    joints: tuple[str, ...]
    policies: tuple[Callable[[int], Any], ...]
    columns: tuple[str, ...]
    prepare: Callable[[Any], None]
    place: Callable[[Any, Floats], None]
    rules: dict[str, Rule]
    is_pair: Callable[[Floats, Floats], bool]
    expert: Callable[[Any, Floats, Floats], NDArray[np.float32]] | None
    policy_text: str
    episodes: int
    minutes: float
    heads_steps: int

    def state(self, said: dict[str, Any]) -> Floats:
        """States (..., S) in an episode or an ``info``."""
        parts = [np.asarray(said[name], dtype=np.float64) for name in self.columns]
        return np.concatenate(parts, axis=-1)

    def info(self, state: Floats) -> dict[str, Any]:
        """What an ``info`` says of a state (S,)."""
        return dict(zip(self.columns, np.split(state, len(self.columns)), strict=True))


def make_world(environment: Environment) -> Any:
    """The package's world with one environment."""
    from stable_worldmodel.world import World

    world = World(
        environment.env_id,
        num_envs=1,
        image_shape=(IMAGE, IMAGE),
        max_episode_steps=STEPS,
        disable_env_checker=True,
        **environment.options,
    )
    environment.prepare(world.envs.envs[0])
    return world


def _two_room_policy(noise: float) -> Callable[[int], Any]:
    def make(seed: int) -> Any:
        from stable_worldmodel.envs.two_room import ExpertPolicy

        return ExpertPolicy(action_noise=noise, action_repeat_prob=0.1, seed=seed)

    return make


def _two_room_expert(env: Any, state: Floats, goal: Floats) -> NDArray[np.float32]:
    from stable_worldmodel.envs.two_room import ExpertPolicy

    policy = ExpertPolicy()
    policy.set_env(env)
    return policy.get_action({'state': state, 'goal_state': goal})


def _weak_policy(seed: int) -> Any:
    from stable_worldmodel.envs.pusht.expert_policy import WeakPolicy

    return WeakPolicy(seed=seed)


def _random_policy(seed: int) -> Any:
    from stable_worldmodel.policy import RandomPolicy

    return RandomPolicy(seed=seed)


def _as_it_is(env: Any) -> None:
    """Nothing."""


def _draw_plainly(env: Any) -> None:
    """Leaves out shadows and reflections, and draws fewer pixels: 88 ms an image without a GPU.

    The first reset makes the physics anew: it hides the target.
    """
    env.reset(seed=0)
    env.unwrapped.render = partial(env.unwrapped.render, width=2 * IMAGE, height=2 * IMAGE)
    model = env.unwrapped.dmc_env.physics.model
    model.light_castshadow[:] = 0
    model.mat_reflectance[:] = 0.0


def _place_named(env: Any, state: Floats) -> None:
    env._set_state(state)


def _place_joints(env: Any, state: Floats) -> None:
    env.set_state(state[:2], state[2:])


ENVIRONMENTS = {
    'tworoom': Environment(
        env_id='swm/TwoRoom-v1',
        options={},
        joints=('x', 'y'),
        policies=(_two_room_policy(1.0), _two_room_policy(3.0)),
        columns=('state',),
        prepare=_as_it_is,
        place=_place_named,
        rules=rules.TWO_ROOM,
        is_pair=rules.in_opposite_rooms,
        expert=_two_room_expert,
        policy_text='its expert, noise 1 and 3 in equal shares (published: 3)',
        episodes=1200,
        minutes=8.0,
        heads_steps=6000,
    ),
    'pusht': Environment(
        env_id='swm/PushT-v1',
        options={},
        joints=('x', 'y'),
        policies=(_weak_policy,),
        columns=('state',),
        prepare=_as_it_is,
        place=_place_named,
        rules=rules.PUSH_T,
        is_pair=rules.any_pair,
        expert=None,
        policy_text='its weak policy (published: expert episodes)',
        episodes=800,
        minutes=8.0,
        heads_steps=2000,
    ),
    'reacher': Environment(
        env_id='swm/ReacherDMControl-v0',
        options={'task': 'qpos_match'},
        joints=('shoulder', 'wrist'),
        policies=(_random_policy,),
        columns=('qpos', 'qvel'),
        prepare=_draw_plainly,
        place=_place_joints,
        rules=rules.REACHER,
        is_pair=rules.any_pair,
        expert=None,
        policy_text='random actions (published: the same or SAC)',
        episodes=250,
        minutes=4.0,
        heads_steps=1200,
    ),
}
