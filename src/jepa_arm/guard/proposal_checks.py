"""Proposal checks: one function per reason for which the guard rejects a proposal.

Every check takes the proposal and its context and returns why the proposal must not be followed,
as 'code: text', or ''. ``FORM_CHECKS`` run first and depend on fixed limits alone.
``CONTENT_CHECKS`` run on a well-formed proposal and compare it with the arm, the clock and the
obstacles. The first reason found ends the checks, so cheap checks come first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from jepa_arm.config import GuardConfig, TimeConfig
from jepa_arm.core.types import FloatArray, Proposal
from jepa_arm.robot.arm import Arm

from .path_checker import PathChecker

EPSILON = 1e-6
"""Rounding error, s or rad, that is tolerated when a limit is checked."""
MAX_SPACING_ERROR_S = 1e-3
"""Largest deviation of the waypoints' spacing from the control period."""


@dataclass(frozen=True)
class CheckContext:
    """Limits and current values that a proposal is compared with.

    Attributes:
        arm, time, config, path_checker: fixed limits and obstacles.
        command: (J,) rad, the current command.
        last_stamp: s, stamp of the last accepted proposal.
        ros_now: s, ROS clock.
    """

    arm: Arm
    time: TimeConfig
    config: GuardConfig
    path_checker: PathChecker
    command: FloatArray
    last_stamp: float
    ros_now: float


Check = Callable[[Proposal, CheckContext], str]


def first_reason(checks: Iterable[Check], proposal: Proposal, context: CheckContext) -> str:
    """Return the first reason against ``proposal``, or '' if all ``checks`` pass."""
    return next(filter(None, (check(proposal, context) for check in checks)), '')


def as_double(proposal: Proposal) -> Proposal:
    """Return a copy of a well-shaped ``proposal`` with arrays of double precision.

    Differences of integers could wrap around. Values too large for a double become infinite.
    """
    with np.errstate(over='ignore'):
        positions, times = proposal.positions.astype(float), proposal.times.astype(float)
    return dataclasses.replace(proposal, positions=positions, times=times)


def check_schema(proposal: Proposal, context: CheckContext) -> str:
    """Check joint names, array types and array shapes."""
    names, max_waypoints = context.arm.joint_names, context.config.max_waypoints
    if tuple(proposal.joint_names) != names:
        got = str(list(proposal.joint_names)[:20])[:500]
        return f'schema: expected joints {list(names)}, got {got}'
    for key in ('positions', 'times'):
        array = getattr(proposal, key)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in 'fiu':
            return f'schema: expected an array of numbers in {key}'
    count = len(proposal.times) if proposal.times.ndim == 1 else -1
    if not 1 <= count <= max_waypoints:
        return (
            f'schema: expected times (N,) with N = 1..{max_waypoints}, got {proposal.times.shape}'
        )
    if proposal.positions.shape != (count, len(names)):
        return (
            f'schema: expected positions ({count}, {len(names)}), got {proposal.positions.shape}'
        )
    return ''


def check_finite(proposal: Proposal, context: CheckContext) -> str:
    """Check that no value is NaN or infinite."""
    proposal = as_double(proposal)
    values = (proposal.positions, proposal.times, [proposal.stamp, proposal.valid_for])
    if all(np.all(np.isfinite(v)) for v in values):
        return ''
    return 'non_finite: the proposal holds NaN or infinity'


def check_timing(proposal: Proposal, context: CheckContext) -> str:
    """Check that waypoints are one control period apart and that the validity is in range."""
    dt, times = context.time.control_dt, as_double(proposal).times
    is_spaced = np.all(np.abs(np.diff(times) - dt) < MAX_SPACING_ERROR_S)
    if not (0.0 < times[0] <= dt + EPSILON and is_spaced):
        return f'schema: expected times {dt} s apart, the first in (0, {dt}] s'
    limit = context.config.max_validity
    if not 0.0 < proposal.valid_for <= limit + EPSILON:
        return f'schema: expected valid_for in (0, {limit}] s, got {proposal.valid_for}'
    return ''


def check_freshness(proposal: Proposal, context: CheckContext) -> str:
    """Check the age of the observation that the proposal was planned from."""
    config, age = context.config, context.ros_now - proposal.stamp
    limit = min(config.max_proposal_age, proposal.valid_for)
    if not np.isfinite(context.ros_now):
        return f'clock: expected a finite time, got {context.ros_now}'
    if age > limit + EPSILON:
        return f'stale: the observation is {age:.3f} s old, expected <= {limit} s'
    if age < -config.max_clock_skew - EPSILON:
        return f'future: the observation is {-age:.3f} s ahead of the clock'
    if proposal.stamp <= context.last_stamp:
        return 'not_newer: the stamp is not newer than that of the last accepted proposal'
    return ''


def check_joint_limits(proposal: Proposal, context: CheckContext) -> str:
    """Check every waypoint against the joints' position limits."""
    q, arm = proposal.positions, context.arm
    outside = np.maximum(arm.lower - q, q - arm.upper)
    if not np.any(outside > EPSILON):
        return ''
    return f'position_limit: {_worst(outside, arm)}: {outside.max():.3f} rad outside'


def check_velocity_limits(proposal: Proposal, context: CheckContext) -> str:
    """Check the mean velocity between waypoints against the joints' velocity limits."""
    speed = np.abs(np.diff(proposal.positions, axis=0)) / context.time.control_dt
    ratio = speed / context.arm.max_velocity
    if not np.any(ratio > 1.0 + EPSILON):
        return ''
    return f'velocity_limit: {_worst(ratio, context.arm)}: {ratio.max():.2f} of the limit'


def check_first_step(proposal: Proposal, context: CheckContext) -> str:
    """Check the distance from the current command to the first waypoint."""
    step = np.abs(proposal.positions[:1] - context.command)
    limit = context.config.max_joint_step
    if step.max() <= limit + EPSILON:
        return ''
    return (
        f'step: {_worst(step, context.arm)}: {step.max():.3f} rad from the command, '
        f'expected <= {limit}'
    )


def check_path(proposal: Proposal, context: CheckContext) -> str:
    """Check workspace, table, self-collision and obstacles along straight joint segments.

    If the arm starts outside the workspace, too low or too close, the path must not worsen that.
    """
    path = np.vstack([context.command, proposal.positions])
    violation = context.path_checker.first_violation(path)
    return f'{violation[1]} before waypoint {violation[0]}' if violation else ''


FORM_CHECKS: tuple[Check, ...] = (check_schema, check_finite, check_timing)
CONTENT_CHECKS: tuple[Check, ...] = (
    check_freshness,
    check_joint_limits,
    check_velocity_limits,
    check_first_step,
    check_path,
)


def _worst(amount: FloatArray, arm: Arm) -> str:
    waypoint, joint = np.unravel_index(int(np.argmax(amount)), amount.shape)
    return f'{arm.joint_names[joint]} at waypoint {waypoint}'
