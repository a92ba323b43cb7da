"""How many candidates are priced adapts to what the machine does by the deadline."""

import weakref
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from jepa_arm.agent import Agent
from jepa_arm.arm import Arm
from jepa_arm.config import ConfigError, ObstacleConfig, PlannerConfig, load
from jepa_arm.goals import PositionGoal
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.planning.fitting import FIXED, IN_GRAPH, most_in_time
from jepa_arm.resources import checkpoint_path, config_path
from jepa_arm.types import FloatArray, Observation

Make = Callable[..., Agent]
ENDLESS = float('inf')


pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def config() -> PlannerConfig:
    """Nothing to be compiled."""
    loaded = load(PlannerConfig, config_path('planner.yaml'))
    return replace(loaded, runtime='torch', candidates=32, fewest_candidates=16, elites=8)


@pytest.fixture(scope='module')
def make(config: PlannerConfig, arm: Arm) -> Make:
    checkpoint = load_checkpoint(checkpoint_path('compact'))
    return lambda **changes: Agent(checkpoint, arm, replace(config, **changes), seed=3)


def plans(agent: Agent, arm: Arm) -> list[FloatArray]:
    """Waypoints of a few steps, whatever time they take."""
    rng, found = np.random.default_rng(0), []
    agent.reset(arm.home)
    agent.set_goal(PositionGoal('object', np.array([0.5, 0.1, 0.025])))
    agent.effort = agent.planners.sweep_size * 2
    for step in range(3):
        image = rng.integers(40, 200, (64, 80, 3), dtype=np.uint8)
        decision = agent.decide(Observation(image, arm.home, 0.1 * step))
        assert decision.proposal is not None and decision.plan is not None
        assert decision.plan.candidates == agent.planners.sweep_size * decision.plan.sweeps
        assert decision.plan.sweeps == 2
        found.append(decision.proposal.positions)
    agent.effort = None
    return found


@pytest.mark.parametrize('fewest', [-1, 1, 14, 34])
def test_fewest_candidates_leave_room_for_the_elites_and_are_not_the_most(
    fewest: int, config: PlannerConfig
) -> None:
    with pytest.raises(ConfigError, match=r'fewest_candidates: expected 0, or 16 .* to 32'):
        replace(config, fewest_candidates=fewest)


def test_only_a_local_search_with_a_range_of_candidates_has_a_choice(
    config: PlannerConfig,
) -> None:
    assert config.sweep_sizes == range(16, 33)
    for changes in ({'fewest_candidates': 0}, {'fewest_candidates': 32}, {'optimizer': 'icem'}):
        assert list(replace(config, **changes).sweep_sizes) == [32]


@pytest.mark.parametrize('runtime', ['openvino', 'torch'])
def test_the_most_of_a_ladder_that_end_in_time_are_taken(
    runtime: str, config: PlannerConfig
) -> None:
    config = replace(config, runtime=runtime)
    fixed = FIXED[runtime]
    needed = {n: 10.0 * (fixed + (1.0 - fixed) * n / 32) * IN_GRAPH for n in (32, 24, 16)}
    for candidates, deadline in needed.items():
        assert most_in_time(config, 10.0, deadline + 0.01) == candidates
    assert most_in_time(config, 10.0, needed[32] - 0.01) == 24
    assert most_in_time(config, 10.0, needed[24] - 0.01) == 16
    assert most_in_time(config, 10.0, 0.1) == 16
    fewer = replace(config, fewest_candidates=20)
    assert most_in_time(fewer, 10.0, needed[24] - 0.01) == most_in_time(fewer, 10.0, 0.1) == 20
    assert most_in_time(config, 1e9, ENDLESS) == 32


def test_a_machine_too_slow_for_the_deadline_gets_fewer_and_any_other_does_not(
    make: Make,
) -> None:
    slow, fast = make(deadline_ms=0.01).planners.fitted(), make(deadline_ms=1e6).planners.fitted()
    assert slow is not None and fast is not None
    assert (slow.candidates, fast.candidates) == (16, 32)
    assert slow.whole_ms > 0.01 and fast.whole_ms > 0.01
    assert '16 candidates a sweep, not 32' in str(slow) and '32 candidates' in str(fast)


def test_the_fewest_candidates_tell_how_many_there_is_time_for(
    config: PlannerConfig, arm: Arm
) -> None:
    checkpoint = load_checkpoint(checkpoint_path('compact'))
    config = replace(config, deadline_ms=1e6)
    planners = Agent(checkpoint, arm, config, seed=3, sweep_size=16).planners
    assert planners.sweep_size == 16
    fit = planners.fitted()
    assert fit is not None and (fit.candidates, fit.configured) == (32, 32)
    planners.sweep_size = fit.candidates
    assert planners.sweep_size == 32
    no_choice = replace(config, optimizer='icem')
    assert Agent(checkpoint, arm, no_choice, seed=3, sweep_size=16).planners.sweep_size == 32


@pytest.mark.parametrize(
    'changes',
    [{'deadline_ms': ENDLESS}, {'fewest_candidates': 0}, {'optimizer': 'icem'}],
)
def test_where_nothing_is_to_be_chosen_nothing_is(changes: dict[str, object], make: Make) -> None:
    agent = make(**{'deadline_ms': 0.01, **changes})
    assert agent.planners.fitted() is None and agent.planners.sweep_size == 32


def test_an_agent_that_was_measured_plans_as_if_it_had_not_been(make: Make, arm: Arm) -> None:
    agent, fresh = make(deadline_ms=0.01), make(deadline_ms=0.01)
    plans(agent, arm)
    agent.planners.fitted()
    for ours, theirs in zip(plans(agent, arm), plans(fresh, arm), strict=True):
        assert np.array_equal(ours, theirs)


def test_with_other_candidates_an_agent_is_as_if_made_with_them(make: Make, arm: Arm) -> None:
    agent, other = make(), make(candidates=16)
    agent.planners.deadline_ms = 1234.0
    box = ObstacleConfig('box', shape='box', size=(0.05, 0.05, 0.1), xyz=(0.5, 0.05, 0.05))
    for one in (agent, other):
        one.keep_out_of([box])
    agent.planners.sweep_size = 16
    assert agent.planners.sweep_size == 16 and agent.planners.deadline_ms == 1234.0
    for ours, theirs in zip(plans(agent, arm), plans(other, arm), strict=True):
        assert np.array_equal(ours, theirs)
    agent.planners.sweep_size = 32
    assert agent.planners.sweep_size == 32
    for refused in (15, 33):
        with pytest.raises(ValueError, match='sweep_size: expected one of'):
            agent.planners.sweep_size = refused


def test_what_was_compiled_for_other_candidates_is_freed_at_once(make: Make) -> None:
    """The node freezes what there is once it is active: what only a collection frees stays."""
    agent = make(runtime='openvino')
    before = weakref.ref(agent.planners.plain._stages['object'])
    assert before() is not None
    agent.planners.sweep_size = 16
    assert before() is None
