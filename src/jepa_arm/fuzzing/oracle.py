"""Judges what the guard lets out, without any of the guard's own code.

Limits are judged by finite differences of successive commands: a jerk-limited motion keeps
every limit in these too, so what is beyond is a violation whatever the guard believes.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from ..arm import Arm
from ..collision import Scene
from ..config import GuardConfig, TimeConfig
from ..types import Command, FloatArray, GuardState, JointSample, Proposal, Verdict

SHARE = 1e-6
"""By which a limit may be missed through rounding, as a share of it."""
ROUNDING = {'position': 1e-6, 'velocity': 1e-6, 'acceleration': 1e-3, 'jerk': 0.05}
"""The same in rad, rad/s, rad/s^2, rad/s^3: differences divide the last digits by the tick."""
AT_REST = (GuardState.IDLE, GuardState.HOLDING, GuardState.LATCHED)
WITH_REASON = (GuardState.STOPPING, GuardState.HOLDING, GuardState.LATCHED)
STANDSTILL_RAD = 1e-6
"""In a tick; going back by less to where the arm is begins and ends within one."""
STOP_S = 3.0
"""No stop takes longer, not even one that goes back to where the arm is blocked."""
LONGEST_REASON = 1000
"""Characters: reasons are published and logged."""
BEYOND_RAD = 0.2
"""How far outside its limits a joint may be measured."""


class StreamOracle:
    """Whether a stream of commands, one a tick, keeps the arm's limits."""

    def __init__(self, arm: Arm, dt: float) -> None:
        self._arm, self._dt = arm, dt
        self.restart()

    def restart(self) -> None:
        """The next command may be anywhere: the stream starts anew."""
        self._positions: deque[FloatArray] = deque(maxlen=4)
        self._last: Command | None = None

    def judge(self, command: Command) -> list[str]:
        """What is wrong with the next ``command``; empty if nothing is."""
        p, v, a = command.position, command.velocity, command.acceleration
        if not (np.all(np.isfinite(p)) and np.all(np.isfinite(v)) and np.all(np.isfinite(a))):
            return ['the command is not finite']
        if self._last is None:
            self._low = np.minimum(self._arm.lower, p) - ROUNDING['position']
            self._high = np.maximum(self._arm.upper, p) + ROUNDING['position']
        wrong = []
        if np.any(p < self._low) or np.any(p > self._high):
            out = np.maximum(self._low - p, p - self._high)
            wrong.append(f'position: joint {int(out.argmax())} {out.max():.3g} rad outside')
        arm = self._arm
        wrong += self._beyond('velocity', v, arm.velocity_limit)
        wrong += self._beyond('acceleration', a, arm.braking_limit)
        if self._last is not None:
            dt = self._dt
            wrong += self._beyond(
                'acceleration', (v - self._last.velocity) / dt, arm.braking_limit
            )
            wrong += self._beyond('jerk', (a - self._last.acceleration) / dt, arm.jerk_limit)
        self._positions.append(p)
        self._last = command
        return wrong + self._judge_positions()

    def _judge_positions(self) -> list[str]:
        """The same limits from positions alone, which is all that a robot may look at."""
        p, dt, arm, wrong = self._positions, self._dt, self._arm, []
        if len(p) > 1:
            wrong += self._beyond('velocity', (p[-1] - p[-2]) / dt, arm.velocity_limit)
        if len(p) > 2:
            change = (p[-1] - 2.0 * p[-2] + p[-3]) / dt**2
            wrong += self._beyond('acceleration', change, arm.braking_limit)
        if len(p) > 3:
            change = (p[-1] - 3.0 * p[-2] + 3.0 * p[-3] - p[-4]) / dt**3
            wrong += self._beyond('jerk', change, arm.jerk_limit)
        return wrong

    def _beyond(self, kind: str, values: FloatArray, limit: FloatArray) -> list[str]:
        size = np.abs(values)
        over = size - limit * (1.0 + SHARE)
        if over.max() <= ROUNDING[kind]:
            return []
        joint = int(over.argmax())
        return [f'{kind}: joint {joint} at {size[joint]:.6g}, limit {limit[joint]:.6g}']


class GuardOracle:
    """Whether a guard's answers fit its contract: states, reasons, times, the stream.

    Call its methods with what went in and came out; they return what is wrong, each as
    'kind: details'.
    """

    def __init__(self, arm: Arm, time: TimeConfig, config: GuardConfig) -> None:
        self._arm, self._config, self._dt = arm, config, time.stream_dt
        self._scene = Scene(arm)
        self._stream = StreamOracle(arm, time.stream_dt)
        self._follow_ticks = round(2.0 * (config.max_validity + config.max_future) / self._dt)
        self._fastest = arm.velocity_limit / arm.config.velocity_scale * time.control_dt
        self._accepted_at = self._good_at = -np.inf
        self._is_good = True
        self._followed = self._stopped = 0
        self._is_held = self._is_latched = False
        self._position: FloatArray | None = None
        self._is_free = self._was_at_rest = False

    def was_reset(self, now: float) -> None:
        """The guard was started, or its latch was reset with success."""
        self._stream.restart()
        self._position = None
        self._is_free = self._was_at_rest = False
        self._is_held = self._is_latched = False
        self._is_good, self._good_at = True, now

    def was_held(self) -> None:
        """``hold`` was called on a started guard."""
        self._is_held = True

    def was_resumed(self) -> None:
        """``resume`` was called: it ends a hold, unless the guard is latched."""
        self._is_held = self._is_held and self._is_latched

    def measured(self, sample: JointSample, now: float) -> None:
        """A joint sample came."""
        values = np.asarray(sample.position)
        arm = self._arm
        self._is_good = bool(
            values.dtype.kind in 'fiu'
            and values.shape == arm.home.shape
            and np.all(values >= arm.lower - BEYOND_RAD)
            and np.all(values <= arm.upper + BEYOND_RAD)
        )
        if self._is_good:
            self._good_at = now

    def lost_joints(self) -> None:
        """``lose_joints`` was called."""
        self._is_good = False

    def submitted(self, verdict: Verdict, proposal: Proposal, now: float, ros: float) -> list[str]:
        """The guard answered ``proposal``."""
        if verdict.reasons:
            wrong = self._judge_reasons(verdict)
            if verdict.state is GuardState.FOLLOWING:
                wrong.append(f'follows after a refusal: {verdict.reasons[0]}')
            return wrong
        wrong = [] if verdict.state is GuardState.FOLLOWING else [f'accepted in {verdict.state}']
        if self._is_held or self._is_latched:
            wrong.append('accepted while held or latched')
        self._accepted_at, self._followed = now, 0
        return wrong + self._judge_accepted(proposal, ros)

    def _judge_accepted(self, proposal: Proposal, ros: float) -> list[str]:
        arm, q = self._arm, np.asarray(proposal.positions)
        count = len(arm.joint_names)
        if tuple(proposal.joint_names) != arm.joint_names or q.ndim != 2 or q.shape[1] != count:
            return ['accepted a proposal of other joints or width']
        scalars = np.array([proposal.stamp, proposal.valid_for], dtype=float)
        if not (np.all(np.isfinite(q)) and np.all(np.isfinite(scalars))):
            return ['accepted a proposal with NaN or infinity']
        wrong = []
        slack = ROUNDING['position'] * 2.0
        if np.any(q < arm.lower - slack) or np.any(q > arm.upper + slack):
            wrong.append('accepted a waypoint outside the joint limits')
        if np.any(np.abs(np.diff(q, axis=0)) > self._fastest * (1.0 + 2.0 * SHARE) + slack):
            wrong.append('accepted waypoints further apart than the velocity limit allows')
        age = ros - proposal.stamp
        if not -self._config.max_future - slack <= age <= self._config.max_proposal_age + slack:
            wrong.append(f'accepted a proposal of a wrong time: {age:.3g} s old')
        return wrong

    def ticked(self, verdict: Verdict, now: float) -> list[str]:
        """The guard made a tick."""
        command, state = verdict.command, verdict.state
        if command is None or state is GuardState.INACTIVE:
            is_both = command is None and state is GuardState.INACTIVE
            return [] if is_both else [f'command {command} in state {state}']
        wrong = self._stream.judge(command)
        if state in WITH_REASON or verdict.reasons:
            wrong += self._judge_reasons(verdict)
        wrong += self._judge_rest(command, state)
        if self._is_latched and state is not GuardState.LATCHED:
            wrong.append(f'the latch opened by itself into {state}')
        self._is_latched = self._is_latched or state is GuardState.LATCHED
        wrong += self._judge_time(state, now)
        wrong += self._judge_place(verdict, command)
        self._position = command.position
        return wrong

    def _judge_reasons(self, verdict: Verdict) -> list[str]:
        if not verdict.reasons or not all(verdict.reasons):
            return [f'{verdict.state} without a reason']
        longest = max(map(len, verdict.reasons))
        return [f'too long a reason: {longest} characters'] if longest > LONGEST_REASON else []

    def _judge_rest(self, command: Command, state: GuardState) -> list[str]:
        """No motion in a state of rest, but for the tick in which it was reached."""
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
        self._followed = self._followed + 1 if state is GuardState.FOLLOWING else 0
        self._stopped = self._stopped + 1 if state is GuardState.STOPPING else 0
        if self._stopped * self._dt > STOP_S:
            return [f'stops too long: {self._stopped} ticks']
        if state is not GuardState.FOLLOWING:
            return []
        wrong, config = [], self._config
        until = self._accepted_at + config.max_validity + config.max_future
        if now > until + self._dt or self._followed > self._follow_ticks:
            wrong.append(f'follows too long: {self._followed} ticks after the last proposal')
        if not self._is_good or now - self._good_at > config.max_joint_age + self._dt:
            wrong.append('follows without good joints')
        return wrong

    def _judge_place(self, verdict: Verdict, command: Command) -> list[str]:
        """The commands never enter a self-collision, but for going back to where the arm is."""
        if verdict.state not in (GuardState.FOLLOWING, GuardState.STOPPING):
            return []
        hit = self._scene.self_collision(command.position)
        was_free, self._is_free = self._is_free, hit is None
        if hit is None or not was_free or any('tracking' in r for r in verdict.reasons):
            return []
        return [f'self_collision: {hit[0]} and {hit[1]} in {verdict.state}']
