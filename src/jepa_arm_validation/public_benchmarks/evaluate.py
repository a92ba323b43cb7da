"""Evaluation on held-out pairs: our planner, its actor alone, random and recorded actions."""

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
from jepa_arm.core.files import config_path
from jepa_arm.core.goals import LatentGoal
from jepa_arm.planning.model import PlanningModel
from jepa_arm.planning.planner import Planner
from jepa_arm.planning.rollout import StartState

from .collect import FRAME_SKIP, StartGoalPair
from .environments import Environment, make_world
from .train import TrainedModel

BUDGET = 50
"""Control steps allowed to reach a goal recorded 25 steps after the start, as published."""
CANDIDATES = 64
"""Candidates per iteration."""

Image = NDArray[np.uint8]
Policy = Callable[[StartGoalPair, int, Any, dict[str, Any], Image], NDArray[np.float32]]
"""(pair, step, environment, info, image) -> action (A,); each pair begins at step 0."""


@dataclass(frozen=True)
class Score:
    """Result of one policy on all pairs.

    Attributes:
        steps: by rule, (n,) control steps until each pair was solved; 0 if it was not solved.
        decision_ms: processor time of each decision, ms.
    """

    steps: dict[str, NDArray[np.int64]]
    decision_ms: NDArray[np.float64]


class LatentGoalAgent:
    """Agent that plans towards the latent of a goal image, replanning at every control step.

    It plans as the arm's agent does, but without a deadline, so that machine load has no effect.
    """

    def __init__(self, trained: TrainedModel, contract: Contract, **changes: Any) -> None:
        config = load(PlannerConfig, config_path('planner.yaml'))
        config = replace(config, deadline_ms=float('inf'), candidates=CANDIDATES, **changes)
        self._model = trained.model
        model = PlanningModel(
            trained.model, contract, _refuse_position, actor_critic=trained.actor_critic
        )
        self._planner = Planner(model, config)
        self._proprioception = np.zeros((1, contract.proprio_width), np.float32)  # not used
        self._goal: LatentGoal | None = None
        self._latents: deque[torch.Tensor] = deque(maxlen=FRAME_SKIP + 1)

    @torch.inference_mode()
    def act(
        self, pair: StartGoalPair, step: int, env: Any, info: dict[str, Any], image: Image
    ) -> NDArray[np.float32]:
        """Return the next action (A,) in [-1, 1]; step 0 starts over with the pair's goal."""
        if step == 0:
            self._goal = LatentGoal(self._encode(pair.goal_image)[0].numpy())
            self._latents.clear()
            self._planner.reset()
        assert self._goal is not None
        self._latents.append(self._encode(image))
        plan = self._planner.plan(StartState(self._latents[-1], self._latents[0]), self._goal)
        return plan.actions[0].numpy()

    def _encode(self, image: Image) -> torch.Tensor:
        return self._model.encode(image[None], self._proprioception)


def _refuse_position(subject: str, latents: torch.Tensor) -> torch.Tensor:
    raise AssertionError('goals are latents: no position is read')


def uniform(seed: int) -> Policy:
    """Return the policy of uniformly random actions, the baseline."""
    rng = np.random.default_rng([seed, 2])
    return lambda *_: rng.uniform(-1.0, 1.0, 2).astype(np.float32)


def recorded(pair: StartGoalPair, step: int, *_: Any) -> NDArray[np.float32]:
    """Return the recorded action, which led to the goal, or zeros after the last one."""
    return pair.actions[step] if step < len(pair.actions) else np.zeros(2, np.float32)


def evaluate(environment: Environment, pairs: list[StartGoalPair], policy: Policy) -> Score:
    """Run a policy on each pair for ``BUDGET`` control steps or until all rules are fulfilled.

    Policies do not know the rules, so one run is judged by all of them.
    """
    world = make_world(environment)
    env = world.envs.envs[0]
    steps: dict[str, list[int]] = {name: [] for name in environment.rules}
    decision_ms = []
    for index, pair in enumerate(pairs):
        _, info = env.reset(seed=index)
        environment.set_state(env.unwrapped, pair.start)
        info = {**info, **environment.info(pair.start)}
        image, states, taken = pair.start_image, [], dict[str, int]()
        for step in range(BUDGET):
            began = time.process_time()
            action = policy(pair, step, env, info, image)
            decision_ms.append(1000.0 * (time.process_time() - began))
            info = env.step(action)[-1]
            image = info['pixels']
            states.append(environment.state(info))
            taken = {
                name: rule.steps_to_success(states, pair.goal) or 0
                for name, rule in environment.rules.items()
            }
            if all(taken.values()):
                break
        for name, count in taken.items():
            steps[name].append(count)
    world.close()
    return Score({name: np.array(n) for name, n in steps.items()}, np.array(decision_ms))
