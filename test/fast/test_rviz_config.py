"""The configuration of RViz shows what the nodes publish."""

from pathlib import Path

import pytest
import yaml

CONFIG = Path(__file__).parents[2] / 'config/rviz/jepa_arm.rviz'


@pytest.fixture(scope='module')
def displays():
    return yaml.safe_load(CONFIG.read_text())['Visualization Manager']['Displays']


def test_rviz_subscribes_to_the_topics_of_the_graph(displays):
    topics = [d.get('Topic', d.get('Description Topic', {})).get('Value') for d in displays]
    assert [t for t in topics if t] == [
        'robot_description',
        'planner/plan_markers',
        'ground_truth/objects',
        'camera/image_raw',
        'planner/imagined',
    ]
    [plan] = [d for d in displays if d.get('Topic', {}).get('Value') == 'planner/plan_markers']
    assert plan['Topic']['Durability Policy'] == 'Transient Local', 'drawn before it starts'


def test_rviz_opens_only_the_displays_that_are_enabled(displays):
    window = yaml.safe_load(CONFIG.read_text())['Window Geometry']
    state = bytes.fromhex(window['QMainWindow State'])
    for display in displays:
        assert 'Value' not in display, 'with it, it subscribes before its QoS is read'
        if display['Class'] == 'rviz_default_plugins/Image':
            name = display['Name'].encode('utf-16-be')
            assert state[state.index(name) + len(name)] == display['Enabled'], 'it switches it on'
    docks = ('Hide Left Dock', 'Hide Right Dock')
    assert [window[dock] for dock in docks] == [False, False], 'RViz has no default for them'
