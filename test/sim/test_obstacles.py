"""Obstacles and objects of several shapes: built as declared, touched, seen, and avoided."""

from dataclasses import replace

import numpy as np
import pytest

from jepa_arm.config import ArmConfig, GuardConfig, ObstacleConfig, SimConfig
from jepa_arm.evaluation.episode_runner import EpisodeRunner, SimulationSetup
from jepa_arm.evaluation.report import summarise
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.collision import CollisionModel
from jepa_arm.robot.routes import is_blocked, obstacle_distance
from jepa_arm.sim.bullet import BulletWorld
from jepa_arm.sim.scene import Scene, SceneObject, with_obstacles
from jepa_arm.sim.scene_sampling import PEG_RADIUS
from jepa_arm.sim.tasks import load_task

AVOIDING = ('avoid_reach', 'avoid_push')
BALL = ObstacleConfig('ball', 'sphere', (0.04,), (0.45, 0.10, 0.04))
PILLAR = ObstacleConfig('pillar', 'capsule', (0.03, 0.06), (0.60, -0.10, 0.06))
WALL = ObstacleConfig('wall', 'box', (0.02, 0.15, 0.10), (0.40, -0.10, 0.05), (0.0, 0.0, 0.5))


@pytest.fixture
def scene(arm: Arm, sim_config: SimConfig) -> Scene:
    """A push with nothing else on the table."""
    return load_task('push', arm, sim_config).sample(3)


def settle(world: BulletWorld, scene: Scene, ticks: int = 60) -> np.ndarray:
    """(3,) m, where the object rests."""
    world.reset(scene)
    for _ in range(ticks):
        world.step()
    return world.state().object_position


@pytest.mark.parametrize('shape', ['box', 'cylinder'])
def test_an_object_stands_at_its_height_with_its_mass(
    world: BulletWorld, scene: Scene, shape: str
) -> None:
    thing = SceneObject(shape, 0.06, 0.04, 0.3, 0.5)
    place = settle(world, replace(scene, scene_object=thing))
    np.testing.assert_allclose(place, [*scene.object_position, 0.02], atol=1e-3)
    assert world.scene_object is thing
    settle(world, scene)
    assert world.scene_object.height == world.config.object_size


def test_the_size_of_an_object_shows_in_the_image(world: BulletWorld, scene: Scene) -> None:
    seen = []
    for size in (0.04, 0.06):
        world.reset(replace(scene, scene_object=SceneObject('cylinder', size, size, 0.1, 0.8)))
        images = []
        for colour in ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0]):
            world.set_object_colour(np.array(colour))
            images.append(world.image().astype(int))
        seen.append(int((np.abs(images[0] - images[1]).sum(2) > 40).sum()))
    assert 1.5 < seen[1] / seen[0] < 3.5


def test_obstacles_of_every_shape_are_where_the_guard_expects_them(
    world: BulletWorld, scene: Scene
) -> None:
    """The object, put where one stands, touches it; where the declared shape ends, it does not."""
    for obstacle, radius in ((BALL, 0.04), (PILLAR, 0.03), (WALL, None)):
        world.reset(replace(scene, obstacles=(obstacle,)))
        place = np.array(obstacle.xyz[:2])
        if radius is None:
            way, apart = np.array([np.cos(0.5), np.sin(0.5)]), 0.01 + 0.025
        else:
            way, apart = np.array([1.0, 0.0]), radius + 0.025
        for gap, touches in ((-0.003, True), (0.012, False)):
            world.move_object(place + (apart + gap) * way, obstacle.rpy[2])
            world.step()
            assert world.state().object_touches_obstacle is touches, (obstacle.name, gap)
        assert not world.has_touched_obstacle


def test_a_collision_with_an_obstacle_is_recorded(world: BulletWorld, scene: Scene) -> None:
    tip = world.arm.tip_position(scene.joints)
    post = ObstacleConfig('post', 'box', (0.04, 0.04, 0.3), (tip[0], tip[1] + 0.06, 0.15))
    world.reset(replace(scene, obstacles=(post,)))
    assert not world.has_touched_obstacle
    target = scene.joints.copy()
    target[0] += 0.25
    for _ in range(60):
        world.command(target, np.zeros_like(target))
        world.step()
    assert world.has_touched_obstacle
    world.reset(scene)
    assert not world.has_touched_obstacle


def test_the_goal_image_shows_the_obstacles(world: BulletWorld, scene: Scene) -> None:
    bare = world.render_goal(scene, 'object').image.astype(int)
    shown = world.render_goal(with_obstacles(scene, (WALL, BALL, PILLAR)), 'object').image
    assert (np.abs(bare - shown).sum(2) > 40).sum() > 60


def test_declared_obstacles_come_before_those_of_the_scene(scene: Scene) -> None:
    white = np.ones((1, 3))
    both = with_obstacles(replace(scene, obstacles=(BALL,), obstacle_rgb=white), (WALL,))
    assert [o.name for o in both.obstacles] == ['wall', 'ball']
    assert both.obstacle_rgb is not None
    np.testing.assert_array_equal(both.obstacle_rgb[1:], white)
    assert with_obstacles(scene, ()) is scene


@pytest.mark.parametrize('name', AVOIDING)
def test_the_straight_way_is_blocked_and_the_ends_are_clear(
    arm: Arm, sim_config: SimConfig, guard_config: GuardConfig, name: str
) -> None:
    task = load_task(name, arm, sim_config)
    for seed in range(50_000, 50_020):
        scene = task.sample(seed)
        tip = arm.tip_position(scene.joints)
        start, goal, margin = tip, scene.goal, PEG_RADIUS
        if task.subject == 'object':
            start, goal = scene.object_position, scene.goal[:2]
            margin = sim_config.object_size / 2.0
        assert is_blocked(start, goal, scene.obstacles, margin)
        shapes = CollisionModel(arm, scene.obstacles)
        for joints in (scene.joints, scene.goal_joints):
            apart = shapes.evaluate(joints).distances[shapes.is_obstacle].min()
            assert apart > 2 * guard_config.obstacle_clearance
        assert obstacle_distance(scene.object_position, scene.obstacles) > 0.08
        length = float(np.linalg.norm(goal - start))
        assert task.config.distance_min - 1e-3 < length < task.config.distance_max + 1e-3


@pytest.mark.parametrize('name', AVOIDING)
def test_same_seed_gives_the_same_obstacle(arm: Arm, sim_config: SimConfig, name: str) -> None:
    first, again, other = (load_task(name, arm, sim_config).sample(s) for s in (1, 1, 2))
    assert first.obstacles == again.obstacles != other.obstacles
    np.testing.assert_array_equal(first.goal, again.goal)


@pytest.mark.parametrize('name', AVOIDING)
def test_the_scripted_policy_gets_round_obstacles_without_touching_them(
    arm_config: ArmConfig, sim_config: SimConfig, guard_config: GuardConfig, name: str
) -> None:
    evaluator = EpisodeRunner(SimulationSetup(arm_config, sim_config, guard_config), name)
    results = [evaluator.run_policy('scripted', seed) for seed in range(50_000, 50_003)]
    assert all(r.success and not r.touched for r in results)
    assert [o.name for o in evaluator.guard.config.obstacles] == ['obstacle']
    results[0].touched = True
    report = summarise(results, evaluator.task, 'scripted', 0)
    assert report['untouched_rate'] == pytest.approx(2 / 3) and report['success_rate'] == 1.0
    evaluator.world.close()


def test_the_guard_of_a_scene_knows_its_and_the_declared_obstacles(
    arm_config: ArmConfig, sim_config: SimConfig, guard_config: GuardConfig
) -> None:
    declared = replace(guard_config, obstacles=(replace(BALL, xyz=(0.45, 0.6, 0.04)),))
    evaluator = EpisodeRunner(SimulationSetup(arm_config, sim_config, declared), 'avoid_reach')
    first = evaluator.prepare(50_000)
    assert [o.name for o in first.obstacles] == ['ball', 'obstacle']
    assert evaluator.guard.config.obstacles == first.obstacles
    second = evaluator.prepare(50_001)
    assert evaluator.guard.config.obstacles == second.obstacles != first.obstacles
    evaluator.world.close()
