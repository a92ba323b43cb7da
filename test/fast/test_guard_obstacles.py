"""The guard and obstacles: kept clear of along the whole path, and approached slowly."""

import dataclasses

import numpy as np
import pytest

from guard_loop import (
    ANYWHERE,
    ARM,
    CONFIG,
    DT,
    Loop,
    assert_within_limits,
    with_value,
    without_path_check,
)
from jepa_arm.config import ConfigError, GuardConfig, ObstacleConfig, from_dict, to_dict
from jepa_arm.core.types import GuardState
from jepa_arm.robot.collision import CollisionModel

TIP = ANYWHERE.tip_position(ARM.home)
ANGLE = 0.8
REACH = float(np.hypot(TIP[0], TIP[1]))
SIDE = (REACH * np.cos(ANGLE / 2), REACH * np.sin(ANGLE / 2), TIP[2] + 0.05)
"""Where the peg is half-way from home to joint 1 turned by ``ANGLE``."""
BALL = ObstacleConfig('ball', 'sphere', (0.02,), SIDE)
WALL = ObstacleConfig('wall', 'box', (0.3, 0.002, 0.3), SIDE, (0.0, 0.0, ANGLE / 2))
POST = ObstacleConfig('post', 'capsule', (0.01, 0.3), SIDE)


def with_obstacles(*obstacles, **changes):
    return dataclasses.replace(CONFIG, obstacles=obstacles, max_joint_step=2.0, **changes)


def turned(loop, angle=ANGLE, joint=0):
    end = ARM.home.copy()
    end[joint] += angle
    return loop.proposal(positions=end[None], times=np.array([0.1]))


@pytest.mark.parametrize('obstacle', [BALL, WALL, POST], ids=lambda o: o.shape)
def test_a_path_through_an_obstacle_is_rejected_with_its_name(obstacle):
    free = Loop(ANYWHERE, config=with_obstacles())
    assert free.submit(turned(free)).reasons == ()
    loop = Loop(ANYWHERE, config=with_obstacles(obstacle))
    assert loop.submit(turned(loop, -ANGLE)).reasons == ()
    loop = Loop(ANYWHERE, config=with_obstacles(obstacle))
    (reason,) = loop.submit(turned(loop)).reasons
    assert reason.startswith('obstacle: ')
    assert reason.endswith(f' and {obstacle.name} before waypoint 0')


def test_a_wall_is_where_its_rpy_puts_it():
    """Along the way the same wall does not block it."""
    along = dataclasses.replace(
        WALL, xyz=(0.0, 0.0, 0.05), size=(2.0, 0.002, 0.3), rpy=(0, 0, -ANGLE)
    )
    across = dataclasses.replace(along, rpy=(0, 0, ANGLE / 2))
    for wall, is_refused in ((along, False), (across, True)):
        wall = dataclasses.replace(
            wall, xyz=(1.3 * np.cos(wall.rpy[2]), 1.3 * np.sin(wall.rpy[2]), 0.3)
        )
        loop = Loop(ANYWHERE, config=with_obstacles(wall))
        assert bool(loop.submit(turned(loop)).reasons) == is_refused


def drive_at(loop, ticks=300):
    """Propose the whole turn again and again, without a path check."""
    scales = []
    for _ in range(ticks // 10):
        with without_path_check():
            loop.submit(turned(loop))
        for _ in range(10):
            loop.tick()
            scales.append(loop.guard.proximity_scale)
    return scales


def obstacle_distances(loop):
    scene = CollisionModel(ANYWHERE, loop.guard.config.obstacles)
    return np.array(
        [scene.evaluate(c.position).distances[scene.is_obstacle].min() for c in loop.commands]
    )


@pytest.mark.parametrize('slowdown_time', [0.001, CONFIG.slowdown_time])
def test_the_command_stream_alone_keeps_the_clearance(
    slowdown_time,
):
    loop = Loop(ANYWHERE, config=with_obstacles(BALL, slowdown_time=slowdown_time))
    drive_at(loop, 120)
    assert any(r.startswith('obstacle: ') and r.endswith('on the way') for r in loop.guard.reasons)
    distances = obstacle_distances(loop)
    assert distances.min() >= CONFIG.obstacle_clearance - 1e-5
    assert distances.min() < CONFIG.obstacle_clearance + 0.05
    assert_within_limits(loop.commands)


def test_the_arm_slows_down_near_an_obstacle():
    loop = Loop(ANYWHERE, config=with_obstacles(BALL))
    scales = drive_at(loop, 120)
    assert min(scales) < 0.5 and max(scales) == 1.0
    distances = obstacle_distances(loop)
    closing = -np.diff(distances) / DT
    is_fast = closing > 0.06  # slower than that, the arm is at its least speed
    time_left = (distances[:-1] - CONFIG.obstacle_clearance)[is_fast] / closing[is_fast]
    assert time_left.min() > 0.25 * CONFIG.slowdown_time
    free = Loop(ANYWHERE, config=with_obstacles())
    assert set(drive_at(free, 30)) == {1.0}


def test_moving_away_from_an_obstacle_is_not_slowed():
    near = dataclasses.replace(BALL, xyz=(TIP[0], TIP[1] + 0.05, TIP[2] + 0.05))
    loop = Loop(ANYWHERE, config=with_obstacles(near))
    assert loop.submit(turned(loop, -ANGLE)).reasons == ()
    loop.tick(5)
    assert loop.guard.proximity_scale == 1.0
    assert loop.submit(turned(loop, 0.05)).reasons[0].startswith('obstacle: ')


def test_an_arm_too_near_an_obstacle_may_move_away_but_not_nearer():
    near = dataclasses.replace(BALL, xyz=(TIP[0], TIP[1] + 0.037, TIP[2] + 0.05))
    for angle, is_refused in ((-0.2, False), (0.02, True)):
        loop = Loop(ANYWHERE, config=with_obstacles(near))
        assert bool(loop.submit(turned(loop, angle)).reasons) == is_refused
        loop.tick(10)
        expected = GuardState.HOLDING if is_refused else GuardState.FOLLOWING
        assert loop.guard.state is expected


def test_a_joint_limit_is_approached_slowly_and_never_passed():
    joints = ARM.home.copy()
    joints[6] = ARM.upper[6] - 0.6
    loop = Loop(ANYWHERE, joints, with_obstacles())
    for _ in range(20):
        end = with_value(loop.guard.command.position, 6, ARM.upper[6])
        loop.submit(loop.proposal(positions=end[None], times=np.array([0.1])))
        loop.tick(10)
    position, velocity = (
        np.array([getattr(c, key)[6] for c in loop.commands]) for key in ('position', 'velocity')
    )
    fast = velocity > 0.1 * ARM.velocity_limit[6]
    time_left = (ARM.upper[6] - position[fast]) / velocity[fast]
    assert velocity.max() > 0.9 * ARM.velocity_limit[6]
    assert time_left.min() > 0.3 * CONFIG.slowdown_time
    assert position[-1] == pytest.approx(ARM.upper[6], abs=1e-3)
    assert_within_limits(loop.commands)


PLACE = tuple(float(x) for x in SIDE)
GOOD = to_dict(dataclasses.replace(POST, xyz=PLACE))
BAD_OBSTACLES = {
    'unknown shape': {'shape': 'cone'},
    'no name': {'name': ''},
    'too few sizes': {'size': [0.1]},
    'zero size': {'size': [0.1, 0.0]},
    'infinite size': {'size': [float('inf'), 0.1]},
    'NaN size': {'size': [float('nan'), 0.1]},
    'NaN place': {'xyz': [0.0, float('nan'), 0.0]},
    'infinite turn': {'rpy': [0.0, float('inf'), 0.0]},
    'unknown key': {'colour': 'red'},
    'text': {'xyz': 'here'},
}


@pytest.mark.parametrize('change', BAD_OBSTACLES.values(), ids=BAD_OBSTACLES.keys())
def test_an_invalid_obstacle_is_refused(change):
    values = {**to_dict(CONFIG), 'obstacles': [GOOD]}
    assert from_dict(GuardConfig, values).obstacles == (POST,)
    with pytest.raises(ConfigError):
        from_dict(GuardConfig, {**values, 'obstacles': [{**GOOD, **change}]})
    with pytest.raises(ConfigError, match='unique names'):
        from_dict(GuardConfig, {**values, 'obstacles': [GOOD, GOOD]})
