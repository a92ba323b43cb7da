"""Distances, bounds and swept paths, against slow and plain computations."""

import dataclasses

import numpy as np
import pytest

from guard_loop import ANYWHERE, ARM, ARM_CONFIG, CONFIG
from jepa_arm.arm import Arm, ArmError
from jepa_arm.collision import Scene
from jepa_arm.config import ObstacleConfig
from jepa_arm.sweep import Sweep

BOX = ObstacleConfig('box', 'box', (0.2, 0.1, 0.3), (0.45, 0.3, 0.3), (0.3, -0.2, 0.5))
BALL = ObstacleConfig('ball', 'sphere', (0.1,), (0.3, -0.4, 0.5))
FREE = dataclasses.replace(CONFIG, obstacles=(BOX, BALL))


def random_joints(rng, scale=1.0):
    return np.clip(ARM.home + scale * rng.normal(size=7), ARM.lower, ARM.upper)


def test_the_pandas_cylinders_and_balls_are_made_capsules():
    scene = Scene(ARM)
    links = {name for pair in scene.names for name in pair}
    assert len(scene.names) < 50 and {'panda_link0', 'panda_link7', 'pusher'} <= links


def test_shapes_are_placed_where_the_arm_has_them(each_arm):
    scene, q = Scene(each_arm), each_arm.home + 0.1
    points, poses = scene.points(q), scene.placements(q)
    capsules = [(s, pose) for s, pose in zip(scene.shapes, poses, strict=True) if s.ball > 0.0]
    assert len(capsules) >= 9
    for shape, pose in capsules:
        for z in (-shape.half[2], shape.half[2]):
            end = pose[:3, 3] + z * pose[:3, 2]
            assert np.linalg.norm(points - end, axis=1).min() < 1e-9, shape.name


def test_no_point_and_no_distance_changes_by_more_than_its_bound():
    rng = np.random.default_rng(0)
    scene = Scene(ANYWHERE, (BOX, BALL))
    for _ in range(20):
        begin = random_joints(rng)
        motion = 0.3 * rng.normal(size=7)
        a, b = scene.at(begin), scene.at(begin + motion)
        bend = scene.curvature(motion)
        assert np.all(np.abs(b.distances - a.distances) <= scene.closing(motion) + 1e-5)
        for share in (0.25, 0.5, 0.75):
            point = scene.points(begin + share * motion)
            chord = a.points + share * (b.points - a.points)
            assert np.all(np.linalg.norm(point - chord, axis=1) <= bend / 8.0 + 1e-9)
            assert (
                scene.lowest(point)
                <= scene.clearance_below(scene.at(begin + share * motion)) + 1e-9
            )


def test_a_swept_path_is_judged_as_by_many_samples():
    """Clear: nothing nearer than half a check's step allows. Refused: it truly comes too near."""
    rng = np.random.default_rng(1)
    sweep = Sweep(ANYWHERE, FREE)
    outcomes = {True: 0, False: 0}
    for _ in range(40):
        path = [random_joints(rng, 0.6)]
        path.append(path[0] + 0.4 * rng.normal(size=7))
        allowance = sweep.allowance(sweep.scene.at(path[0]))
        samples = [
            sweep.scene.at(path[0] + s * (path[1] - path[0])) for s in np.linspace(0, 1, 150)
        ]
        room = min(
            min(float((p.distances - allowance.distances).min()) for p in samples),
            min(allowance.outside - sweep.outside(p.tip) for p in samples),
            min(sweep.scene.clearance_below(p) - allowance.height for p in samples),
        )
        fault = sweep.first_fault(path)
        outcomes[fault is None] += 1
        assert room > -CONFIG.sweep_step if fault is None else room < 0.005
        if sweep.is_clear(samples[0], np.array(path[1:]), allowance):
            assert fault is None and room > -1e-6
    assert min(outcomes.values()) >= 5


def test_the_first_fault_names_the_segment_and_the_pair():
    path = [ARM.home, ARM.home + 0.01, ARM.home.copy()]
    path[2] = path[2] + [0, 0, 0, 0, 0, 0, 0.1]
    assert Sweep(ANYWHERE, FREE).first_fault(path) is None
    folded = ARM.home.copy()
    folded[1], folded[3], folded[5] = 0.5, -3.0, 0.0
    index, fault = Sweep(ANYWHERE, dataclasses.replace(FREE, workspace_margin=9.0)).first_fault(
        [*path, folded]
    ) or (-1, '')
    assert index == 2 and fault.startswith(('self_collision: ', 'table: ', 'obstacle: '))


def test_a_base_that_the_joints_move_is_refused():
    with pytest.raises(ArmError, match='base_link panda_link3'):
        Scene(Arm(dataclasses.replace(ARM_CONFIG, base_link='panda_link3')))


@pytest.mark.parametrize(
    ('key', 'wide', 'tight'),
    [('position_min', -3.0, -2.0), ('position_max', 3.0, 2.0), ('velocity_max', 2.2, 1.0)],
)
def test_a_configuration_may_tighten_a_limit_of_the_urdf_but_not_widen_it(key, wide, tight):
    urdf = {'position_min': ARM.lower, 'position_max': ARM.upper, 'velocity_max': ARM.fastest}[key]
    limit = np.array(urdf)
    limit[0] = wide
    with pytest.raises(ArmError, match=f'panda_joint1: {wide} is wider .*{urdf[0]}'):
        Arm(dataclasses.replace(ARM_CONFIG, **{key: tuple(limit)}))
    limit[0] = tight
    arm = Arm(dataclasses.replace(ARM_CONFIG, **{key: tuple(limit)}))
    got = {'position_min': arm.lower, 'position_max': arm.upper, 'velocity_max': arm.fastest}[key]
    np.testing.assert_array_equal(got, limit)
    assert arm.velocity_limit[0] == pytest.approx(arm.fastest[0] * ARM_CONFIG.velocity_scale)


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


def test_bounds_hold_for_a_sliding_joint(tmp_path):
    scene, rng = Scene(make_slider(tmp_path)), np.random.default_rng(0)
    for _ in range(20):
        begin, motion = rng.uniform(-0.4, 0.4, 2), rng.uniform(-0.1, 0.1, 2)
        a, b = scene.at(begin), scene.at(begin + motion)
        assert np.all(np.abs(b.distances - a.distances) <= scene.closing(motion) + 1e-5)
        middle = scene.points(begin + motion / 2.0)
        sag = np.linalg.norm(middle - (a.points + b.points) / 2.0, axis=1)
        assert np.all(sag <= scene.curvature(motion) / 8.0 + 1e-9)


def test_a_leaning_cylinder_is_as_low_as_its_rim(tmp_path):
    scene, lean = Scene(make_slider(tmp_path)), 2.2
    centre = 0.4 + 0.2 * np.cos(lean)
    lowest = centre - 0.2 * abs(np.cos(lean)) - 0.02 * np.sin(lean)
    assert scene.clearance_below(scene.at(np.array([0.1, lean]))) == pytest.approx(lowest)


def test_the_nearest_obstacle_counts_whatever_else_is_nearer(tmp_path):
    far, near = (
        ObstacleConfig(name, 'sphere', (0.05,), (x, 0.0, 0.5))
        for name, x in (('far', 0.9), ('near', 0.4))
    )
    scene = Scene(make_slider(tmp_path), (far, near))
    upright = np.array([0.1, 0.0])  # the pole's radius is 0.02
    assert scene.obstacle_distance(upright) == pytest.approx(0.4 - 0.1 - 0.02 - 0.05, abs=1e-6)
    assert scene.obstacle_distance(upright + [0.25, 0.0]) == pytest.approx(-0.02, abs=1e-6)
    assert Scene(make_slider(tmp_path)).obstacle_distance(upright) == np.inf


def test_allowed_contacts_are_no_self_collision(tmp_path):
    strict = Scene(make_slider(tmp_path))
    assert strict.names == [('base', 'pole')]
    hanging = np.array([0.0, 3.0])
    assert strict.self_collision(hanging) == ('base', 'pole')
    lenient = Scene(make_slider(tmp_path, allowed_contacts=(('pole', 'base'),)))
    assert lenient.names == [] and lenient.self_collision(hanging) is None
