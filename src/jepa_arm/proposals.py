"""Checks of a proposal, before the guard follows it: form, freshness, limits, step, path."""

from __future__ import annotations

import dataclasses

import numpy as np

from .arm import Arm
from .config import GuardConfig, TimeConfig
from .sweep import Sweep
from .types import FloatArray, Proposal

EPSILON = 1e-6
"""s or rad by which a limit may be missed through rounding."""


def in_floats(proposal: Proposal) -> Proposal:
    """A copy of ``proposal``, whose arrays of numbers are of any kind, in double precision.

    Integers would wrap around in differences; what is too large for a double becomes infinite.
    """
    with np.errstate(over='ignore'):
        positions, times = proposal.positions.astype(float), proposal.times.astype(float)
    return dataclasses.replace(proposal, positions=positions, times=times)


class ProposalCheck:
    """Why a proposal may not be followed; each check returns '' or 'code: text'."""

    def __init__(self, arm: Arm, time: TimeConfig, config: GuardConfig, sweep: Sweep) -> None:
        self._arm, self._time, self._config, self._sweep = arm, time, config, sweep

    def form(self, proposal: Proposal) -> str:
        """The first reason against a proposal's form: schema, finite, timing."""
        shape = self._shape(proposal)
        if shape:
            return shape
        proposal = in_floats(proposal)
        return self._finite(proposal) or self._timing(proposal)

    def content(
        self, proposal: Proposal, start: FloatArray, last_stamp: float, ros_now: float
    ) -> str:
        """The first reason against a well-formed proposal: fresh, limits, step, path.

        Args:
            proposal: of good ``form``, ``in_floats``.
            start: (J,) rad, the present command.
            last_stamp: s, stamp of the newest proposal that was accepted.
            ros_now: s, ROS clock.
        """
        return (
            self._fresh(proposal, last_stamp, ros_now)
            or self._limits(proposal)
            or self._step(proposal, start)
            or self._path(np.vstack([start, proposal.positions]))
        )

    def _shape(self, proposal: Proposal) -> str:
        names = self._arm.joint_names
        if tuple(proposal.joint_names) != names:
            got = str(list(proposal.joint_names)[:20])[:500]
            return f'schema: expected joints {list(names)}, got {got}'
        for key in ('positions', 'times'):
            array = getattr(proposal, key)
            if not isinstance(array, np.ndarray) or array.dtype.kind not in 'fiu':
                return f'schema: expected an array of numbers in {key}'
        count = len(proposal.times) if proposal.times.ndim == 1 else -1
        if not 1 <= count <= self._config.max_waypoints:
            return (
                f'schema: expected times (N,) with N = 1..{self._config.max_waypoints}, '
                f'got {proposal.times.shape}'
            )
        if proposal.positions.shape != (count, len(names)):
            return (
                f'schema: expected positions ({count}, {len(names)}), '
                f'got {proposal.positions.shape}'
            )
        return ''

    def _finite(self, proposal: Proposal) -> str:
        values = (proposal.positions, proposal.times, [proposal.stamp, proposal.valid_for])
        if all(np.all(np.isfinite(v)) for v in values):
            return ''
        return 'non_finite: the proposal holds NaN or infinity'

    def _timing(self, proposal: Proposal) -> str:
        dt, times = self._time.control_dt, proposal.times
        if not (0.0 < times[0] <= dt + EPSILON and np.all(np.abs(np.diff(times) - dt) < 1e-3)):
            return f'schema: expected times {dt} s apart, the first in (0, {dt}] s'
        limit = self._config.max_validity
        if not 0.0 < proposal.valid_for <= limit + EPSILON:
            return f'schema: expected valid_for in (0, {limit}] s, got {proposal.valid_for}'
        return ''

    def _fresh(self, proposal: Proposal, last_stamp: float, ros_now: float) -> str:
        age = ros_now - proposal.stamp
        limit = min(self._config.max_proposal_age, proposal.valid_for)
        if not np.isfinite(ros_now):
            return f'clock: expected a finite time, got {ros_now}'
        if age > limit + EPSILON:
            return f'stale: the observation is {age:.3f} s old, expected <= {limit} s'
        if age < -self._config.max_future - EPSILON:
            return f'future: the observation is {-age:.3f} s ahead of the clock'
        if proposal.stamp <= last_stamp:
            return 'not_newer: the stamp is not newer than that of the last accepted proposal'
        return ''

    def _limits(self, proposal: Proposal) -> str:
        q, arm = proposal.positions, self._arm
        outside = np.maximum(arm.lower - q, q - arm.upper)
        if np.any(outside > EPSILON):
            return self._at_joint('position_limit', outside, f'{outside.max():.3f} rad outside')
        speed = np.abs(np.diff(q, axis=0)) / self._time.control_dt
        share = speed / self._arm.fastest
        if np.any(share > 1.0 + EPSILON):
            return self._at_joint('velocity_limit', share, f'{share.max():.2f} of the limit')
        return ''

    def _step(self, proposal: Proposal, start: FloatArray) -> str:
        step = np.abs(proposal.positions[:1] - start)
        if step.max() <= self._config.max_step + EPSILON:
            return ''
        return self._at_joint(
            'step',
            step,
            f'{step.max():.3f} rad from the command, expected <= {self._config.max_step}',
        )

    def _path(self, path: FloatArray) -> str:
        """Workspace, table, self-collision and obstacles along straight joint segments.

        Where the arm stands outside the box, too low or too near already, it may not get worse.
        """
        fault = self._sweep.first_fault(path)
        return f'{fault[1]} before waypoint {fault[0]}' if fault else ''

    def _at_joint(self, code: str, amount: FloatArray, text: str) -> str:
        waypoint, joint = np.unravel_index(int(np.argmax(amount)), amount.shape)
        return f'{code}: {self._arm.joint_names[joint]} at waypoint {waypoint}: {text}'
