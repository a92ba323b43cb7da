"""The fault table's command on the live graph, with rows that are quick."""

import json

import pytest

from jepa_arm.cli import main

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]
ROWS = ['camera_frozen', 'plan_nan', 'clock_pause', 'clock_back']


def test_chosen_rows_are_tried_measured_and_passed(tmp_path, capsys):
    files = tmp_path / 'faults.json', tmp_path / 'faults.html'
    arguments = ['faults', '--only', *ROWS, '--json', str(files[0]), '--html', str(files[1])]
    code = main(arguments)
    said = capsys.readouterr().out
    report = json.loads(files[0].read_text())
    assert code == 0, said
    assert [row['name'] for row in report['rows']] == ROWS
    for row in report['rows']:
        assert row['passed'] and 0.0 < row['time_to_stop_ms'] < row['time_to_hold_ms']
        assert row['peaks']['velocity'] > 0.0 and row['distance_cm'] > 0.0
        assert row['name'] in files[1].read_text()
    assert '4 of 4 passed' in said


def test_rows_can_be_listed_without_a_graph_and_an_unknown_one_is_refused(capsys):
    assert main(['faults', '--list']) == 0
    listed = capsys.readouterr().out
    assert {int(line[:2]) for line in listed.splitlines()} == set(range(1, 29))
    assert main(['faults', '--only', 'earthquake']) == 1
    assert 'camera_stops' in capsys.readouterr().err
