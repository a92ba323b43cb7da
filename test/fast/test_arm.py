"""Kinematics against PyBullet's Panda, inverse kinematics, and limits of the Panda."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jepa_arm.config import ArmConfig
from jepa_arm.robot.arm import Arm, ArmError
from jepa_arm.robot.collision import CollisionModel
from kinematics import link_pose

pybullet = pytest.importorskip('pybullet', reason='PyBullet has no wheel for this Python')
pybullet_data = pytest.importorskip('pybullet_data')


def test_forward_kinematics_matches_pybullet_to_1e6(arm: Arm) -> None:
    client = pybullet.connect(pybullet.DIRECT)
    path = Path(pybullet_data.getDataPath()) / 'franka_panda' / 'panda.urdf'
    robot = pybullet.loadURDF(str(path), useFixedBase=True, physicsClientId=client)
    names = [
        pybullet.getJointInfo(robot, i, physicsClientId=client)[1].decode()
        for i in range(pybullet.getNumJoints(robot, physicsClientId=client))
    ]
    rng = np.random.default_rng(0)
    for _ in range(50):
        q = rng.uniform(arm.lower, arm.upper)
        for name, value in zip(arm.joint_names, q, strict=True):
            pybullet.resetJointState(robot, names.index(name), value, physicsClientId=client)
        for link in range(1, 9):
            index = names.index(f'panda_joint{link}')
            state = pybullet.getLinkState(
                robot, index, computeForwardKinematics=True, physicsClientId=client
            )
            rotation = np.reshape(pybullet.getMatrixFromQuaternion(state[5]), (3, 3))
            pose = link_pose(arm, q, f'panda_link{link}')
            np.testing.assert_allclose(pose[:3, 3], state[4], atol=1e-6)
            np.testing.assert_allclose(pose[:3, :3], rotation, atol=1e-6)
    pybullet.disconnect(client)


def test_jacobian_equals_finite_differences(arm: Arm) -> None:
    q = arm.home + 0.1
    jacobian = arm.jacobian(q)
    for j in range(len(q)):
        step = np.zeros(len(q))
        step[j] = 1e-6
        change = (arm.tip_position(q + step) - arm.tip_position(q - step)) / 2e-6
        np.testing.assert_allclose(jacobian[:3, j], change, atol=1e-6)


def test_ik_reaches_the_whole_workspace_with_the_tool_down(arm: Arm) -> None:
    rng = np.random.default_rng(1)
    scene = CollisionModel(arm)
    for _ in range(50):
        target = rng.uniform(arm.workspace_min, arm.workspace_max)
        q, error = arm.ik(target, arm.home, iterations=60)
        assert error < 1e-3
        assert arm.tip_pose(q)[2, 2] < -0.999
        assert np.all(q >= arm.lower) and np.all(q <= arm.upper)
        assert scene.self_collision(q) is None


def test_ik_follows_a_moving_target_within_a_millimetre(arm: Arm) -> None:
    q, target = arm.home, arm.tip_position(arm.home)
    rng = np.random.default_rng(2)
    for _ in range(100):
        target = arm.clip_to_workspace(target + rng.uniform(-0.025, 0.025, 3))
        q, error = arm.ik(target, q)
        assert error < 1e-3


def test_self_collision_names_the_links(arm: Arm) -> None:
    folded = arm.home.copy()
    folded[1], folded[3], folded[5] = 0.5, -3.0, -0.0
    pair = CollisionModel(arm).self_collision(folded)
    assert pair is not None
    assert all(link.startswith('panda_link') or link == 'pusher' for link in pair)
    assert CollisionModel(arm).self_collision(arm.home) is None


def test_ground_clearance_is_the_height_of_the_tip_if_the_tool_is_lowest(arm: Arm) -> None:
    target = np.array([0.5, 0.0, 0.05])
    q, _ = arm.ik(target, arm.home, iterations=60)
    scene = CollisionModel(arm)
    assert scene.ground_clearance(scene.evaluate(q)) == pytest.approx(0.05, abs=2e-3)


def test_limits_are_those_of_the_urdf_or_tighter(arm: Arm, arm_config: ArmConfig) -> None:
    assert arm.velocity_limit[0] == pytest.approx(2.175 * arm_config.velocity_scale)
    assert arm.lower[3] == pytest.approx(-3.0718)
    assert arm.effort_limit[6] == pytest.approx(12.0)


def test_an_unknown_joint_is_refused_with_a_list_of_the_joints(arm_config: ArmConfig) -> None:
    joints = ('panda_joint9', *arm_config.joints[1:])
    with pytest.raises(ArmError, match=r'panda_joint9 is not in .*panda_joint1'):
        Arm(replace(arm_config, joints=joints))


def test_home_outside_the_limits_is_refused(arm_config: ArmConfig) -> None:
    with pytest.raises(ArmError, match='home'):
        Arm(replace(arm_config, home=(9.0, *arm_config.home[1:])))


def test_broken_urdf_is_refused(arm_config: ArmConfig, tmp_path: Path) -> None:
    path = tmp_path / 'broken.urdf'
    path.write_text('<robot name="x"><link')
    with pytest.raises(ArmError, match=r'broken\.urdf'):
        Arm(replace(arm_config, urdf=str(path)))
