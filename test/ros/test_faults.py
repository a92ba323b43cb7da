"""Fault table on the running graph, with cases that are quick."""

import json

import pytest

from jepa_arm.cli.main import main

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]
CASES = ['camera_frozen', 'plan_nan', 'clock_pause', 'clock_back']


@pytest.mark.extended
def test_selected_cases_are_tried_measured_and_passed(tmp_path, capsys):
    file = tmp_path / 'faults.json'
    code = main(['faults', '--only', *CASES, '--json', str(file)])
    output = capsys.readouterr().out
    report = json.loads(file.read_text())
    assert code == 0, output
    assert [row['name'] for row in report['rows']] == CASES
    for row in report['rows']:
        assert row['passed'] and 0.0 < row['time_to_stop_ms'] < row['time_to_hold_ms']
        assert row['peaks']['velocity'] > 0.0 and row['distance_cm'] > 0.0
    assert '4 of 4 passed' in output


def test_cases_can_be_listed_without_a_graph_and_an_unknown_one_is_refused(capsys):
    assert main(['faults', '--list']) == 0
    listed = capsys.readouterr().out
    assert {int(line[:2]) for line in listed.splitlines()} == set(range(1, 29))
    assert main(['faults', '--only', 'earthquake']) == 1
    assert 'camera_stops' in capsys.readouterr().err
