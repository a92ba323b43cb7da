"""Plans keep tip and object out of declared obstacles, and lead round them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jepa_arm.arm import Arm
from jepa_arm.config import ObstacleConfig, PlannerConfig, load
from jepa_arm.goals import GoalError, PositionGoal
from jepa_arm.motion import ACTION_METRES, make_contract
from jepa_arm.planning.obstacles import CLEAR, STAND_OFFS, KeepOut
from jepa_arm.planning.planner import Planner
from jepa_arm.resources import config_path
from jepa_arm.routes import distance, is_blocked, pushed_out

WALL = ObstacleConfig('wall', 'box', (0.03, 0.16, 0.10), (0.5, 0.0, 0.05), (0.0, 0.0, 0.3))
BALL = ObstacleConfig('ball', 'sphere', (0.05,), (0.4, 0.2, 0.05))
LOW = 0.02
MARGINS = {'object': 0.05, 'tip': 0.03}


class Point:
    """A tip that is where it is told to be, which is all there is in the latent."""

    def predict(self, z, z_prev, action_block):
        return z + ACTION_METRES * action_block.view(len(z), 2, 3).sum(1)

    def rollout(self, z, z_prev, actions):
        moves = ACTION_METRES * actions.view(*actions.shape[:2], 2, 3).sum(2)
        return z[:, None] + moves.cumsum(1)


def keep_out(arm, *obstacles):
    workspace = np.stack([arm.workspace_min, arm.workspace_max])
    return KeepOut(obstacles, MARGINS, {'object': workspace[:, :2], 'tip': workspace})


@pytest.fixture(scope='module')
def arm(arm_config):
    return Arm(arm_config)


@pytest.fixture
def planner(arm_config, sim_config, arm):
    """Of the tip, by iCEM, over all of its sweeps."""
    config = load(PlannerConfig, config_path('planner.yaml'))
    config = replace(config, optimizer='icem', icem_sweeps=8, candidates=128, deadline_ms=1e4)
    contract = make_contract(arm_config, sim_config.time)
    planner = Planner(Point(), lambda subject, z: z, None, contract, config)
    planner.keep_out = keep_out(arm, WALL)
    return planner


def drive(planner, start, goal, steps=30):
    """(N, 3) m, where the tip goes, two control steps of each plan."""
    path = [np.array(start)]
    for _ in range(steps):
        here = path[-1]
        z = torch.tensor(here, dtype=torch.float32)[None]
        towards = PositionGoal('tip', planner.keep_out.towards('tip', here, goal, 0.06).place)
        plan = planner.plan(z, z, towards, told=z[0])
        if plan.is_barred:
            return np.array(path), plan
        path += list(here + ACTION_METRES * plan.actions[:2].double().numpy().cumsum(0))
    return np.array(path), plan


def test_how_far_in_a_place_is_agrees_with_its_distance(arm):
    keep = keep_out(arm, WALL, BALL)
    rng = np.random.default_rng(0)
    places = rng.uniform(arm.workspace_min, arm.workspace_max, (200, 3))
    for subject, dim in (('tip', 3), ('object', 2)):
        depth = keep.depth(subject, torch.tensor(places, dtype=torch.float32))
        is_in = np.array(
            [distance(p[:dim], (WALL, BALL)) < MARGINS[subject] * 0.99 for p in places]
        )
        assert 10 < is_in.sum() < 190
        assert np.all(depth.numpy()[is_in] > 0.0)
        far = [distance(p[:dim], (WALL, BALL)) > MARGINS[subject] * 1.5 for p in places]
        assert not np.any(depth.numpy()[far])


def test_the_tip_goes_round_a_wall_and_never_near_it(planner):
    start, goal = np.array([0.42, -0.02, LOW]), np.array([0.58, 0.02, LOW])
    path, _ = drive(planner, start, goal)
    assert np.linalg.norm(path[-1] - goal) < 0.02
    assert min(distance(place, (WALL,)) for place in path) > 0.02
    planner.reset()
    planner.keep_out = None
    z = torch.tensor(start, dtype=torch.float32)[None]
    straight = planner.plan(z, z, PositionGoal('tip', goal)).latents.double().numpy()
    assert min(distance(place, (WALL,)) for place in straight) < 0.02


def test_where_every_way_is_barred_the_plan_says_so(planner, arm):
    start = np.array([0.42, 0.0, LOW])
    planner.keep_out = keep_out(arm, WALL)
    planner.keep_out.margins = {'object': 0.05, 'tip': 0.5}
    z = torch.tensor(start, dtype=torch.float32)[None]
    towards = PositionGoal('tip', np.array([0.5, 0.0, LOW]))
    room = torch.tensor([[0.1, 0.0, 0.0], [4.0, 0.0, 0.0]])  # it can but go into it
    assert planner.plan(z, z, towards, room, told=z[0]).is_barred
    planner.reset()
    room = torch.tensor([[-4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
    assert not planner.plan(z, z, towards, room, told=z[0]).is_barred  # it may leave, or stay


def test_an_object_is_led_to_the_next_bend_and_at_least_a_lead_on(arm):
    keep = keep_out(arm, WALL)
    here, goal = np.array([0.42, 0.0, 0.025]), np.array([0.58, 0.0, 0.025])
    bend = keep.towards('object', here, goal, 0.0).place
    assert distance(bend[:2], (WALL,)) == pytest.approx(MARGINS['object'], abs=0.025)
    assert bend[2] == goal[2]
    lead = float(np.linalg.norm(bend - here)) + 0.03
    further = keep.towards('object', here, goal, lead).place
    assert np.linalg.norm(further - bend) == pytest.approx(0.03, abs=1e-6)
    clear = np.array([0.39, 0.10, 0.025])
    np.testing.assert_array_equal(keep.towards('object', here, clear, 0.06).place, clear)


@pytest.mark.parametrize('subject', ['tip', 'object'])
def test_a_goal_in_an_obstacle_is_refused_with_its_name(arm, subject):
    keep = keep_out(arm, BALL, WALL)
    with pytest.raises(GoalError, match=f'for the {subject} at least .* from the obstacle wall'):
        keep.check(PositionGoal(subject, np.array([0.52, 0.0, 0.03])))
    keep.check(PositionGoal(subject, np.array([0.62, -0.1, 0.03])))


LYING = {
    'beside a wall': (WALL, (0.563, -0.03), (0.65, 0.0)),
    'along a wall, its goal away from it': (
        ObstacleConfig('wall', 'box', (0.026, 0.13, 0.07), (0.469, -0.015, 0.035), (0, 0, 2.449)),
        (0.494, -0.077),
        (0.601, -0.132),
    ),
    'at the edge of the workspace': (BALL, (0.322, 0.02), (0.60, -0.14)),
    'in a corner of the workspace': (WALL, (0.628, -0.24), (0.61, -0.17)),
}
"""An obstacle, and an object that cannot be pushed straight to its goal (m)."""


@pytest.mark.parametrize('where', LYING)
def test_an_object_goes_where_the_tip_has_room_behind_it_all_along(arm, where):
    """Led aside without a look further, it went to and fro between two obstacles for ever."""
    obstacle, start, goal = LYING[where]
    keep = keep_out(arm, obstacle)
    here, goal = np.array([*start, 0.025]), np.array([*goal, 0.025])
    straight = (goal - here)[:2] / np.linalg.norm((goal - here)[:2])
    low, high = arm.workspace_min, arm.workspace_max

    def has_room(heading, slack, away=0.05, kept=CLEAR * MARGINS['tip']):
        tip = np.array([*here[:2] - away * heading, LOW])
        is_inside = np.all(tip >= low - slack) and np.all(tip <= high + slack)
        return is_inside and distance(tip, (obstacle,)) >= kept - slack

    assert not has_room(straight, 0.0)
    first = keep.towards('object', here, goal, 0.06).aside
    assert any(has_room(first, 1e-9, away, MARGINS['tip']) for away in STAND_OFFS)
    rng, before, steps = np.random.default_rng(0), None, 0
    while np.linalg.norm((goal - here)[:2]) > 0.02:
        seen = here + [*rng.normal(0.0, 0.002, 2), 0.0]
        leg = keep.towards('object', seen, goal, 0.06, before)
        before, heading = leg.aside, (leg.place - seen)[:2]
        heading /= np.linalg.norm(heading)
        assert has_room(heading, 0.006)  # as far as what is seen is off
        table = np.array([[-1.0, -1.0], [1.0, 1.0]])
        here[:2] = pushed_out(here[:2] + 0.01 * heading, (obstacle,), 0.025, table)
        steps += 1
        assert steps < 80


def test_the_tip_goes_round_before_it_pushes_what_lies_beyond_a_wall(planner):
    keep = planner.keep_out
    here, place = np.array([0.60, 0.0, 0.025]), np.array([0.60, -0.1, 0.025])
    told = np.array([0.43, -0.02, LOW])
    path = [told]
    for _ in range(20):
        first = keep.round_first(path[-1], here, place, 0.05)
        if first is None:
            break
        path += list(path[-1] + (first.place - path[-1]) * np.linspace(0.2, 1.0, 5)[:, None])
    assert first is None
    assert min(distance(tip, (WALL,)) for tip in path) >= MARGINS['tip'] - 1e-3
    assert min(np.linalg.norm((tip - here)[:2]) for tip in path if tip[2] < 0.05) > 0.04
    assert keep.round_first(np.array([0.6, 0.1, LOW]), here, place, 0.05) is None


def test_an_object_goes_round_where_the_camera_sees_it(arm):
    """Behind a wall it was misread, and pushed away or forgotten."""
    wide = ObstacleConfig('wide', 'box', (0.03, 0.16, 0.12), (0.5, 0.02, 0.06))
    camera = np.array(arm.config.camera.position)
    workspace = np.stack([arm.workspace_min, arm.workspace_max])
    bounds = {'object': workspace[:, :2], 'tip': workspace}
    seen = KeepOut((wide,), MARGINS, bounds, camera)
    start, goal = np.array([0.44, 0.22, 0.025]), np.array([0.44, -0.20, 0.025])

    def way(keep):
        places = [start]
        while np.linalg.norm(places[-1] - goal) > 0.01 and len(places) < 200:
            step = keep.towards('object', places[-1], goal, 0.03).place - places[-1]
            places.append(places[-1] + step * min(1.0, 0.01 / np.linalg.norm(step)))
        return places

    def is_hidden(place):
        return is_blocked(camera, place, (wide,), 0.0)

    assert any(is_hidden(place) for place in way(keep_out(arm, wide)))
    assert not any(is_hidden(place) for place in way(seen))
    np.testing.assert_allclose(way(seen)[-1], goal, atol=0.01)
