"""Plays held-out pairs: our planner, its actor alone, random actions, and what was recorded."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jepa_arm.config import Contract, PlannerConfig, load
from jepa_arm.goals import LatentGoal
from jepa_arm.planning.planner import Planner
from jepa_arm.resources import config_path

from .collect import FRAME_SKIP, Pair
from .environments import Environment, make_world
from .rules import Floats, first_success
from .train import Brain

BUDGET = 50
"""Control steps for a goal that was 25 away, as published."""

Image = NDArray[np.uint8]
Policy = Callable[[int, Any, dict[str, Any], Image], NDArray[np.float32]]
"""(step, environment, info, image) -> action (A,)."""


CANDIDATES = 64
"""Priced in each sweep."""


@dataclass(frozen=True)
class Score:
    """How one policy did.

    Attributes:
        steps: by rule, (n,) control steps that each pair took, 0 where it was not solved.
        plan_ms: processor time of each decision.
    """

    steps: dict[str, NDArray[np.int64]]
    plan_ms: NDArray[np.float64]


def planner_config(**changes: Any) -> PlannerConfig:
    """That of the arm without a deadline, so that the machine's load changes no figure."""
    config = load(PlannerConfig, config_path('planner.yaml'))
    return replace(config, **{'deadline_ms': float('inf'), 'candidates': CANDIDATES, **changes})


class Seeker:
    """Observes, encodes, plans and acts towards the latent of a goal image."""

    def __init__(self, brain: Brain, contract: Contract, config: PlannerConfig) -> None:
        self._model, self._contract = brain.model, contract

        def read(subject: str, latents: torch.Tensor) -> torch.Tensor:
            raise AssertionError('goals are latents: no place is read')

        self._planner = Planner(brain.model, read, brain.heads, contract, config)
        self._unfelt = np.zeros((1, contract.proprio_width), np.float32)

    @torch.inference_mode()
    def start(self, goal_image: Image) -> None:
        """Takes up a new goal."""
        self._goal = LatentGoal(self._encode(goal_image)[0].numpy())
        self._past: deque[torch.Tensor] = deque(maxlen=FRAME_SKIP + 1)
        self._planner.reset()

    @torch.inference_mode()
    def act(self, image: Image) -> NDArray[np.float32]:
        """(A,) in [-1, 1], the next action; planned anew at each control step."""
        self._past.append(self._encode(image))
        plan = self._planner.plan(self._past[-1], self._past[0], self._goal)
        return plan.actions[0].numpy()

    def _encode(self, image: Image) -> torch.Tensor:
        return self._model.encode(image[None], self._unfelt)


def seek(brain: Brain, contract: Contract, config: PlannerConfig) -> Callable[[Pair], Policy]:
    """Our planner as a policy for each pair."""
    seeker = Seeker(brain, contract, config)

    def begin(pair: Pair) -> Policy:
        seeker.start(pair.goal_image)
        return lambda step, env, info, image: seeker.act(image)

    return begin


def at_random(seed: int) -> Callable[[Pair], Policy]:
    """Even random actions: the floor."""
    rng = np.random.default_rng([seed, 2])
    return lambda pair: lambda *_: rng.uniform(-1.0, 1.0, 2).astype(np.float32)


def as_recorded(pair: Pair) -> Policy:
    """The actions that led to the goal once; then none: a ceiling."""
    rest = np.zeros(2, np.float32)
    return lambda step, *_: pair.actions[step] if step < len(pair.actions) else rest


def as_expert(environment: Environment) -> Callable[[Pair], Policy]:
    """The package's policy that sees state and goal: a ceiling."""
    expert = environment.expert
    assert expert is not None

    def begin(pair: Pair) -> Policy:
        return lambda step, env, info, image: expert(env, environment.state(info), pair.goal)

    return begin


def evaluate(
    environment: Environment, pairs: list[Pair], begin: Callable[[Pair], Policy]
) -> Score:
    """Plays each of the ``pairs`` for ``BUDGET`` control steps or until all rules are fulfilled.

    Policies know no rules, so that one play is judged by each.
    """
    world = make_world(environment)
    env = world.envs.envs[0]
    steps: dict[str, list[int]] = {name: [] for name in environment.rules}
    plan_ms = []
    for index, pair in enumerate(pairs):
        _, info = env.reset(seed=index)
        environment.place(env.unwrapped, pair.start)
        info = {**info, **environment.info(pair.start)}
        image, states = pair.start_image, []
        policy = begin(pair)
        for step in range(BUDGET):
            began = time.process_time()
            action = policy(step, env, info, image)
            plan_ms.append(1000.0 * (time.process_time() - began))
            info = env.step(action)[-1]
            image = info['pixels']
            states.append(environment.state(info))
            if all(_took(environment, name, states, pair) for name in steps):
                break
        for name, taken in steps.items():
            taken.append(_took(environment, name, states, pair))
    world.close()
    return Score({name: np.array(taken) for name, taken in steps.items()}, np.array(plan_ms))


def _took(environment: Environment, rule: str, states: list[Floats], pair: Pair) -> int:
    """Control steps until the pair was solved; 0 if it was not."""
    index = first_success(states, pair.goal, environment.rules[rule])
    return 0 if index is None else index + 1
