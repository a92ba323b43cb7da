"""Streamed trajectories respect every limit, and the action space stays in the workspace."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_arm.robot.action_space import ACTION_METRES, TipMotion
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.trajectory import JointStreamer


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_stream_respects_velocity_acceleration_and_jerk_limits(arm: Arm, seed: int) -> None:
    rng, dt = np.random.default_rng(seed), 0.01
    streamer = JointStreamer(arm, dt)
    last = streamer.command
    for _ in range(40):
        target = rng.uniform(arm.lower - 0.5, arm.upper + 0.5)
        is_stopping = rng.random() < 0.2
        for _ in range(int(rng.integers(1, 15))):
            command = streamer.stop() if is_stopping else streamer.step(target)
            assert np.all(np.abs(command.velocity) <= arm.velocity_limit * (1 + 1e-6))
            fastest = (
                arm.braking_limit
                if is_stopping
                else np.maximum(arm.acceleration_limit, np.abs(last.acceleration))
            )
            assert np.all(np.abs(command.acceleration) <= fastest * (1 + 1e-6))
            jerk = (command.acceleration - last.acceleration) / dt
            assert np.all(np.abs(jerk) <= arm.jerk_limit * (1 + 1e-3))
            last = command


def test_a_stop_from_full_speed_takes_less_than_02_s(arm: Arm) -> None:
    streamer = JointStreamer(arm, 0.01)
    for _ in range(60):
        streamer.step(arm.upper)
    ticks = 0
    while not streamer.is_at_rest:
        streamer.stop()
        ticks += 1
    assert ticks <= 20


def test_a_preview_equals_applying_the_actions_and_changes_nothing(arm: Arm) -> None:
    motion = TipMotion(arm)
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 3))
    before = motion.target.copy()
    preview = motion.preview(actions)
    np.testing.assert_array_equal(motion.target, before)
    np.testing.assert_array_equal(preview, [motion.apply(a) for a in actions])


def test_an_action_of_1_moves_the_target_by_action_metres(arm: Arm) -> None:
    motion = TipMotion(arm)
    before = motion.target.copy()
    joints = motion.apply(np.array([0.0, 2.0, 0.0]))
    np.testing.assert_allclose(motion.target - before, [0.0, ACTION_METRES, 0.0])
    np.testing.assert_allclose(arm.tip_position(joints), motion.target, atol=1e-3)


def test_the_target_never_leaves_the_workspace(arm: Arm) -> None:
    motion = TipMotion(arm)
    for _ in range(40):
        motion.apply(np.array([1.0, 1.0, -1.0]))
    assert arm.in_workspace(motion.target)
