"""Rules, table and pairs of the public benchmarks; with the extra ``public``, the package too."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / 'benchmarks' / 'public').is_dir():
    pytest.skip('benchmarks are not installed, only in a checkout', allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks.public import rules  # noqa: E402
from benchmarks.public.rules import Rule, first_success  # noqa: E402
from benchmarks.public.table import measured, table  # noqa: E402

needs_package = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ('stable_worldmodel', 'pygame', 'pymunk'))),
    reason="stable-worldmodel is not installed: pip install -e '.[public]' brings it",
)


def states(*places: float) -> list[np.ndarray]:
    return [np.array([place, 0.0]) for place in places]


def test_a_hold_is_counted_in_a_row() -> None:
    goal = np.zeros(2)
    within = Rule(lambda state, goal: abs(state[0] - goal[0]) < 1.0, hold=2)
    assert first_success(states(0.5, 3.0, 0.5, 0.0, 0.0), goal, within) == 3
    assert first_success(states(0.5, 3.0, 0.5), goal, within) is None
    once = Rule(within.is_solved)
    assert first_success(states(3.0, 0.5), goal, once) == 1


def test_two_room_pairs_have_the_wall_between_them() -> None:
    def is_pair(a: float, b: float) -> bool:
        return rules.in_opposite_rooms(np.array([a, 50.0]), np.array([b, 50.0]))

    assert is_pair(60.0, 160.0) and is_pair(160.0, 60.0)
    assert not is_pair(60.0, 90.0)
    assert not is_pair(60.0, 120.0)  # the goal's disk is in the wall


def test_strict_two_room_needs_the_side_of_the_goal() -> None:
    goal = np.array([114.0, 49.0])
    across, beyond = np.array([110.0, 49.0]), np.array([118.0, 49.0])
    assert rules.TWO_ROOM['released'].is_solved(across, goal)
    assert not rules.TWO_ROOM['strict'].is_solved(across, goal)
    assert rules.TWO_ROOM['strict'].is_solved(beyond, goal)


def test_strict_push_asks_for_the_block_and_not_for_the_pusher() -> None:
    goal = np.array([100.0, 100.0, 200.0, 200.0, 0.05, 0.0, 0.0])
    away, turned, near = goal.copy(), goal.copy(), goal.copy()
    away[:2] += 100.0
    turned[4] = 2.0 * np.pi - 0.2  # 14 degrees the short way
    near[2] += 12.0
    released, strict = (rules.PUSH_T[name].is_solved for name in ('released', 'strict'))
    assert [released(s, goal) for s in (away, turned, near)] == [False, True, True]
    assert [strict(s, goal) for s in (away, turned, near)] == [True, False, False]


def test_the_reachers_shoulder_turns_freely_and_its_wrist_does_not() -> None:
    goal = np.array([3.13, 2.5, 0.0, 0.0])
    turned, wound = goal.copy(), goal.copy()
    turned[0] -= 2.0 * np.pi
    wound[1] -= 2.0 * np.pi
    released = rules.REACHER['released'].is_solved
    assert released(turned, goal) and not released(wound, goal)
    np.testing.assert_allclose(rules.fingertip(np.array([np.pi / 2, -np.pi / 2])), [0.12, 0.12])


def test_the_table_says_what_was_not_measured() -> None:
    score = {'pairs': 100, 'wins': 84}
    result = {'environment': 'tworoom', 'rules': {'released': {'search': score}}}
    header, line, row = table([result]).splitlines()
    assert header.count('|') == line.count('|') == row.count('|')
    assert '84 [76–90]' in row and '– | – | – | –' in row
    assert measured(None) == '–'


@needs_package
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', ['tworoom', 'pusht', 'reacher'])
def test_what_was_recorded_leads_to_the_goal_and_no_start_is_solved(name: str) -> None:
    if name == 'reacher':
        pytest.importorskip('dm_control', reason="pip install -e '.[public]' brings dm_control")
    from benchmarks.public.collect import OFFSET, held_out_pairs, is_solved
    from benchmarks.public.environments import ENVIRONMENTS
    from benchmarks.public.evaluate import as_recorded, evaluate

    environment = ENVIRONMENTS[name]
    pairs = held_out_pairs(environment, 3, seed=50_000)
    assert not any(is_solved(environment, pair.start, pair.goal) for pair in pairs)
    assert all(environment.is_pair(pair.start, pair.goal) for pair in pairs)
    steps = evaluate(environment, pairs, as_recorded).steps['released']
    assert steps.min() > 0 and steps.max() <= OFFSET
