"""Measurements of stops agree with recorded motions whose figures are known."""

import dataclasses

import numpy as np
import pytest

from jepa_arm.core.types import GuardState
from jepa_arm.robot.trajectory import JointStreamer
from jepa_arm_validation.faults.measurements import (
    RecordedMotion,
    StopRecording,
    motion_peaks,
    time_to_rest,
    time_to_stop,
    tip_path_length,
)
from jepa_arm_validation.faults.runner import format_faults

DT = 0.01
ONSET, STOP_TICK = 100.30, 35


@pytest.fixture
def stop(arm):
    """The first joint moves at 100 s; from tick 35 on, 0.05 s after the onset, it is stopped."""
    streamer = JointStreamer(arm, DT)
    commands = [
        streamer.step(arm.home + np.eye(7)[0]) if i < STOP_TICK else streamer.stop()
        for i in range(80)
    ]
    at = 100.0 + DT * np.arange(80)
    state = np.where(np.arange(80) < STOP_TICK, GuardState.FOLLOWING.value, 0)
    state[STOP_TICK:] = GuardState.STOPPING.value
    position = np.array([c.position for c in commands])
    velocity = np.array([c.velocity for c in commands])
    motion = RecordedMotion(at, position, velocity)
    return StopRecording(motion, motion, at, state)


def cut(recording, chosen):
    """The recording with the commands of ``chosen`` only."""
    commands = RecordedMotion(*(v[chosen] for v in vars(recording.commands).values()))
    return dataclasses.replace(recording, commands=commands)


def with_commands(recording, **changes):
    """The recording with other positions or velocities of the commands."""
    commands = dataclasses.replace(recording.commands, **changes)
    return dataclasses.replace(recording, commands=commands)


def test_a_stop_begins_with_the_guards_state_and_ends_with_commands_at_rest(stop):
    assert time_to_stop(stop, ONSET) == pytest.approx(0.05)
    speed = np.abs(stop.commands.velocity).max(axis=1)
    first_at_rest = STOP_TICK + int(np.argmax(speed[STOP_TICK:] < 1e-6))
    expected = stop.commands.times[first_at_rest] - ONSET
    assert time_to_rest(stop, ONSET) == pytest.approx(expected)
    assert 0.1 < expected < 0.4


def test_rest_before_the_onset_does_not_count(stop):
    late = stop.commands.times[-3]
    assert np.isnan(time_to_rest(stop, late)), 'three samples are not a hold'
    assert time_to_rest(stop, 99.0) > 1.0, 'the arm was not at rest at the start'


def test_a_silent_guard_stops_the_arm_with_its_last_command(stop):
    dead = dataclasses.replace(cut(stop, slice(0, 32)), guard_times=stop.guard_times[:32])
    dead = dataclasses.replace(dead, guard_state=stop.guard_state[:32])
    assert time_to_stop(dead, ONSET) == pytest.approx(0.01)
    assert np.isnan(time_to_rest(dead, ONSET))
    assert np.isfinite(time_to_rest(dead, ONSET, by_joints=True))


def test_the_time_to_stop_is_nan_without_a_stop(stop):
    moving = dataclasses.replace(stop, guard_state=np.full(80, GuardState.FOLLOWING.value))
    assert np.isnan(time_to_stop(moving, ONSET))


def test_a_jerk_limited_stop_exceeds_no_limit(stop, arm):
    found = motion_peaks(stop, ONSET, np.inf, arm, DT)
    assert found.exceeded_limits() == []
    chosen = stop.commands.times >= ONSET - 3 * DT
    assert found.velocity == pytest.approx(np.abs(stop.commands.velocity[chosen]).max())
    assert 0.5 < found.shares['acceleration'] <= 1.001
    assert 0.5 < found.shares['jerk'] <= 1.001


@pytest.mark.parametrize(
    'scale, word', [(np.array([1.3, 0, 0, 0, 0, 0, 0]), 'velocity'), (None, 'acceleration')]
)
def test_an_exceeded_limit_is_named(stop, arm, scale, word):
    velocity = stop.commands.velocity.copy()
    if scale is None:
        velocity[50:] = 0.0
        velocity[40:50, 0] = 0.3  # at once
    else:
        velocity[40] = scale * arm.velocity_limit
    wrong = with_commands(stop, velocity=velocity)
    assert any(
        text.startswith(word)
        for text in motion_peaks(wrong, ONSET, np.inf, arm, DT).exceeded_limits()
    )


def test_a_jump_of_the_position_counts_as_velocity(stop, arm):
    position = stop.commands.position.copy()
    position[45:] += 0.05
    wrong = with_commands(stop, position=position)
    assert motion_peaks(wrong, ONSET, np.inf, arm, DT).shares['velocity'] > 2.0


def test_an_interruption_gives_a_jump_and_no_acceleration(stop, arm):
    paused = cut(stop, np.r_[0:32, 70:80])
    found = motion_peaks(paused, ONSET, np.inf, arm, DT)
    jump = np.abs(stop.commands.position[70] - stop.commands.position[31]).max()
    assert found.jump == pytest.approx(jump) and jump > 0.01
    assert found.exceeded_limits() == []


def test_the_tip_distance_is_the_length_of_its_path(arm):
    at = np.array([0.0, 1.0, 2.0, 3.0])
    positions = np.tile(arm.home, (4, 1))
    positions[1:, 0] = [0.3, 0.0, np.nan]
    radius = np.hypot(*arm.tip_position(arm.home)[:2])
    chord = 2.0 * radius * np.sin(0.15)
    motion = RecordedMotion(at, positions, np.zeros_like(positions))
    travel = tip_path_length(motion, 0.0, 9.0, arm)
    assert travel == pytest.approx(2.0 * chord)
    assert tip_path_length(motion, 2.0, 9.0, arm) == 0.0


def test_the_report_counts_failures_and_names_their_problems():
    shares = {'velocity': 0.5, 'acceleration': 1.0, 'jerk': 1.0, 'measured_velocity': 0.4}
    row = {
        'number': 1, 'name': 'camera_stops', 'fault': 'the camera stops', 'passed': True,
        'time_to_stop_ms': 190.0, 'time_to_hold_ms': 260.0, 'distance_cm': 4.0,
        'peaks': {**shares, 'jump': 0.0, 'shares': shares}, 'reason': 'planner: no image',
        'after': 'goes on by itself', 'expected': 'a stop', 'problems': [], 'note': '',
    }  # fmt: skip
    bad = {**row, 'name': 'plan_nan', 'passed': False, 'problems': ['is not latched']}
    silent = {**row, 'name': 'overrun', 'time_to_stop_ms': None}
    report = {'rows': [row, bad, silent], 'seconds': 60.0, 'machine': 'm', 'git': 'g'}
    text = format_faults(report)
    assert '2 of 3 passed' in text and 'plan_nan: is not latched' in text
