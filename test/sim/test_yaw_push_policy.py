"""Pushes to a position and a yaw: scenes, success and the scripted policy."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from jepa_arm.config import ArmConfig, GuardConfig, SimConfig
from jepa_arm.evaluation.episode_runner import EpisodeRunner, SimulationSetup
from jepa_arm.evaluation.report import format_report, summarise
from jepa_arm.robot.arm import Arm
from jepa_arm.sim.bullet import BulletWorld
from jepa_arm.sim.scene import Scene, WorldState
from jepa_arm.sim.tasks import EVALUATION_SEED, Task, load_task
from jepa_arm.sim.yaw_push_policy import PUSH_STEP, pose_cost, pose_in_frame, predict_pushes

SEED = EVALUATION_SEED + 70_000


@pytest.fixture(scope='module')
def evaluator(
    arm_config: ArmConfig, sim_config: SimConfig, guard_config: GuardConfig
) -> Iterator[EpisodeRunner]:
    evaluator = EpisodeRunner(SimulationSetup(arm_config, sim_config, guard_config), 'push_yaw')
    yield evaluator
    evaluator.world.close()


@pytest.fixture
def task(arm: Arm, sim_config: SimConfig) -> Task:
    return load_task('push_yaw', arm, sim_config)


@pytest.mark.parametrize(
    ('name', 'place', 'yaw', 'goal'),
    [
        (
            'reach',
            (0.382268783457, -0.105275797362),
            -0.435877002864,
            (0.360700787562, 0.126671661761, 0.025334803652),
        ),
        (
            'push',
            (0.382268783457, -0.105275797362),
            1.494378890606,
            (0.401532117806, 0.093830860564, 0.025000000000),
        ),
        (
            'push_long',
            (0.551837824696, 0.182506901934),
            -2.950923064113,
            (0.613099671439, -0.080639510793, 0.025000000000),
        ),
        (
            'avoid_reach',
            (0.415605417580, 0.143456772866),
            -1.896581284391,
            (0.666787939918, 0.112398176171, 0.065216496566),
        ),
        (
            'avoid_push',
            (0.407134080035, 0.051698150898),
            -1.213890301397,
            (0.484946919356, -0.198416413395, 0.025000000000),
        ),
    ],
)
def test_scenes_of_tasks_without_a_yaw_are_reproduced(
    arm: Arm,
    sim_config: SimConfig,
    name: str,
    place: tuple[float, ...],
    yaw: float,
    goal: tuple[float, ...],
) -> None:
    scene = load_task(name, arm, sim_config).sample(3)
    assert scene.goal_yaw is None
    np.testing.assert_allclose(scene.object_position, place, atol=1e-9)
    np.testing.assert_allclose(scene.goal, goal, atol=1e-9)
    assert scene.object_yaw == pytest.approx(yaw, abs=1e-9)


def test_the_goal_yaw_is_drawn_last(arm: Arm, sim_config: SimConfig, task: Task) -> None:
    without = Task(replace(task.config, yaw_tolerance_deg=None), arm, sim_config)
    for seed in range(5):
        scene, plain = task.sample(seed), without.sample(seed)
        assert scene.goal_yaw is not None and plain.goal_yaw is None
        assert fingerprint(replace(scene, goal_yaw=None)) == fingerprint(plain)
    yaws = [task.sample(seed).goal_yaw for seed in range(20)]
    assert yaws[3] == task.sample(3).goal_yaw and len(set(yaws)) == 20


def fingerprint(scene: Scene) -> str:
    values = [scene.joints, scene.object_position, scene.object_rgb, scene.goal, scene.goal_joints]
    data = b''.join(np.asarray(v).tobytes() for v in [*values, scene.object_yaw])
    return hashlib.sha256(data).hexdigest()


def test_the_goal_image_shows_the_yaw_of_the_goal(world: BulletWorld, task: Task) -> None:
    scene = replace(task.sample(5), goal_yaw=0.7)
    shown = world.render_goal(scene, 'object').image
    assert world.state().object_yaw == pytest.approx(0.7, abs=1e-6)
    as_it_was = world.render_goal(replace(scene, goal_yaw=scene.object_yaw), 'object').image
    np.testing.assert_array_equal(
        as_it_was, world.render_goal(replace(scene, goal_yaw=None), 'object').image
    )
    assert np.abs(shown.astype(int) - as_it_was).max() > 40


@pytest.mark.parametrize(
    ('off_cm', 'off_deg', 'is_reached'),
    [(0.0, 0.0, True), (1.9, 9.5, True), (0.0, 180.0, True), (0.0, 10.5, False),
     (0.0, 45.0, False), (2.1, 0.0, False)],
)  # fmt: skip
def test_position_and_yaw_must_both_be_reached(
    world: BulletWorld, task: Task, off_cm: float, off_deg: float, is_reached: bool
) -> None:
    scene = task.sample(6)
    assert scene.goal_yaw is not None
    world.reset(scene)
    world.move_object(scene.goal[:2] + (off_cm / 100.0, 0.0), scene.goal_yaw + np.radians(off_deg))
    assert task.is_reached(world.state(), scene) == is_reached


def test_a_push_without_a_yaw_is_reached_at_any_yaw(
    world: BulletWorld, arm: Arm, sim_config: SimConfig
) -> None:
    task = load_task('push', arm, sim_config)
    scene = task.sample(6)
    world.reset(scene)
    world.move_object(scene.goal[:2], scene.object_yaw + 0.7)
    assert task.is_reached(world.state(), scene)
    assert np.isnan(task.yaw_error(world.state(), scene))


class Waiting:
    """Does nothing."""

    def act(self, state: WorldState, target: np.ndarray) -> np.ndarray:
        return np.zeros(3)


@pytest.mark.parametrize('off_deg', [5.0, 30.0])
def test_a_cube_at_the_goal_position_counts_only_with_its_yaw(
    evaluator: EpisodeRunner, monkeypatch: pytest.MonkeyPatch, off_deg: float
) -> None:
    """Both are judged by the evaluator at every control step, and held."""
    scene = evaluator.prepare(SEED)
    place = scene.goal[:2] + (0.01, 0.0)
    there = replace(scene, object_position=place, goal_yaw=scene.object_yaw + np.radians(off_deg))
    monkeypatch.setattr(evaluator, 'prepare', lambda seed: there)
    monkeypatch.setattr(evaluator, '_scripted', lambda scene: Waiting())
    short = replace(evaluator.task.config, time_limit=1.0)
    monkeypatch.setattr(evaluator.task, 'config', short)
    result = evaluator.run_policy('scripted', SEED)
    assert result.success == (off_deg < 10.0)
    assert np.degrees(result.yaw_errors[-1]) == pytest.approx(off_deg, abs=0.5)
    report = summarise([result], evaluator.task, 'scripted', 70_000)
    assert report['yaw_error_deg']['p50'] == pytest.approx(off_deg, abs=0.5)
    assert '2 cm and 10 degrees' in format_report(report)


def test_reports_of_other_tasks_have_no_yaw(
    evaluator: EpisodeRunner, arm: Arm, sim_config: SimConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluator, 'task', load_task('push', arm, sim_config))
    result = evaluator.run_policy('scripted', SEED)
    assert np.isnan(result.yaw_errors[-1])
    report = summarise([result], evaluator.task, 'scripted', 70_000)
    assert report['yaw_error_deg'] is None
    assert 'degrees' not in format_report(report)


@pytest.mark.parametrize('seed', [SEED + 1, SEED + 19, SEED + 87])
def test_the_scripted_policy_solves_scenes(evaluator: EpisodeRunner, seed: int) -> None:
    result = evaluator.run_policy('scripted', seed)
    assert result.success and result.time_s < 15.0
    assert result.limit_violations == 0
    assert result.distance <= 0.02 and np.degrees(result.yaw_errors[-1]) <= 10.0


def test_predicted_pushes_turn_the_cube_away_from_the_contact() -> None:
    poses, sticks = predict_pushes(np.array([-0.012, 0.0, 0.012]), np.zeros(3))
    assert sticks[:, :20].all()
    assert poses[0, 19, 2] > 0.2 > abs(poses[1, 19, 2]) and poses[2, 19, 2] < -0.2
    np.testing.assert_allclose(poses[1, :, 0], PUSH_STEP * np.arange(1, poses.shape[1] + 1))
    np.testing.assert_allclose(poses[0] * (1, -1, -1), poses[2], atol=1e-12)


def test_the_pose_cost_does_not_depend_on_the_frame() -> None:
    poses = np.random.default_rng(0).uniform(-1.0, 1.0, (9, 3))
    goal = np.array([0.2, -0.1, 2.0])
    seen = np.array([pose_cost(np.zeros(3), each) for each in pose_in_frame(poses, goal)])
    np.testing.assert_allclose(seen, pose_cost(poses, goal), atol=1e-9)
