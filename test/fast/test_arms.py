"""Every arm of config/arms: kinematics, reach, limits, and the guard at work on it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pinocchio as pin
import pytest

from guard_loop import CONFIG, TIME, Loop, assert_within_limits
from jepa_arm.config import ArmConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.core.types import Command, GuardState, Proposal
from jepa_arm.robot.action_space import TipMotion
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.camera import project
from jepa_arm.robot.collision import CollisionModel
from jepa_arm.robot.trajectory import JointStreamer
from kinematics import link_pose

FLANGES = {
    'panda': 'panda_link8',
    'fr3': 'fr3_link8',
    'ur5e': 'tool0',
    'iiwa14': 'lbr_link_ee',
    'xarm6': 'link_eef',
}

# a, d, alpha of each joint, m and rad. Franka's table (Craig's convention: a and alpha before
# the joint; the last row is the flange) and Universal Robots' (standard convention).
HALF = np.pi / 2
FRANKA = [
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -HALF),
    (0.0, 0.316, HALF),
    (0.0825, 0.0, HALF),
    (-0.0825, 0.384, -HALF),
    (0.0, 0.0, HALF),
    (0.088, 0.0, HALF),
    (0.0, 0.107, 0.0),
]
UR5E = [
    (0.0, 0.1625, HALF),
    (-0.425, 0.0, 0.0),
    (-0.3922, 0.0, 0.0),
    (0.0, 0.1333, HALF),
    (0.0, 0.0997, -HALF),
    (0.0, 0.0996, 0.0),
]


@pytest.fixture
def arm(each_arm):
    """Return each configured arm in turn."""
    return each_arm


def turn(axis, angle):
    out = np.eye(4)
    i, j = [k for k in range(3) if k != axis]
    sign = -1.0 if axis == 1 else 1.0
    out[i, i] = out[j, j] = np.cos(angle)
    out[i, j], out[j, i] = -sign * np.sin(angle), sign * np.sin(angle)
    return out


def shift(x, z):
    out = np.eye(4)
    out[0, 3], out[2, 3] = x, z
    return out


def by_franka(q):
    pose = np.eye(4)
    for (a, d, alpha), angle in zip(FRANKA, [*q, 0.0], strict=True):
        pose = pose @ turn(0, alpha) @ shift(a, 0.0) @ turn(2, angle) @ shift(0.0, d)
    return pose


def by_universal_robots(q):
    """Return a pose in ``base_link``, which faces the other way than the manufacturer's base."""
    pose = turn(2, np.pi)
    for (a, d, alpha), angle in zip(UR5E, q, strict=True):
        pose = pose @ turn(2, angle) @ shift(a, d) @ turn(0, alpha)
    return pose


def by_urdf(file, link, beyond):
    """Return the pose of a point ``beyond`` (m) the origin of ``link`` in a reference URDF."""
    pybullet_data = pytest.importorskip('pybullet_data', reason='no wheel for this Python')
    model = pin.buildModelFromUrdf(str(Path(pybullet_data.getDataPath()) / file))
    data, frame = model.createData(), model.getFrameId(link)

    def pose(q):
        pin.framesForwardKinematics(model, data, q)
        return data.oMf[frame].homogeneous @ shift(0.0, beyond)

    return pose


def test_the_flange_pose_matches_the_manufacturers_model(arm):
    """The tolerance is 1e-8; the xArm's reference has right angles of four decimals."""
    references = {
        'panda': lambda: by_franka,
        'fr3': lambda: by_franka,
        'ur5e': lambda: by_universal_robots,
        'iiwa14': lambda: by_urdf('kuka_iiwa/model.urdf', 'lbr_iiwa_link_7', 0.045),
        'xarm6': lambda: by_urdf('xarm/xarm6_robot.urdf', 'link6', 0.0),
    }
    name = arm.config.name
    expected = references[name]()
    rng = np.random.default_rng(0)
    for q in rng.uniform(arm.lower, arm.upper, (30, len(arm.home))):
        pose = link_pose(arm, q, FLANGES[name])
        np.testing.assert_allclose(pose, expected(q), atol=2e-5 if name == 'xarm6' else 1e-8)
        peg = np.linalg.inv(pose) @ arm.tip_pose(q)
        np.testing.assert_allclose(peg, shift(0.0, 0.20), atol=1e-9)


def shapes_at_zero(model, geometry):
    """Return (joint, shape, pose) of each shape with all joints at 0."""
    data, placed = model.createData(), pin.GeometryData(geometry)
    pin.updateGeometryPlacements(model, data, geometry, placed, np.zeros(model.nq))
    objects = zip(geometry.geometryObjects, placed.oMg, strict=True)
    return [(o.parentJoint, o.geometry, pose.homogeneous) for o, pose in objects]


def beyond(points, capsule, pose):
    """Return the distance (N,) m of ``points`` (N, 3) outside a capsule."""
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    local[:, 2] -= np.clip(local[:, 2], -capsule.halfLength, capsule.halfLength)
    return np.linalg.norm(local, axis=1) - capsule.radius


@pytest.mark.parametrize(
    ('name', 'file', 'meshes'),
    [('iiwa14', 'kuka_iiwa/model.urdf', 'kuka_iiwa'), ('xarm6', 'xarm/xarm6_robot.urdf', 'xarm')],
)
def test_the_manufacturers_meshes_are_within_2_cm_of_the_collision_shapes(name, file, meshes):
    pybullet_data = pytest.importorskip('pybullet_data', reason='no wheel for this Python')
    folder = Path(pybullet_data.getDataPath())
    model = pin.buildModelFromUrdf(str(folder / file))
    kind = pin.GeometryType.VISUAL
    links = pin.buildGeomFromUrdf(
        model, str(folder / file), kind, package_dirs=[str(folder / meshes)]
    )
    arm = Arm(load(ArmConfig, config_path(f'arms/{name}.yaml')))
    ours = shapes_at_zero(arm.model, arm.geometry)
    for joint, mesh, pose in shapes_at_zero(model, links):
        points = np.array(mesh.vertices()) @ pose[:3, :3].T + pose[:3, 3]
        assert len(points) > 100
        outside = [
            beyond(points, shape, at)
            for other, shape, at in ours
            if other == joint and hasattr(shape, 'halfLength')
        ]
        assert np.min(outside, axis=0).max() < 0.02


def test_limits_are_not_wider_than_those_of_the_urdf(arm):
    full = pin.buildModelFromXML(arm.urdf)
    for i, name in enumerate(arm.joint_names):
        j = full.joints[full.getJointId(name)].idx_q
        assert full.lowerPositionLimit[j] <= arm.lower[i] < arm.upper[i]
        assert arm.upper[i] <= full.upperPositionLimit[j]
        assert arm.velocity_limit[i] < arm.max_velocity[i] <= full.velocityLimit[j]


def test_the_fr3_allows_its_configured_speed_everywhere_within_its_limits():
    """The limit falls with the distance to a joint's end (libfranka, rate_limiting.h)."""
    arm = Arm(load(ArmConfig, config_path('arms/fr3.yaml')))
    offset = np.array([0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35])
    factor = np.array([12.0, 5.17, 7.0, 8.0, 34.0, 11.0, 34.0])
    high = np.array([2.7501, 1.7918, 2.9065, -0.1458, 2.8101, 4.5205, 3.0196])
    low = np.array([-2.7501, -1.7918, -2.9065, -3.0481, -2.8101, 0.54092, -3.0196])
    tolerance = 1e-3
    for room in (high - arm.upper, arm.lower - low):
        assert np.all(np.sqrt(factor * room) - offset - tolerance > arm.velocity_limit)


def test_home_and_workspace_are_reached_tool_down_without_collision(arm):
    scene, rng = CollisionModel(arm), np.random.default_rng(1)
    box = zip(arm.workspace_min, arm.workspace_max, strict=True)
    corners = np.array(np.meshgrid(*box)).reshape(3, -1).T
    inside = rng.uniform(arm.workspace_min, arm.workspace_max, (40, 3))
    assert arm.in_workspace(arm.tip_position(arm.home))
    for target in [arm.tip_position(arm.home), *corners, *inside]:
        q, error = arm.ik(target, arm.home, iterations=60)
        assert error < 1e-3 and arm.tip_pose(q)[2, 2] < -0.999
        assert np.all((q >= arm.lower) & (q <= arm.upper))
        pose = scene.evaluate(q)
        assert pose.distances.min() > 0.005 and scene.ground_clearance(pose) > 0.01
        again, error = arm.ik(target, q)
        assert error < 1e-3 and np.abs(again - q).max() < 0.02


def test_the_camera_sees_the_floor_of_the_workspace(arm):
    camera, low, high = arm.config.camera, arm.workspace_min, arm.workspace_max
    corners = np.array([[x, y, 0.0] for x in (low[0], high[0]) for y in (low[1], high[1])])
    pixels = project(camera, corners)
    assert np.all((pixels >= 0) & (pixels <= [camera.width, camera.height]))


def waypoints(motion, goal, count=3):
    """Return joints (count, J) on the tip's straight line to ``goal`` at the planner's speed."""
    actions = []
    target = motion.target
    for _ in range(count):
        actions.append(np.clip((goal - target) / 0.025, -1.0, 1.0))
        target = target + 0.025 * actions[-1]
    path = motion.preview(np.array(actions))
    motion.apply(actions[0])
    return path


def test_the_guard_follows_a_scripted_path_within_the_limits_and_stops_on_hold(arm):
    loop, motion = Loop(arm), TipMotion(arm)
    rng = np.random.default_rng(2)
    span = arm.workspace_max - arm.workspace_min
    for goal in arm.workspace_min + span * rng.uniform(0.2, 0.8, (3, 3)):
        for _ in range(25):
            proposal = Proposal(
                arm.joint_names, waypoints(motion, goal), 0.1 * np.arange(1, 4), loop.now, 0.2
            )
            assert loop.submit(proposal).reasons == ()
            loop.tick(TIME.ticks)
        assert np.linalg.norm(arm.tip_position(loop.commands[-1].position) - goal) < 2e-3
    loop.start_moving()
    loop.guard.hold()
    assert loop.tick_to_rest(30).state is GuardState.HOLDING
    assert_within_limits(loop.commands, arm)


def test_a_stop_from_full_speed_takes_no_longer_than_the_approach_time(arm):
    streamer, rest = JointStreamer(arm, TIME.stream_dt), np.zeros_like(arm.home)
    for joint, speed in enumerate(arm.velocity_limit):
        for sign in (-1.0, 1.0):
            velocity = rest.copy()
            velocity[joint] = sign * speed
            streamer.go_on_from(Command(arm.home, velocity, rest))
            duration = len(streamer.stopping_path()) * TIME.stream_dt
            assert duration <= CONFIG.slowdown_time + 1e-9


def test_the_guard_refuses_violated_limits_excess_speed_and_self_collision(arm):
    anywhere = Arm(
        replace(arm.config, workspace_min=(-2.0, -2.0, -2.0), workspace_max=(2.0, 2.0, 2.0))
    )
    far = np.tile(arm.home, (2, 1))
    far[:, 1] = arm.upper[1] + 0.01
    jump = np.tile(arm.home, (2, 1))
    jump[1, 0] += arm.max_velocity[0] * TIME.control_dt * 1.1
    free, folded = folding(anywhere)
    cases = {
        'position_limit': (arm.home, far),
        'velocity_limit': (arm.home, jump),
        'self_collision': (free, folded[None]),
    }
    for code, (start, positions) in cases.items():
        loop = Loop(anywhere, start)
        times = TIME.control_dt * np.arange(1, len(positions) + 1)
        verdict = loop.submit(loop.proposal(positions=positions, times=times))
        assert verdict.reasons and verdict.reasons[0].startswith(code), verdict.reasons
        loop.tick(30)
        np.testing.assert_array_equal(loop.commands[-1].position, start)


def folding(arm):
    """Return collision-free joints above the table, and joints near by in self-collision."""
    scene, rng = CollisionModel(arm), np.random.default_rng(3)
    while True:
        free = rng.uniform(np.maximum(arm.lower, -2.5), np.minimum(arm.upper, 2.5))
        folded = free + rng.uniform(-0.5, 0.5, len(free))
        poses = scene.evaluate(free), scene.evaluate(folded)
        if (
            np.all((folded > arm.lower) & (folded < arm.upper))
            and min(scene.ground_clearance(pose) for pose in poses) > 0.05
            and poses[0].distances.min() > 0.0
            and scene.self_collision(folded)
        ):
            return free, folded
