"""Guard test loop: a guard with its clock and a robot, shared by the tests of the guard."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from jepa_arm.config import ArmConfig, GuardConfig, SimConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.core.types import GuardState, JointSample, Proposal
from jepa_arm.guard.guard import Guard
from jepa_arm.guard.proposal_checks import CONTENT_CHECKS, check_path
from jepa_arm.robot.arm import Arm

ARM_CONFIG = load(ArmConfig, config_path('arms/panda.yaml'))
ARM = Arm(ARM_CONFIG)
ANYWHERE = Arm(
    dataclasses.replace(ARM_CONFIG, workspace_min=(-1, -1, 0.0), workspace_max=(1, 1, 1.5))
)
TIME = load(SimConfig, config_path('sim.yaml')).time
CONFIG = load(GuardConfig, config_path('guard.yaml'))
DT = TIME.stream_dt


@contextmanager
def without_path_check() -> Iterator[None]:
    """Accept proposals whose path is not clear, so that only the command stream can stop them."""
    checks = tuple(check for check in CONTENT_CHECKS if check is not check_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('jepa_arm.guard.guard.CONTENT_CHECKS', checks)
        yield


class Loop:
    """A guard, its clock and a robot that is at the commanded or at a ``measured`` position."""

    def __init__(self, arm=ARM, joints=None, config=CONFIG, now=10.0):
        self.arm, self.now = arm, now
        self.guard: Any = Guard(arm, TIME, config)
        self.guard.reset(arm.home if joints is None else joints, self.now)
        self.commands = [self.guard.command]
        self.measured: Any = None

    def submit(self, proposal) -> Any:
        return self.guard.submit(proposal, self.now)

    def tick(self, count=1, joints_arrive=True):
        for _ in range(count):
            verdict = self.guard.tick(self.now)
            self.commands.append(verdict.command)
            self.now += DT
            if joints_arrive:
                position = verdict.command.position if self.measured is None else self.measured
                self.guard.observe(
                    JointSample(position, np.zeros_like(position), self.now), self.now
                )
        return verdict

    def tick_to_rest(self, limit=100):
        for _ in range(limit):
            verdict = self.tick()
            if verdict.state not in (GuardState.FOLLOWING, GuardState.STOPPING):
                return verdict
        raise AssertionError(f'still {verdict.state} after {limit} ticks')

    def proposal(self, **changes):
        """Return a fresh proposal that turns the first and the last joint, with ``changes``."""
        start = self.guard.command.position
        slope = np.zeros_like(start)
        slope[[0, -1]] = 0.02, 0.1
        values = {
            'joint_names': self.arm.joint_names,
            'positions': start + np.arange(1, 11)[:, None] * slope,
            'times': np.arange(1, 11) * TIME.control_dt,
            'stamp': self.now,
            'valid_for': CONFIG.max_validity,
        }
        return Proposal(**{**values, **changes})

    def start_moving(self):
        assert self.submit(self.proposal()).state is GuardState.FOLLOWING
        self.tick(10)
        assert self.submit(self.proposal()).state is GuardState.FOLLOWING
        self.tick(5)
        assert np.abs(self.commands[-1].velocity).max() > 0.1


def assert_within_limits(commands, arm=ARM, tolerance=1e-6):
    position, velocity, acceleration = (
        np.array([getattr(c, key) for c in commands])
        for key in ('position', 'velocity', 'acceleration')
    )
    assert np.all(position >= arm.lower - tolerance) and np.all(position <= arm.upper + tolerance)
    assert np.all(np.abs(velocity) <= arm.velocity_limit * (1 + 1e-6) + tolerance)
    assert np.all(np.abs(acceleration) <= arm.braking_limit * (1 + 1e-6) + tolerance)
    jerk = np.diff(acceleration, axis=0) / DT
    assert np.all(np.abs(jerk) <= arm.jerk_limit * (1 + 1e-6) + 1e-3)
    speed = np.diff(position, axis=0) / DT
    assert np.all(np.abs(speed) <= arm.velocity_limit * (1 + 1e-6) + 1e-4)


def with_value(array, index, value):
    out = np.array(array, dtype=float)
    out[index] = value
    return out


def push_on(loop, until, limit=200):
    """Propose the same motion again and again until the guard is in the state ``until``."""
    for _ in range(limit):
        loop.submit(loop.proposal())
        if loop.tick(5).state is until:
            return
    raise AssertionError(f'still {loop.guard.state}')
