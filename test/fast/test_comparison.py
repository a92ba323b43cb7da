"""Figures of a planner comparison follow from its episodes; energy is counted correctly."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('pybullet', reason='PyBullet has no wheel for this Python')

from jepa_arm.config import OPTIMIZERS
from jepa_arm.evaluation.episode import first_held
from jepa_arm_validation.peers.comparison import OWN_PLANNERS
from jepa_arm_validation.peers.external_planners import EXTERNAL_PLANNERS
from jepa_arm_validation.peers.metering import EnergyError, RaplCounter
from jepa_arm_validation.peers.table import format_comparison, summarise


def episode(seed: int, held: float | None, plans: int) -> dict:
    """Return a push held within 3 cm at ``held`` s and never within 2 cm."""
    path = None if held is None else 0.5
    return {
        'seed': seed,
        'steps': plans,
        'held_s': {'2': None, '3': held, '4': held},
        'tip_path_m': {'2': None, '3': path, '4': path},
        'distance_m': 0.025,
        'is_refused': False,
        'plan_ms': [10.0] * plans,
        'candidates': 100 * plans,
        'processor_s': 0.02 * plans,
        'joules': None,
    }


RESULT = {
    'settings': {'task': 'push', 'planner': 'local', 'seed': 0, 'package': ''},
    'title': 'ours',
    'cost': 'read place',
    'control_dt': 0.1,
    'gflop_per_decision': 2.0,
    'peak_memory_mb': 800.0,
    'machine': 'two cores',
    'episodes': [episode(0, 2.0, 150), episode(1, 4.0, 150), episode(2, None, 150)],
}


def test_the_cost_of_a_solved_task_includes_failures_but_not_decisions_after_success() -> None:
    row = summarise(RESULT)
    decisions = (20 + 40 + 150) / 2
    assert row['processor_s_per_decision'] == pytest.approx(0.02)
    assert row['processor_s_per_solved'] == pytest.approx(0.02 * decisions)
    assert row['gflop_per_solved'] == pytest.approx(2.0 * decisions)
    assert (row['candidates'], row['time_s'], row['tip_path_cm']) == (100.0, 3.0, 50.0)
    assert [row['success'][cm]['wins'] for cm in ('2', '3', '4')] == [0, 2, 2]


def test_a_refused_goal_image_is_a_failure_without_decisions() -> None:
    refused = episode(3, None, 0) | {'is_refused': True, 'steps': 150, 'processor_s': 1.0}
    row = summarise(RESULT | {'episodes': [*RESULT['episodes'], refused]})
    assert row['refused'] == 1 and row['episodes'] == 4
    assert row['processor_s_per_decision'] == pytest.approx(0.02)
    assert row['success']['3']['rate'] == 0.5


def test_the_table_names_planners_that_were_left_out_and_why() -> None:
    table = format_comparison([RESULT], {'swm-cem': 'not installed'})
    assert '| ours | read place | 3 | 0% [0–56] | 67% [21–94] | 67% [21–94] | 3.0 | 50 |' in table
    assert 'Left out: swm-cem: not installed' in table


def test_a_tolerance_counts_only_when_it_is_held() -> None:
    distances = np.array([0.02, 0.01, 0.02, 0.01, 0.01, 0.01, 0.03])
    assert first_held(distances <= 0.01, 3) == 6
    assert first_held(distances <= 0.02, 3) == 3
    assert first_held(distances <= 0.01, 4) is None


def test_compared_planners_have_unique_names_and_include_all_our_searches() -> None:
    names = [p.name for p in (*OWN_PLANNERS, *EXTERNAL_PLANNERS)]
    assert len(set(names)) == len(names)
    assert {p.search for p in OWN_PLANNERS} >= set(OPTIMIZERS)


def write_counter(folder: Path, zone: str, name: str, microjoules: int) -> None:
    (folder / zone).mkdir(exist_ok=True)
    (folder / zone / 'name').write_text(f'{name}\n')
    (folder / zone / 'energy_uj').write_text(f'{microjoules}\n')
    (folder / zone / 'max_energy_range_uj').write_text('9999999\n')


def test_energy_is_the_sum_over_packages_across_a_counter_wraparound(
    tmp_path: Path,
) -> None:
    write_counter(tmp_path, 'intel-rapl:0', 'package-0', 9_000_000)
    write_counter(tmp_path, 'intel-rapl:1', 'package-1', 0)
    write_counter(tmp_path, 'intel-rapl:2', 'psys', 0)  # the whole board: would count twice
    rapl = RaplCounter(tmp_path)
    write_counter(tmp_path, 'intel-rapl:0', 'package-0', 1_000_000)
    write_counter(tmp_path, 'intel-rapl:1', 'package-1', 500_000)
    write_counter(tmp_path, 'intel-rapl:2', 'psys', 7_000_000)
    assert rapl.joules() == pytest.approx(2.5)
    assert rapl.joules() == pytest.approx(2.5)


def test_a_machine_without_counters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnergyError, match='no RAPL counters'):
        RaplCounter(tmp_path)
