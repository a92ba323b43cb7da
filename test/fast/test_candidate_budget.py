"""The number of candidates per iteration adapts to what the machine can do by the deadline."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from jepa_arm.agent.agent import Agent
from jepa_arm.agent.decision import StepFeedback
from jepa_arm.config import ConfigError, ObstacleConfig, PlannerConfig, load
from jepa_arm.core.files import checkpoint_path, config_path
from jepa_arm.core.goals import PositionGoal
from jepa_arm.core.types import FloatArray, Observation
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.planning.candidate_budget import (
    GRAPH_SLOWDOWN,
    most_candidates_in_time,
    relative_time,
)
from jepa_arm.robot.arm import Arm

MakeAgent = Callable[..., Agent]
ENDLESS = float('inf')

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def config() -> PlannerConfig:
    """Shipped settings without compilation."""
    loaded = load(PlannerConfig, config_path('planner.yaml'))
    return replace(loaded, backend='torch', candidates=32, min_candidates=16, elites=8)


@pytest.fixture(scope='module')
def make_agent(config: PlannerConfig, arm: Arm) -> MakeAgent:
    checkpoint = load_checkpoint(checkpoint_path('compact'))

    def make(candidates_per_iteration: int | None = None, **changes: object) -> Agent:
        settings = replace(config, **changes)
        return Agent(
            checkpoint, arm, settings, 3, candidates_per_iteration=candidates_per_iteration
        )

    return make


def waypoints(agent: Agent, arm: Arm) -> list[FloatArray]:
    """Return the waypoints of three steps with all iterations."""
    rng, found, planners = np.random.default_rng(0), [], agent.planners
    agent.reset(arm.home)
    agent.set_goal(PositionGoal('object', np.array([0.5, 0.1, 0.025])))
    feedback = StepFeedback(max_candidates=2 * planners.candidates_per_iteration)
    for step in range(3):
        image = rng.integers(40, 200, (64, 80, 3), dtype=np.uint8)
        decision = agent.step(Observation(image, arm.home, 0.1 * step), feedback)
        assert decision.proposal is not None and decision.plan is not None
        assert decision.plan.candidates == 2 * planners.candidates_per_iteration
        assert decision.plan.iterations == 2
        found.append(decision.proposal.positions)
    return found


@pytest.mark.parametrize('min_candidates', [-1, 1, 14, 34])
def test_min_candidates_lies_between_twice_the_elites_and_the_candidates(
    min_candidates: int, config: PlannerConfig
) -> None:
    with pytest.raises(ConfigError, match='min_candidates'):
        replace(config, min_candidates=min_candidates)


def test_only_a_local_search_with_a_range_of_candidates_has_a_choice(
    config: PlannerConfig,
) -> None:
    assert config.candidate_range == range(16, 33)
    for changes in ({'min_candidates': 0}, {'min_candidates': 32}, {'optimizer': 'icem'}):
        assert list(replace(config, **changes).candidate_range) == [32]


@pytest.mark.parametrize('backend', ['openvino', 'torch'])
def test_the_largest_number_of_candidates_that_ends_in_time_is_chosen(
    backend: str, config: PlannerConfig
) -> None:
    config = replace(config, backend=backend)
    needed = {n: 10.0 * relative_time(config, n) * GRAPH_SLOWDOWN for n in (32, 24, 16)}
    assert needed[32] == 18.0 and needed[16] > 9.0  # part of the time is fixed
    for candidates, deadline in needed.items():
        assert most_candidates_in_time(config, 10.0, deadline + 0.01) == candidates
    assert most_candidates_in_time(config, 10.0, needed[32] - 0.01) == 24
    assert most_candidates_in_time(config, 10.0, needed[24] - 0.01) == 16
    assert most_candidates_in_time(config, 10.0, 0.1) == 16
    fewer = replace(config, min_candidates=20)
    assert most_candidates_in_time(fewer, 10.0, needed[24] - 0.01) == 20
    assert most_candidates_in_time(fewer, 10.0, 0.1) == 20
    assert most_candidates_in_time(config, 1e9, ENDLESS) == 32


def test_only_a_machine_too_slow_for_the_deadline_gets_fewer_candidates(
    make_agent: MakeAgent,
) -> None:
    slow = make_agent(deadline_ms=0.01).planners.measure_candidate_budget()
    fast = make_agent(deadline_ms=1e6).planners.measure_candidate_budget()
    assert slow is not None and fast is not None
    assert (slow.candidates, fast.candidates) == (16, 32)
    assert slow.search_ms > 0.01 and fast.search_ms > 0.01


def test_a_measurement_with_few_candidates_tells_that_there_is_time_for_more(
    make_agent: MakeAgent,
) -> None:
    planners = make_agent(16, deadline_ms=1e6).planners
    assert planners.candidates_per_iteration == 16
    budget = planners.measure_candidate_budget()
    assert budget is not None and (budget.candidates, budget.configured) == (32, 32)
    planners.candidates_per_iteration = budget.candidates
    assert planners.candidates_per_iteration == 32
    assert make_agent(16, optimizer='icem').planners.candidates_per_iteration == 32


@pytest.mark.parametrize(
    'changes',
    [{'deadline_ms': ENDLESS}, {'min_candidates': 0}, {'optimizer': 'icem'}],
)
def test_without_a_choice_nothing_is_measured(
    changes: dict[str, object], make_agent: MakeAgent
) -> None:
    planners = make_agent(**{'deadline_ms': 0.01, **changes}).planners
    assert planners.measure_candidate_budget() is None
    assert planners.candidates_per_iteration == 32


def test_a_measurement_does_not_change_later_plans(make_agent: MakeAgent, arm: Arm) -> None:
    measured, fresh = make_agent(deadline_ms=0.01), make_agent(deadline_ms=0.01)
    waypoints(measured, arm)
    measured.planners.measure_candidate_budget()
    np.testing.assert_array_equal(waypoints(measured, arm), waypoints(fresh, arm))


def test_an_agent_with_another_number_of_candidates_plans_as_one_made_with_it(
    make_agent: MakeAgent, arm: Arm
) -> None:
    agent, other = make_agent(), make_agent(candidates=16)
    planners = agent.planners
    planners.deadline_ms = 1234.0
    box = ObstacleConfig('box', shape='box', size=(0.05, 0.05, 0.1), xyz=(0.5, 0.05, 0.05))
    for one in (agent, other):
        one.set_obstacles([box])
    planners.candidates_per_iteration = 16
    assert planners.candidates_per_iteration == 16 and planners.deadline_ms == 1234.0
    np.testing.assert_array_equal(waypoints(agent, arm), waypoints(other, arm))
    planners.candidates_per_iteration = 32
    assert planners.candidates_per_iteration == 32
    for refused in (15, 33):
        with pytest.raises(ValueError, match='candidates_per_iteration'):
            planners.candidates_per_iteration = refused


def test_functions_compiled_for_other_candidates_are_freed_at_once(make_agent: MakeAgent) -> None:
    """An active node freezes its objects, so that a later garbage collection frees nothing."""
    from jepa_arm.planning.backends.openvino_function import OpenVINOFunction

    gc.collect()
    agent = make_agent(backend='openvino')
    compiled = [weakref.ref(o) for o in gc.get_objects() if type(o) is OpenVINOFunction]
    assert len(compiled) == 5
    gc.disable()
    try:
        agent.planners.candidates_per_iteration = 16
        assert not any(function() for function in compiled)
    finally:
        gc.enable()
