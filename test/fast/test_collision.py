"""Collision distances, bounds and swept paths, against brute-force computations."""

import dataclasses

import numpy as np
import pytest

from guard_loop import ANYWHERE, ARM, ARM_CONFIG, CONFIG
from jepa_arm.config import ObstacleConfig
from jepa_arm.guard.path_checker import PathChecker
from jepa_arm.robot.arm import Arm, ArmError
from jepa_arm.robot.collision import CollisionModel

BOX = ObstacleConfig('box', 'box', (0.2, 0.1, 0.3), (0.45, 0.3, 0.3), (0.3, -0.2, 0.5))
BALL = ObstacleConfig('ball', 'sphere', (0.1,), (0.3, -0.4, 0.5))
FREE = dataclasses.replace(CONFIG, obstacles=(BOX, BALL))


def random_joints(rng, scale=1.0):
    return np.clip(ARM.home + scale * rng.normal(size=7), ARM.lower, ARM.upper)


def test_cylinders_with_spheres_become_capsules():
    collisions = CollisionModel(ARM)
    links = {name for pair in collisions.names for name in pair}
    assert len(collisions.names) < 50 and {'panda_link0', 'panda_link7', 'pusher'} <= links


def test_shape_poses_match_the_hull_points(each_arm):
    collisions, q = CollisionModel(each_arm), each_arm.home + 0.1
    points, poses = collisions.points(q), collisions.shape_poses(q)
    capsules = [
        (s, pose) for s, pose in zip(collisions.shapes, poses, strict=True) if s.ball > 0.0
    ]
    assert len(capsules) >= 9
    for shape, pose in capsules:
        for z in (-shape.half[2], shape.half[2]):
            end = pose[:3, 3] + z * pose[:3, 2]
            assert np.linalg.norm(points - end, axis=1).min() < 1e-9, shape.name


def test_points_and_distances_stay_within_their_bounds():
    rng = np.random.default_rng(0)
    collisions = CollisionModel(ANYWHERE, (BOX, BALL))
    for _ in range(20):
        begin = random_joints(rng)
        motion = 0.3 * rng.normal(size=7)
        a, b = collisions.evaluate(begin), collisions.evaluate(begin + motion)
        bend = collisions.curvature_bound(motion)
        assert np.all(
            np.abs(b.distances - a.distances) <= collisions.approach_bound(motion) + 1e-5
        )
        for share in (0.25, 0.5, 0.75):
            point = collisions.points(begin + share * motion)
            chord = a.points + share * (b.points - a.points)
            assert np.all(np.linalg.norm(point - chord, axis=1) <= bend / 8.0 + 1e-9)
            assert (
                collisions.min_ground_clearance(point)
                <= collisions.ground_clearance(collisions.evaluate(begin + share * motion)) + 1e-9
            )


def test_swept_path_checks_agree_with_dense_sampling():
    """Accepted paths keep the margins up to half a check step; refused paths violate them."""
    rng = np.random.default_rng(1)
    checker = PathChecker(ANYWHERE, FREE)
    outcomes = {True: 0, False: 0}
    for _ in range(40):
        path = [random_joints(rng, 0.6)]
        path.append(path[0] + 0.4 * rng.normal(size=7))
        limits = checker.limits_from(checker.collision_model.evaluate(path[0]))
        samples = [
            checker.collision_model.evaluate(path[0] + s * (path[1] - path[0]))
            for s in np.linspace(0, 1, 150)
        ]
        slack = min(
            min(float((p.distances - limits.min_distances).min()) for p in samples),
            min(limits.max_outside - checker.distance_outside(p.tip) for p in samples),
            min(checker.collision_model.ground_clearance(p) - limits.min_height for p in samples),
        )
        fault = checker.first_violation(path)
        outcomes[fault is None] += 1
        assert slack > -CONFIG.collision_check_step if fault is None else slack < 0.005
        if checker.is_proven_clear(samples[0], np.array(path[1:]), limits):
            assert fault is None and slack > -1e-6
    assert min(outcomes.values()) >= 5


def test_the_first_violation_names_segment_and_pair():
    path = [ARM.home, ARM.home + 0.01, ARM.home.copy()]
    path[2] = path[2] + [0, 0, 0, 0, 0, 0, 0.1]
    assert PathChecker(ANYWHERE, FREE).first_violation(path) is None
    folded = ARM.home.copy()
    folded[1], folded[3], folded[5] = 0.5, -3.0, 0.0
    checker = PathChecker(ANYWHERE, dataclasses.replace(FREE, workspace_margin=9.0))
    index, fault = checker.first_violation([*path, folded]) or (-1, '')
    assert index == 2 and fault.startswith(('self_collision: ', 'table: ', 'obstacle: '))


def test_a_base_link_moved_by_the_joints_is_refused():
    with pytest.raises(ArmError, match='base_link panda_link3'):
        CollisionModel(Arm(dataclasses.replace(ARM_CONFIG, base_link='panda_link3')))


@pytest.mark.parametrize(
    ('key', 'wide', 'tight'),
    [('position_min', -3.0, -2.0), ('position_max', 3.0, 2.0), ('velocity_max', 2.2, 1.0)],
)
def test_a_configuration_may_tighten_a_limit_of_the_urdf_but_not_widen_it(key, wide, tight):
    urdf = {
        'position_min': ARM.lower,
        'position_max': ARM.upper,
        'velocity_max': ARM.max_velocity,
    }[key]
    limit = np.array(urdf)
    limit[0] = wide
    with pytest.raises(ArmError, match=f'panda_joint1: {wide} is wider .*{urdf[0]}'):
        Arm(dataclasses.replace(ARM_CONFIG, **{key: tuple(limit)}))
    limit[0] = tight
    arm = Arm(dataclasses.replace(ARM_CONFIG, **{key: tuple(limit)}))
    got = {'position_min': arm.lower, 'position_max': arm.upper, 'velocity_max': arm.max_velocity}[
        key
    ]
    np.testing.assert_array_equal(got, limit)
    assert arm.velocity_limit[0] == pytest.approx(arm.max_velocity[0] * ARM_CONFIG.velocity_scale)


SLIDER = """<robot name="slider">
  <link name="base"><collision><geometry><box size="0.1 0.1 0.1"/></geometry></collision></link>
  <joint name="slide" type="prismatic"><parent link="base"/><child link="cart"/>
    <origin xyz="0 0 0.3"/><axis xyz="1 0 0"/>
    <limit lower="-0.5" upper="0.5" velocity="1" effort="1"/></joint>
  <link name="cart"><collision><geometry><box size="0.1 0.2 0.1"/></geometry></collision></link>
  <joint name="turn" type="revolute"><parent link="cart"/><child link="pole"/>
    <origin xyz="0 0 0.1"/><axis xyz="0 1 0"/>
    <limit lower="-3" upper="3" velocity="1" effort="1"/></joint>
  <link name="pole"><collision><origin xyz="0 0 0.2"/>
    <geometry><cylinder radius="0.02" length="0.4"/></geometry></collision></link>
</robot>"""


def make_slider(tmp_path, **changes):
    path = tmp_path / 'slider.urdf'
    path.write_text(SLIDER)
    two = {'joints': ('slide', 'turn'), 'home': (0.1, 0.0)}
    limits = {'acceleration': (1.0, 1.0), 'jerk': (10.0, 10.0)}
    links = {'base_link': 'base', 'tip_link': 'pole', 'urdf': str(path)}
    return Arm(dataclasses.replace(ARM_CONFIG, **two, **limits, **links, **changes))


def test_bounds_hold_for_a_prismatic_joint(tmp_path):
    collisions, rng = CollisionModel(make_slider(tmp_path)), np.random.default_rng(0)
    for _ in range(20):
        begin, motion = rng.uniform(-0.4, 0.4, 2), rng.uniform(-0.1, 0.1, 2)
        a, b = collisions.evaluate(begin), collisions.evaluate(begin + motion)
        assert np.all(
            np.abs(b.distances - a.distances) <= collisions.approach_bound(motion) + 1e-5
        )
        middle = collisions.points(begin + motion / 2.0)
        sag = np.linalg.norm(middle - (a.points + b.points) / 2.0, axis=1)
        assert np.all(sag <= collisions.curvature_bound(motion) / 8.0 + 1e-9)


def test_ground_clearance_of_a_tilted_cylinder_is_that_of_its_rim(tmp_path):
    collisions, lean = CollisionModel(make_slider(tmp_path)), 2.2
    centre = 0.4 + 0.2 * np.cos(lean)
    lowest = centre - 0.2 * abs(np.cos(lean)) - 0.02 * np.sin(lean)
    assert collisions.ground_clearance(
        collisions.evaluate(np.array([0.1, lean]))
    ) == pytest.approx(lowest)


def test_obstacle_distance_is_that_of_the_nearest_obstacle(tmp_path):
    far, near = (
        ObstacleConfig(name, 'sphere', (0.05,), (x, 0.0, 0.5))
        for name, x in (('far', 0.9), ('near', 0.4))
    )
    collisions = CollisionModel(make_slider(tmp_path), (far, near))
    upright = np.array([0.1, 0.0])  # the pole's radius is 0.02
    assert collisions.obstacle_distance(upright) == pytest.approx(
        0.4 - 0.1 - 0.02 - 0.05, abs=1e-6
    )
    assert collisions.obstacle_distance(upright + [0.25, 0.0]) == pytest.approx(-0.02, abs=1e-6)
    assert CollisionModel(make_slider(tmp_path)).obstacle_distance(upright) == np.inf


def test_allowed_contacts_are_not_self_collisions(tmp_path):
    strict = CollisionModel(make_slider(tmp_path))
    assert strict.names == [('base', 'pole')]
    hanging = np.array([0.0, 3.0])
    assert strict.self_collision(hanging) == ('base', 'pole')
    lenient = CollisionModel(make_slider(tmp_path, allowed_contacts=(('pole', 'base'),)))
    assert lenient.names == [] and lenient.self_collision(hanging) is None
