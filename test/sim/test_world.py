"""The virtual arm: same seed, same world; observations as the configuration says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jepa_arm.config import ConfigError, SimConfig
from jepa_arm.robot.action_space import TipMotion
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.camera import intrinsics, optical_pose, project
from jepa_arm.robot.trajectory import JointStreamer
from jepa_arm.sim.bullet import BulletWorld
from jepa_arm.sim.policies import ScriptedPush
from jepa_arm.sim.tasks import Task, load_task

TASKS = ('reach', 'push')


def run(world: BulletWorld, task: Task, seed: int, steps: int) -> np.ndarray:
    """Joints and object along a scripted push, with the last image's sum."""
    scene = task.sample(seed)
    state = world.reset(scene)
    motion, streamer = TipMotion(world.arm), JointStreamer(world.arm, 0.01)
    motion.reset(scene.joints)
    streamer.reset(scene.joints)
    policy = ScriptedPush(np.array([0.5, 0.0]))
    rows = []
    for _ in range(steps):
        target = motion.apply(policy.act(state, motion.target))
        for _ in range(10):
            command = streamer.step(target)
            world.command(command.position, command.velocity)
            world.step()
        state = world.state()
        rows.append(np.concatenate([state.joints, state.object_position]))
    return np.append(np.concatenate(rows), float(world.image().sum()))


@pytest.mark.parametrize('name', TASKS)
def test_same_seed_gives_the_same_trajectory(
    world: BulletWorld, arm: Arm, sim_config: SimConfig, name: str
) -> None:
    task = load_task(name, arm, sim_config)
    first = run(world, task, 3, 12)
    run(world, task, 4, 3)
    np.testing.assert_array_equal(run(world, task, 3, 12), first)
    other = BulletWorld(arm, sim_config)
    np.testing.assert_array_equal(run(other, task, 3, 12), first)
    other.close()


def test_the_arm_follows_its_commands_in_free_motion(
    world: BulletWorld, arm: Arm, sim_config: SimConfig
) -> None:
    """A first link that touched the table for ever let the wrist give way by half a degree."""
    scene = load_task('push', arm, sim_config).sample(3)
    world.reset(scene)
    motion, streamer = TipMotion(arm), JointStreamer(arm, 0.01)
    motion.reset(scene.joints)
    streamer.reset(scene.joints)
    lag = []
    for step in range(15):
        target = motion.apply(np.array([-0.3, 0.4, 0.3 if step < 8 else 0.0]))
        for _ in range(10):
            command = streamer.step(target)
            world.command(command.position, command.velocity)
            world.step()
            lag.append(np.abs(world.joints()[0] - command.position))
    assert np.linalg.norm(world.state().tip_position - arm.tip_position(scene.joints)) > 0.1
    assert np.max(lag) < 0.01 and np.max(lag, axis=0)[4:].max() < 0.005


def test_a_servo_that_catches_up_keeps_the_velocity_limits(
    world: BulletWorld, arm: Arm, sim_config: SimConfig
) -> None:
    target = world.reset(load_task('reach', arm, sim_config).sample(3)).joints
    target[0] += 0.2
    fastest = 0.0
    for _ in range(50):
        world.command(target, np.zeros_like(target))
        world.step()
        fastest = max(fastest, np.abs(world.joints()[1] / arm.max_velocity).max())
    assert 0.5 < fastest < 1.02  # the solver of the physics is not exact
    np.testing.assert_allclose(world.joints()[0], target, atol=0.01)


def test_resets_leak_no_memory(world: BulletWorld, arm: Arm, sim_config: SimConfig) -> None:
    """PyBullet's resetSimulation kept 11 kB of every world for ever."""
    scene = load_task('push', arm, sim_config).sample(0)
    for _ in range(20):
        world.reset(scene)
    before = resident_kb()
    for _ in range(60):
        world.reset(scene)
    assert resident_kb() - before < 300


def resident_kb() -> int:
    fields = Path('/proc/self/status').read_text().splitlines()
    return int(next(line for line in fields if line.startswith('VmRSS')).split()[1])


@pytest.mark.parametrize('name', TASKS)
def test_scenes_differ_and_are_never_solved_at_the_start(
    world: BulletWorld, arm: Arm, sim_config: SimConfig, name: str
) -> None:
    task = load_task(name, arm, sim_config)
    goals = []
    for seed in range(30):
        scene = task.sample(seed)
        distance = task.distance(world.reset(scene), scene)
        assert distance >= 2 * task.config.tolerance
        assert task.config.distance_min - 2e-3 <= distance <= task.config.distance_max + 2e-3
        goals.append(scene.goal)
    assert len(np.unique(np.round(goals, 6), axis=0)) == 30


def test_observation_matches_its_camera_and_shares_no_memory(world: BulletWorld, arm: Arm) -> None:
    first, second = world.observe(), world.observe()
    camera = arm.config.camera
    assert first.image.shape == (camera.height, camera.width, 3)
    assert first.image.dtype == np.uint8
    assert not np.shares_memory(first.image, second.image)
    assert first.image.std() > 5.0


def test_the_object_appears_where_the_camera_model_says(
    world: BulletWorld, arm: Arm, sim_config: SimConfig
) -> None:
    scene = load_task('push', arm, sim_config).sample(0)
    world.reset(scene)
    for place in ([0.40, -0.15], [0.60, 0.15], [0.5, 0.0]):
        world.move_object(np.array(place), 0.3)
        world.set_object_colour(np.array([1.0, 0.0, 0.0]))
        with_red = world.image().astype(int)
        world.set_object_colour(np.array([0.0, 0.0, 1.0]))
        rows, columns = np.nonzero(np.abs(with_red - world.image()).sum(2) > 40)
        if len(rows) < 10:  # hidden by the arm in this scene
            continue
        expected = project(arm.config.camera, np.array([[*place, 0.025]]))[0]
        np.testing.assert_allclose([columns.mean() + 0.5, rows.mean() + 0.5], expected, atol=1.5)


def test_camera_pose_is_a_rotation_that_looks_at_its_target(arm: Arm) -> None:
    camera = arm.config.camera
    pose = optical_pose(camera)
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1.0)
    centre = project(camera, np.array([camera.look_at]))[0]
    np.testing.assert_allclose(centre, [camera.width / 2, camera.height / 2], atol=1e-6)
    assert intrinsics(camera)[0, 0] > 0


def test_goal_image_shows_the_object_at_the_goal(
    world: BulletWorld, arm: Arm, sim_config: SimConfig
) -> None:
    scene = load_task('push', arm, sim_config).sample(5)
    shown = world.render_goal(scene, 'object')
    np.testing.assert_allclose(world.state().object_position[:2], scene.goal[:2], atol=1e-6)
    np.testing.assert_allclose(shown.joints, scene.goal_joints, atol=1e-6)


def test_an_unknown_task_is_refused_with_the_known_ones(arm: Arm, sim_config: SimConfig) -> None:
    with pytest.raises((ConfigError, FileNotFoundError), match=r'push\.yaml'):
        load_task('juggle', arm, sim_config)


def test_a_tolerance_that_would_solve_starts_is_refused(arm: Arm, sim_config: SimConfig) -> None:
    with pytest.raises(ConfigError, match='twice the tolerance'):
        load_task('push', arm, sim_config, tolerance=0.05)


def test_pushes_longer_than_the_object_region_are_refused(arm: Arm, sim_config: SimConfig) -> None:
    """No scene has them: they would be looked for for ever."""
    config = load_task('push_long', arm, sim_config).config
    with pytest.raises(ConfigError, match='distance_min: expected less than the 0.48 m'):
        Task(replace(config, distance_min=0.5, distance_max=0.6), arm, sim_config)
