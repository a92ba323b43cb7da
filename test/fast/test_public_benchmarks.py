"""Public benchmarks: success rules, table, and (with the extra ``public``) held-out pairs."""

import importlib.util

import numpy as np
import pytest

from jepa_arm_validation.public_benchmarks import rules
from jepa_arm_validation.public_benchmarks.benchmark import format_public_table, format_score
from jepa_arm_validation.public_benchmarks.rules import SuccessRule

needs_package = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ('stable_worldmodel', 'pygame', 'pymunk'))),
    reason="stable-worldmodel is not installed: pip install -e '.[public]' brings it",
)


def states(*positions: float) -> list[np.ndarray]:
    return [np.array([x, 0.0]) for x in positions]


def test_a_hold_counts_consecutive_states() -> None:
    goal = np.zeros(2)
    within = SuccessRule(lambda state, goal: abs(state[0] - goal[0]) < 1.0, hold=2)
    assert within.steps_to_success(states(0.5, 3.0, 0.5, 0.0, 0.0), goal) == 4
    assert within.steps_to_success(states(0.5, 3.0, 0.5), goal) is None
    once = SuccessRule(within.is_solved)
    assert once.steps_to_success(states(3.0, 0.5), goal) == 2


def test_two_room_pairs_are_separated_by_the_wall() -> None:
    def is_pair(a: float, b: float) -> bool:
        return rules.in_opposite_rooms(np.array([a, 50.0]), np.array([b, 50.0]))

    assert is_pair(60.0, 160.0) and is_pair(160.0, 60.0)
    assert not is_pair(60.0, 90.0)
    assert not is_pair(60.0, 120.0)  # the goal's disk is in the wall


def test_strict_two_room_requires_the_side_of_the_goal() -> None:
    goal = np.array([114.0, 49.0])
    across, beyond = np.array([110.0, 49.0]), np.array([118.0, 49.0])
    assert rules.TWO_ROOM['released'].is_solved(across, goal)
    assert not rules.TWO_ROOM['strict'].is_solved(across, goal)
    assert rules.TWO_ROOM['strict'].is_solved(beyond, goal)


def test_strict_push_requires_the_block_and_not_the_pusher() -> None:
    goal = np.array([100.0, 100.0, 200.0, 200.0, 0.05, 0.0, 0.0])
    away, turned, near = goal.copy(), goal.copy(), goal.copy()
    away[:2] += 100.0
    turned[4] = 2.0 * np.pi - 0.2  # 14 degrees the short way
    near[2] += 12.0
    released, strict = (rules.PUSH_T[name].is_solved for name in ('released', 'strict'))
    assert [released(s, goal) for s in (away, turned, near)] == [False, True, True]
    assert [strict(s, goal) for s in (away, turned, near)] == [True, False, False]


def test_the_shoulder_of_the_reacher_wraps_around_and_the_wrist_does_not() -> None:
    goal = np.array([3.13, 2.5, 0.0, 0.0])
    turned, wound = goal.copy(), goal.copy()
    turned[0] -= 2.0 * np.pi
    wound[1] -= 2.0 * np.pi
    released = rules.REACHER['released'].is_solved
    assert released(turned, goal) and not released(wound, goal)
    np.testing.assert_allclose(rules.fingertip(np.array([np.pi / 2, -np.pi / 2])), [0.12, 0.12])


def test_the_table_shows_missing_measurements_as_dashes() -> None:
    score = {'pairs': 100, 'wins': 84}
    result = {'environment': 'tworoom', 'rules': {'released': {'search': score}}}
    header, line, row = format_public_table([result]).splitlines()
    assert header.count('|') == line.count('|') == row.count('|')
    assert '84 [76–90]' in row and '– | – | – | –' in row
    assert format_score(None) == '–'


@needs_package
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', ['tworoom', 'pusht', 'reacher'])
def test_recorded_actions_reach_the_goal_and_no_start_is_solved(name: str) -> None:
    if name == 'reacher':
        pytest.importorskip('dm_control', reason="pip install -e '.[public]' brings dm_control")
    from jepa_arm_validation.public_benchmarks.collect import (
        GOAL_OFFSET,
        held_out_pairs,
        is_solved,
    )
    from jepa_arm_validation.public_benchmarks.environments import ENVIRONMENTS
    from jepa_arm_validation.public_benchmarks.evaluate import evaluate, recorded

    environment = ENVIRONMENTS[name]
    pairs = held_out_pairs(environment, 3, seed=50_000)
    assert not any(is_solved(environment, pair.start, pair.goal) for pair in pairs)
    assert all(environment.is_pair(pair.start, pair.goal) for pair in pairs)
    steps = evaluate(environment, pairs, recorded).steps['released']
    assert steps.min() > 0 and steps.max() <= GOAL_OFFSET
