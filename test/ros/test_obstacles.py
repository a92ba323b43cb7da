"""Obstacles that are declared in one file: shown, kept off by plans, kept off by the guard."""

import numpy as np
import pytest
import yaml
from planner_bench import Bench, Outcome, pose
from visualization_msgs.msg import Marker, MarkerArray

from jepa_arm.config import GuardConfig, load, to_dict
from jepa_arm.core.files import checkpoint_path, config_path
from jepa_arm.ros.runtime.conversions import PlanMarker
from jepa_arm.ros.runtime.qos import LATCHED_QOS

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]

BEFORE, BEHIND = (0.40, 0.0, 0.03), (0.60, 0.02, 0.03)
WALL = {'name': 'wall', 'shape': 'box', 'size': [0.03, 0.16, 0.12], 'xyz': [0.5, 0.0, 0.06]}


@pytest.fixture
def bench(harness, arm, tmp_path):
    declared = to_dict(load(GuardConfig, config_path('guard.yaml')))
    path = tmp_path / 'walled.yaml'
    path.write_text(yaml.safe_dump({**declared, 'obstacles': [{**WALL, 'rpy': [0.0, 0.0, 0.0]}]}))
    bench = Bench(harness, arm, checkpoint_path('compact'), tmp_path, guard_config=str(path))
    yield bench
    bench.close()


def test_the_tip_goes_round_what_one_file_declares_and_a_goal_in_it_is_refused(bench, arm):
    shown = bench.harness.record(MarkerArray, 'planner/plan_markers', LATCHED_QOS)
    scene = bench.harness.wait(
        lambda: shown and shown[0][1].markers, 'what is shown without a goal'
    )
    assert [m.id for m in scene[1:]] == [PlanMarker.WORKSPACE, PlanMarker.OBSTACLE]
    assert len(scene[1].points) == 24 and scene[2].pose.position.x == WALL['xyz'][0]
    for place in (BEFORE, BEHIND):
        assert bench.result(bench.send(pose(*place), timeout=15.0))[1].outcome == Outcome.SUCCEEDED
    tips = np.array([arm.tip_position(np.array(m.position)) for _, m in bench.joints])
    inside = np.abs(tips - WALL['xyz']) < np.array(WALL['size']) / 2.0 + 0.012
    assert not np.any(inside.all(axis=1))
    assert not [reason for _, m in bench.guard for reason in m.reasons if 'wall' in reason]
    drawn = [
        marker for _, msg in shown for marker in msg.markers if marker.id >= PlanMarker.OBSTACLE
    ]
    assert drawn[0].type == Marker.CUBE and drawn[0].scale.y == WALL['size'][1]
    refused = bench.result(bench.send(pose(0.51, 0.0, 0.05)))[1]
    assert refused.outcome == Outcome.INVALID_GOAL and 'obstacle wall' in refused.message
