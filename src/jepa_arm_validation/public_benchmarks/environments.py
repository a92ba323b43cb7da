"""Public environments of ``stable-worldmodel``: data policies, states and success rules.

A state is the vector by which an environment is restored and success is judged; the model never
sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pkgutil import resolve_name
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import rules
from .rules import Floats, SuccessRule

IMAGE = 64
"""Side of the images that the model sees, px; the publication uses 224."""
MAX_EPISODE_STEPS = 100
TWO_ROOM_EXPERT = 'stable_worldmodel.envs.two_room:ExpertPolicy'


@dataclass(frozen=True)
class Environment:
    """Environment with everything needed to collect, train and evaluate.

    Attributes:
        env_id: name in gymnasium. options: keyword arguments of the constructor.
        joints: labels of the coordinates of the agent's own position.
        policies: class and keyword arguments (besides the seed) of each data policy. Each policy
            collects an equal share of the training episodes. The last one, the published one
            where it is used, also collects the held-out episodes.
        columns: equally wide columns of an episode, or of an ``info`` dict, that form the state.
        prepare: called once with a new environment.
        set_state: puts an unwrapped environment into a state (S,).
        rules: success rules by name.
        is_pair: accepts a start state and a goal state as a task.
        expert: returns the action (A,) of a policy that sees state and goal state, or None.
        policy_text: description of the data policies.
        episodes: number of training episodes.
        minutes: processor time of the world model's training.
        actor_critic_steps: optimiser steps for each of actor and value.
    """

    env_id: str
    joints: tuple[str, ...]
    policies: tuple[tuple[str, dict[str, Any]], ...]
    policy_text: str
    columns: tuple[str, ...]
    rules: dict[str, SuccessRule]
    episodes: int
    minutes: float
    actor_critic_steps: int
    options: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Any], object] = lambda env: None
    set_state: Callable[[Any, Floats], None] = lambda env, state: env._set_state(state)
    is_pair: Callable[[Floats, Floats], bool] = lambda start, goal: True
    expert: Callable[[Any, Floats, Floats], NDArray[np.float32]] | None = None

    def policy(self, index: int, seed: int) -> Any:
        """Return the data policy with the given ``index``, seeded with ``seed``."""
        name, arguments = self.policies[index]
        return resolve_name(name)(seed=seed, **arguments)

    def state(self, columns: dict[str, Any]) -> Floats:
        """Return the states (..., S) from the columns of an episode or of an ``info`` dict."""
        parts = [np.asarray(columns[name], dtype=np.float64) for name in self.columns]
        return np.concatenate(parts, axis=-1)

    def info(self, state: Floats) -> dict[str, Any]:
        """Return the entries of the environment's ``info`` dict that represent a state (S,)."""
        return dict(zip(self.columns, np.split(state, len(self.columns)), strict=True))


def make_world(environment: Environment) -> Any:
    """Return a world of ``stable_worldmodel`` with one environment."""
    from stable_worldmodel.world import World

    world = World(
        environment.env_id,
        num_envs=1,
        image_shape=(IMAGE, IMAGE),
        max_episode_steps=MAX_EPISODE_STEPS,
        disable_env_checker=True,
        **environment.options,
    )
    environment.prepare(world.envs.envs[0])
    return world


def _two_room_expert(env: Any, state: Floats, goal: Floats) -> NDArray[np.float32]:
    policy = resolve_name(TWO_ROOM_EXPERT)()
    policy.set_env(env)
    return policy.get_action({'state': state, 'goal_state': goal})


def _simplify_rendering(env: Any) -> None:
    """Render fewer pixels, no shadows and no reflections: a full image takes 88 ms without a GPU.

    The first reset rebuilds the physics to hide the target, so it comes before the changes.
    """
    env.reset(seed=0)
    env.unwrapped.render = partial(env.unwrapped.render, width=2 * IMAGE, height=2 * IMAGE)
    model = env.unwrapped.dmc_env.physics.model
    model.light_castshadow[:] = 0
    model.mat_reflectance[:] = 0.0


def _set_joint_state(env: Any, state: Floats) -> None:
    env.set_state(state[:2], state[2:])


ENVIRONMENTS = {
    'tworoom': Environment(
        env_id='swm/TwoRoom-v1',
        joints=('x', 'y'),
        policies=tuple(
            (TWO_ROOM_EXPERT, {'action_noise': noise, 'action_repeat_prob': 0.1})
            for noise in (1.0, 3.0)
        ),
        policy_text='its expert, noise 1 and 3 in equal shares (published: 3)',
        columns=('state',),
        rules=rules.TWO_ROOM,
        episodes=1200,
        minutes=8.0,
        actor_critic_steps=6000,
        is_pair=rules.in_opposite_rooms,
        expert=_two_room_expert,
    ),
    'pusht': Environment(
        env_id='swm/PushT-v1',
        joints=('x', 'y'),
        policies=(('stable_worldmodel.envs.pusht.expert_policy:WeakPolicy', {}),),
        policy_text='its weak policy (published: expert episodes)',
        columns=('state',),
        rules=rules.PUSH_T,
        episodes=800,
        minutes=8.0,
        actor_critic_steps=2000,
    ),
    'reacher': Environment(
        env_id='swm/ReacherDMControl-v0',
        joints=('shoulder', 'wrist'),
        policies=(('stable_worldmodel.policy:RandomPolicy', {}),),
        policy_text='random actions (published: the same or SAC)',
        columns=('qpos', 'qvel'),
        rules=rules.REACHER,
        episodes=250,
        minutes=4.0,
        actor_critic_steps=1200,
        options={'task': 'qpos_match'},
        prepare=_simplify_rendering,
        set_state=_set_joint_state,
    ),
}
