"""Guard oracle: judges the guard's answers by its contract, without any code of the guard."""

from __future__ import annotations

import numpy as np

from jepa_arm.config import GuardConfig, TimeConfig
from jepa_arm.core.types import Command, FloatArray, GuardState, JointSample, Proposal, Verdict
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.collision import CollisionModel
from jepa_arm_validation.monitors.stream_oracle import (
    RELATIVE_TOLERANCE,
    TOLERANCE,
    StreamOracle,
)

AT_REST = (GuardState.IDLE, GuardState.HOLDING, GuardState.LATCHED)
WITH_REASON = (GuardState.STOPPING, GuardState.HOLDING, GuardState.LATCHED)
STANDSTILL_RAD = 1e-6
"""Motion per tick below which the arm stands still: a shorter return fits within one tick."""
MAX_STOP_S = 3.0
"""Longest duration (s) of a stop, including one that returns to where the arm is blocked."""
MAX_REASON_LENGTH = 1000
"""Longest reason in characters: reasons are published and logged."""
MAX_OUTSIDE_RAD = 0.2
"""Largest distance outside the joint limits at which a measured position is still plausible."""


class GuardOracle:
    """Judge of a guard's states, reasons, times and commands.

    The ``on_`` methods get the guard's inputs. The ``judge_`` methods get its answers and return
    their violations, each as 'kind: details'.
    """

    def __init__(self, arm: Arm, time: TimeConfig, config: GuardConfig) -> None:
        """Expect a guard that has not been started.

        Args:
            arm, time, config: arm, timing and configuration of the guard.
        """
        self._arm, self._config, self._dt = arm, config, time.stream_dt
        self._collisions = CollisionModel(arm)
        self._stream = StreamOracle(arm, time.stream_dt)
        self._max_follow_ticks = round(
            2.0 * (config.max_validity + config.max_clock_skew) / self._dt
        )
        self._max_step = arm.velocity_limit / arm.config.velocity_scale * time.control_dt
        self._accepted_at = self._valid_joints_at = -np.inf
        self._are_joints_valid = True
        self._ticks_following = self._ticks_stopping = 0
        self._is_held = self._is_latched = False
        self._position: FloatArray | None = None
        self._was_free = self._was_at_rest = False

    def on_reset(self, now: float) -> None:
        """Note that the guard was started, or that its latch was reset successfully."""
        self._stream.restart()
        self._position = None
        self._was_free = self._was_at_rest = False
        self._is_held = self._is_latched = False
        self._are_joints_valid, self._valid_joints_at = True, now

    def on_hold(self) -> None:
        """Note that ``hold`` was called on a started guard."""
        self._is_held = True

    def on_resume(self) -> None:
        """Note that ``resume`` was called, which ends a hold unless the guard is latched."""
        self._is_held = self._is_held and self._is_latched

    def on_joints(self, sample: JointSample, now: float) -> None:
        """Note a joint sample."""
        values, arm = np.asarray(sample.position), self._arm
        self._are_joints_valid = bool(
            values.dtype.kind in 'fiu'
            and values.shape == arm.home.shape
            and np.all(values >= arm.lower - MAX_OUTSIDE_RAD)
            and np.all(values <= arm.upper + MAX_OUTSIDE_RAD)
        )
        if self._are_joints_valid:
            self._valid_joints_at = now

    def on_rejected_joints(self) -> None:
        """Note that ``reject_joint_state`` was called."""
        self._are_joints_valid = False

    def judge_submission(
        self, verdict: Verdict, proposal: Proposal, now: float, ros_now: float
    ) -> list[str]:
        """Return the violations of the answer to ``proposal``."""
        if verdict.reasons:
            violations = _judge_reasons(verdict)
            if verdict.state is GuardState.FOLLOWING:
                violations.append(f'follows after a refusal: {verdict.reasons[0]}')
            return violations
        violations = []
        if verdict.state is not GuardState.FOLLOWING:
            violations.append(f'accepted in {verdict.state}')
        if self._is_held or self._is_latched:
            violations.append('accepted while held or latched')
        self._accepted_at, self._ticks_following = now, 0
        return violations + self._judge_accepted(proposal, ros_now)

    def judge_tick(self, verdict: Verdict, now: float) -> list[str]:
        """Return the violations of the answer to ``tick``."""
        command, state = verdict.command, verdict.state
        if command is None or state is GuardState.INACTIVE:
            is_both = command is None and state is GuardState.INACTIVE
            return [] if is_both else [f'command {command} in state {state}']
        violations = self._stream.judge(command)
        if state in WITH_REASON or verdict.reasons:
            violations += _judge_reasons(verdict)
        violations += self._judge_rest(command, state)
        if self._is_latched and state is not GuardState.LATCHED:
            violations.append(f'the latch opened by itself into {state}')
        self._is_latched = self._is_latched or state is GuardState.LATCHED
        violations += self._judge_time(state, now)
        violations += self._judge_collision(verdict, command)
        self._position = command.position
        return violations

    def _judge_accepted(self, proposal: Proposal, ros_now: float) -> list[str]:
        """Return the reasons, if any, why an accepted proposal should have been refused."""
        arm, q = self._arm, np.asarray(proposal.positions)
        count = len(arm.joint_names)
        if tuple(proposal.joint_names) != arm.joint_names or q.ndim != 2 or q.shape[1] != count:
            return ['accepted a proposal of other joints or width']
        scalars = np.array([proposal.stamp, proposal.valid_for], dtype=float)
        if not (np.all(np.isfinite(q)) and np.all(np.isfinite(scalars))):
            return ['accepted a proposal with NaN or infinity']
        violations = []
        slack = TOLERANCE['position'] * 2.0
        if np.any(q < arm.lower - slack) or np.any(q > arm.upper + slack):
            violations.append('accepted a waypoint outside the joint limits')
        max_step = self._max_step * (1.0 + 2.0 * RELATIVE_TOLERANCE) + slack
        if np.any(np.abs(np.diff(q, axis=0)) > max_step):
            violations.append('accepted waypoints further apart than the velocity limit allows')
        age, config = ros_now - proposal.stamp, self._config
        if not -config.max_clock_skew - slack <= age <= config.max_proposal_age + slack:
            violations.append(f'accepted a proposal of a wrong time: {age:.3g} s old')
        return violations

    def _judge_rest(self, command: Command, state: GuardState) -> list[str]:
        """Return a violation if a command moves in a state of rest.

        In the tick that enters the state, the position may still change, but velocity and
        acceleration must be zero.
        """
        was_at_rest, self._was_at_rest = self._was_at_rest, state in AT_REST
        if state not in AT_REST:
            return []
        is_slow = (
            np.abs(command.velocity).max() < 1e-6 and np.abs(command.acceleration).max() < 1e-4
        )
        moved = 0.0 if self._position is None else np.abs(command.position - self._position).max()
        if is_slow and (not was_at_rest or moved < STANDSTILL_RAD):
            return []
        return [f'motion in {state}: {moved:.3g} rad in a tick']

    def _judge_time(self, state: GuardState, now: float) -> list[str]:
        """Return violations: a stop or motion lasts too long, or the guard lacks valid joints."""
        is_following = state is GuardState.FOLLOWING
        self._ticks_following = self._ticks_following + 1 if is_following else 0
        is_stopping = state is GuardState.STOPPING
        self._ticks_stopping = self._ticks_stopping + 1 if is_stopping else 0
        if self._ticks_stopping * self._dt > MAX_STOP_S:
            return [f'stops too long: {self._ticks_stopping} ticks']
        if not is_following:
            return []
        violations, config = [], self._config
        until = self._accepted_at + config.max_validity + config.max_clock_skew
        ticks = self._ticks_following
        if now > until + self._dt or ticks > self._max_follow_ticks:
            violations.append(f'follows too long: {ticks} ticks after the last proposal')
        age = now - self._valid_joints_at
        if not self._are_joints_valid or age > config.max_joint_age + self._dt:
            violations.append('follows without good joints')
        return violations

    def _judge_collision(self, verdict: Verdict, command: Command) -> list[str]:
        """Return a violation if the command enters a self-collision, unless the arm was blocked.

        Commands may collide on the way back to where a blocked arm is.
        """
        if verdict.state not in (GuardState.FOLLOWING, GuardState.STOPPING):
            return []
        hit = self._collisions.self_collision(command.position)
        was_free, self._was_free = self._was_free, hit is None
        if hit is None or not was_free or any('tracking' in r for r in verdict.reasons):
            return []
        return [f'self_collision: {hit[0]} and {hit[1]} in {verdict.state}']


def _judge_reasons(verdict: Verdict) -> list[str]:
    if not verdict.reasons or not all(verdict.reasons):
        return [f'{verdict.state} without a reason']
    longest = max(map(len, verdict.reasons))
    return [f'too long a reason: {longest} characters'] if longest > MAX_REASON_LENGTH else []
