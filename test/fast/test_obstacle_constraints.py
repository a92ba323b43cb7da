"""Plans keep tip and object away from declared obstacles, and lead around them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_arm.config import ArmConfig, ObstacleConfig, PlannerConfig, SimConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.core.goals import GoalError, PositionGoal
from jepa_arm.core.types import FloatArray
from jepa_arm.planning.model import PlanningModel
from jepa_arm.planning.obstacles.constraints import (
    APPROACH_MARGIN_SHARE,
    STAND_OFFS,
    ObstacleConstraints,
)
from jepa_arm.planning.planner import Plan, Planner
from jepa_arm.planning.rollout import StartState
from jepa_arm.robot.action_space import ACTION_METRES, make_contract
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.routes import is_blocked, nearest_free_point, obstacle_distance

WALL = ObstacleConfig('wall', 'box', (0.03, 0.16, 0.10), (0.5, 0.0, 0.05), (0.0, 0.0, 0.3))
BALL = ObstacleConfig('ball', 'sphere', (0.05,), (0.4, 0.2, 0.05))
LOW = 0.02
MARGINS = {'object': 0.05, 'tip': 0.03}


class IdealTip:
    """World model whose latent is the position of a tip that follows its setpoint at once."""

    def predict(self, z: Tensor, z_prev: Tensor, action_block: Tensor) -> Tensor:
        return z + ACTION_METRES * action_block.view(len(z), 2, 3).sum(1)

    def rollout(self, z: Tensor, z_prev: Tensor, actions: Tensor) -> Tensor:
        moves = ACTION_METRES * actions.view(*actions.shape[:2], 2, 3).sum(2)
        return z[:, None] + moves.cumsum(1)


def constraints_for(
    arm: Arm,
    *obstacles: ObstacleConfig,
    camera: FloatArray | None = None,
    tip_margin: float = 0.03,
    min_subgoal_distance: float = 0.06,
) -> ObstacleConstraints:
    workspace = np.stack([arm.workspace_min, arm.workspace_max])
    bounds = {'object': workspace[:, :2], 'tip': workspace}
    margins = {**MARGINS, 'tip': tip_margin}
    return ObstacleConstraints(obstacles, margins, bounds, min_subgoal_distance, camera)


@pytest.fixture
def planner(arm_config: ArmConfig, sim_config: SimConfig, arm: Arm) -> Planner:
    """Planner of the tip beside a wall: iCEM with all of its iterations."""
    config = load(PlannerConfig, config_path('planner.yaml'))
    config = replace(config, optimizer='icem', icem_iterations=8, candidates=128, deadline_ms=1e4)
    contract = make_contract(arm_config, sim_config.time)
    planner = Planner(PlanningModel(IdealTip(), contract, lambda subject, z: z), config)
    planner.constraints = constraints_for(arm, WALL)
    return planner


def start_at(tip: FloatArray) -> StartState:
    z = torch.tensor(tip, dtype=torch.float32)[None]
    return StartState(z, z, tip_setpoint=z[0])


def drive(planner: Planner, start: FloatArray, goal: FloatArray) -> tuple[FloatArray, Plan]:
    """Return the path (N, 3) m of the tip, two control steps of each plan, and the last plan."""
    path, constraints = [start], planner.constraints
    assert constraints is not None
    for _ in range(30):
        subgoal = constraints.subgoal('tip', path[-1], goal).position
        plan = planner.plan(start_at(path[-1]), PositionGoal('tip', subgoal))
        if plan.is_blocked:
            break
        path += list(path[-1] + ACTION_METRES * plan.actions[:2].double().numpy().cumsum(0))
    return np.array(path), plan


def test_missing_clearance_agrees_with_the_distance_to_the_obstacles(arm: Arm) -> None:
    constraints = constraints_for(arm, WALL, BALL)
    rng = np.random.default_rng(0)
    positions = rng.uniform(arm.workspace_min, arm.workspace_max, (200, 3))
    for subject, dim in (('tip', 3), ('object', 2)):
        depth = constraints.depth(subject, torch.tensor(positions, dtype=torch.float32)).numpy()
        distances = np.array([obstacle_distance(p[:dim], (WALL, BALL)) for p in positions])
        is_near = distances < MARGINS[subject] * 0.99
        assert 10 < is_near.sum() < 190
        assert np.all(depth[is_near] > 0.0)
        assert not np.any(depth[distances > MARGINS[subject] * 1.5])


def test_the_tip_moves_around_a_wall_with_clearance(planner: Planner) -> None:
    start, goal = np.array([0.42, -0.02, LOW]), np.array([0.58, 0.02, LOW])
    path, _ = drive(planner, start, goal)
    assert np.linalg.norm(path[-1] - goal) < 0.02
    assert min(obstacle_distance(position, (WALL,)) for position in path) > 0.02
    planner.reset()
    planner.constraints = None
    straight = planner.plan(start_at(start), PositionGoal('tip', goal)).latents.double().numpy()
    assert min(obstacle_distance(position, (WALL,)) for position in straight) < 0.02


def test_a_plan_reports_that_every_path_is_blocked(planner: Planner, arm: Arm) -> None:
    planner.constraints = constraints_for(arm, WALL, tip_margin=0.5)
    start, goal = (
        start_at(np.array([0.42, 0.0, LOW])),
        PositionGoal('tip', np.array([0.5, 0, LOW])),
    )
    only_nearer = torch.tensor([[0.1, 0.0, 0.0], [4.0, 0.0, 0.0]])
    assert planner.plan(replace(start, action_bounds=only_nearer), goal).is_blocked
    planner.reset()
    may_leave = torch.tensor([[-4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
    assert not planner.plan(replace(start, action_bounds=may_leave), goal).is_blocked


def test_a_subgoal_is_the_next_bend_or_further_ahead(arm: Arm) -> None:
    start, goal = np.array([0.42, 0.0, 0.025]), np.array([0.58, 0.0, 0.025])
    nearest = constraints_for(arm, WALL, min_subgoal_distance=0.0)
    bend = nearest.subgoal('object', start, goal).position
    assert obstacle_distance(bend[:2], (WALL,)) == pytest.approx(MARGINS['object'], abs=0.025)
    assert bend[2] == goal[2]
    min_distance = float(np.linalg.norm(bend - start)) + 0.03
    constraints = constraints_for(arm, WALL, min_subgoal_distance=min_distance)
    further = constraints.subgoal('object', start, goal).position
    assert np.linalg.norm(further - bend) == pytest.approx(0.03, abs=1e-6)
    clear = np.array([0.39, 0.10, 0.025])
    subgoal = constraints_for(arm, WALL).subgoal('object', start, clear).position
    np.testing.assert_array_equal(subgoal, clear)


@pytest.mark.parametrize('subject', ['tip', 'object'])
def test_a_goal_in_an_obstacle_is_refused_by_the_obstacles_name(arm: Arm, subject: str) -> None:
    constraints = constraints_for(arm, BALL, WALL)
    with pytest.raises(GoalError, match='wall'):
        constraints.check(PositionGoal(subject, np.array([0.52, 0.0, 0.03])))
    constraints.check(PositionGoal(subject, np.array([0.62, -0.1, 0.03])))


HARD_TO_PUSH = {
    'beside a wall': (WALL, (0.563, -0.03), (0.65, 0.0)),
    'along a wall, its goal away from it': (
        ObstacleConfig('wall', 'box', (0.026, 0.13, 0.07), (0.469, -0.015, 0.035), (0, 0, 2.449)),
        (0.494, -0.077),
        (0.601, -0.132),
    ),
    'at the edge of the workspace': (BALL, (0.322, 0.02), (0.60, -0.14)),
    'in a corner of the workspace': (WALL, (0.628, -0.24), (0.61, -0.17)),
}
"""An obstacle, and start and goal (m) of an object that cannot be pushed straight there."""


@pytest.mark.parametrize('case', HARD_TO_PUSH)
def test_the_tip_has_room_behind_the_object_all_along_its_way(arm: Arm, case: str) -> None:
    """Without looking further ahead, the object moved back and forth between two obstacles."""
    obstacle, start, end = HARD_TO_PUSH[case]
    constraints = constraints_for(arm, obstacle)
    position, goal = np.array([*start, 0.025]), np.array([*end, 0.025])
    straight = (goal - position)[:2] / np.linalg.norm((goal - position)[:2])
    reduced = APPROACH_MARGIN_SHARE * MARGINS['tip']

    def has_room(
        heading: FloatArray, slack: float, stand_off: float = 0.05, margin: float = reduced
    ) -> bool:
        tip = np.array([*position[:2] - stand_off * heading, LOW])
        is_inside = np.all(tip >= arm.workspace_min - slack)
        is_inside = is_inside and np.all(tip <= arm.workspace_max + slack)
        return bool(is_inside and obstacle_distance(tip, (obstacle,)) >= margin - slack)

    assert not has_room(straight, 0.0)
    first = constraints.subgoal('object', position, goal).heading
    assert first is not None
    assert any(has_room(first, 1e-9, stand_off, MARGINS['tip']) for stand_off in STAND_OFFS)
    rng, previous = np.random.default_rng(0), None
    table = np.array([[-1.0, -1.0], [1.0, 1.0]])
    for _ in range(80):
        if np.linalg.norm((goal - position)[:2]) <= 0.02:
            break
        observed = position + [*rng.normal(0.0, 0.002, 2), 0.0]
        subgoal = constraints.subgoal('object', observed, goal, previous)
        previous, heading = subgoal.heading, (subgoal.position - observed)[:2]
        heading /= np.linalg.norm(heading)
        assert has_room(heading, 0.006)  # three standard deviations of the noise
        moved = nearest_free_point(position[:2] + 0.01 * heading, (obstacle,), 0.025, table)
        assert moved is not None
        position[:2] = moved
    assert np.linalg.norm((goal - position)[:2]) <= 0.02


def test_the_tip_moves_around_a_wall_before_it_pushes_an_object_beyond_it(arm: Arm) -> None:
    constraints = constraints_for(arm, WALL, min_subgoal_distance=0.05)
    position, target = np.array([0.60, 0.0, 0.025]), np.array([0.60, -0.1, 0.025])
    path = [np.array([0.43, -0.02, LOW])]
    for _ in range(20):
        approach = constraints.approach(path[-1], position, target, only_if_blocked=True)
        if approach is None:
            break
        shares = np.linspace(0.2, 1.0, 5)[:, None]
        path += list(path[-1] + (approach.position - path[-1]) * shares)
    assert approach is None
    assert min(obstacle_distance(tip, (WALL,)) for tip in path) >= MARGINS['tip'] - 1e-3
    assert min(np.linalg.norm((tip - position)[:2]) for tip in path if tip[2] < 0.05) > 0.04
    beyond = np.array([0.6, 0.1, LOW])
    assert constraints.approach(beyond, position, target, only_if_blocked=True) is None


def test_an_object_moves_around_where_the_camera_sees_it(arm: Arm) -> None:
    """Behind a wall it was misread, and pushed away or forgotten."""
    wide = ObstacleConfig('wide', 'box', (0.03, 0.16, 0.12), (0.5, 0.02, 0.06))
    camera = np.array(arm.config.camera.position)
    start, goal = np.array([0.44, 0.22, 0.025]), np.array([0.44, -0.20, 0.025])

    def way(constraints: ObstacleConstraints) -> list[FloatArray]:
        path = [start]
        while np.linalg.norm(path[-1] - goal) > 0.01 and len(path) < 200:
            step = constraints.subgoal('object', path[-1], goal).position - path[-1]
            path.append(path[-1] + step * min(1.0, 0.01 / np.linalg.norm(step)))
        return path

    def is_hidden(position: FloatArray) -> bool:
        return is_blocked(camera, position, (wide,), 0.0)

    visible = way(constraints_for(arm, wide, camera=camera, min_subgoal_distance=0.03))
    unaware = way(constraints_for(arm, wide, min_subgoal_distance=0.03))
    assert any(is_hidden(position) for position in unaware)
    assert not any(is_hidden(position) for position in visible)
    np.testing.assert_allclose(visible[-1], goal, atol=0.01)
