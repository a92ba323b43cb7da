"""One episode of hostile inputs to the guard's core, drawn from its seed alone."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..arm import Arm
from ..collision import Scene
from ..config import GuardConfig, TimeConfig
from ..guard import Guard
from ..motion import TipMotion
from ..types import FloatArray, GuardState, JointSample, Proposal
from .oracle import GuardOracle
from .spoilers import spoil_proposal, spoil_sample

EPISODE = 1000
"""Messages in one episode."""
CLOCK_JUMPS = (-100.0, -1.0, -0.1, 0.06, 0.5, 3600.0)
STALLS = (0.02, 0.05, 0.12, 0.3, 5.0)
"""s for which the guard's process does not run."""


@dataclass
class Tally:
    """What happened in episodes; ``add`` joins two.

    Attributes:
        messages: proposals, joint samples and calls that went in; ticks: commands judged.
        counts: of inputs by kind ('sent/...'), answers ('answer/...') and states ('state/...').
        violations: how many. examples: the first of each kind, with the seed of its episode.
    """

    messages: int = 0
    ticks: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    violations: int = 0
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Takes in what ``other`` counted."""
        self.messages += other.messages
        self.ticks += other.ticks
        self.counts += other.counts
        self.violations += other.violations
        self.examples = {**other.examples, **self.examples}


class Storm:
    """A guard, a robot that may lie about where it is, and a planner that may send anything.

    Attributes:
        tally: what happened so far.
    """

    def __init__(
        self, seed: int, arms: dict[str, Arm], time: TimeConfig, config: GuardConfig
    ) -> None:
        self._rng, self._seed = np.random.default_rng(seed), seed
        rng = self._rng
        self._arm = arms[str(rng.choice(list(arms)))]
        self._time, self._config = time, config
        self._guard = Guard(self._arm, time, config)
        self._oracle = GuardOracle(self._arm, time, config)
        self._motion = TipMotion(self._arm)
        self.tally = Tally()
        self._now, self._ros = float(rng.uniform(0.0, 1e6)), float(rng.choice([0.0, 5.0, 1.7e9]))
        self._start = self._draw_start()
        scene = Scene(self._arm)
        while scene.self_collision(self._start) and rng.random() < 0.9:
            self._start = self._draw_start()
        is_wide = self._arm is not arms['narrow']
        styles = ['tip', 'walk', 'edge', 'zigzag'] if is_wide else ['tip', 'tip', 'walk', 'zigzag']
        self._style = str(rng.choice(styles))
        self._waypoints = int(rng.integers(1, 6))
        self._slope = np.zeros_like(self._start)
        self._spoiled = float(rng.choice([0.0, 0.02, 0.1, 0.5]))
        self._lies = float(rng.choice([0.0, 0.001, 0.01, 0.1]))
        self._lag = int(rng.choice([0, 0, 0, 3, 3, 10, 25]))
        self._busy = float(rng.choice([0.1, 0.3]))
        self._frozen_until = -1
        self._commanded: deque[FloatArray] = deque([self._start], maxlen=30)

    def run(self, messages: int = EPISODE) -> Tally:
        """Sends about ``messages`` messages and judges every answer."""
        self._send_before_start()
        while self.tally.messages < messages:
            self._pass_time()
            if self._rng.random() < self._busy:
                self._propose()
            self._measure()
            self._disturb()
            self._tick()
        return self.tally

    def _draw_start(self) -> FloatArray:
        """(J,) rad: in the workspace, anywhere, at limits, or a little outside them."""
        rng, arm = self._rng, self._arm
        kind = rng.integers(4)
        if kind == 0:
            return arm.ik(rng.uniform(arm.workspace_min, arm.workspace_max), arm.home, 20)[0]
        if kind == 1:
            return arm.home + rng.uniform(-0.3, 0.3, len(arm.home))
        share = rng.choice([0.0, 0.001, 0.5, 0.999, 1.0], size=len(arm.home))
        q = arm.lower + share * (arm.upper - arm.lower)
        return q if kind == 2 else q + rng.uniform(-0.1, 0.1, len(q))

    def _send_before_start(self) -> None:
        """What comes before the first joints; then the guard starts."""
        self._propose()
        self._tick()
        wrong = np.full_like(self._start, self._rng.choice([np.nan, 1e9, np.inf]))
        try:
            self._guard.reset(wrong, self._now)
            self._note(['started at joints that cannot be'])
        except ValueError:
            pass
        self._guard.reset(self._start, self._now)
        self._oracle.was_reset(self._now)

    def _pass_time(self) -> None:
        rng, dt = self._rng, self._time.stream_dt
        passed = dt * (1.0 + 0.1 * rng.normal()) if rng.random() < 0.2 else dt
        if rng.random() < 0.002:
            passed = float(rng.choice(STALLS))
        self._now += max(passed, 1e-4)
        self._ros += max(passed, 1e-4)
        if rng.random() < 0.002:
            self._ros = max(0.0, self._ros + float(rng.choice(CLOCK_JUMPS)))

    # The planner.

    def _propose(self) -> None:
        rng = self._rng
        proposal, name = self._plan(), 'followable'
        if rng.random() < self._spoiled:
            name, proposal = spoil_proposal(proposal, rng)
        if rng.random() < 0.01:
            self._call('refuse', lambda: self._guard.refuse('schema: not even a proposal'))
            return
        self._count(f'sent/{name}')
        verdict = self._try(
            f'submit ({name})', lambda: self._guard.submit(proposal, self._now, self._ros)
        )
        if verdict is None:
            return
        code = verdict.reasons[0].split(':')[0] if verdict.reasons else 'accepted'
        self.tally.counts[f'answer/{code}'] += 1
        self._note(self._oracle.submitted(verdict, proposal, self._now, self._ros))
        if verdict.reasons:
            self._slope = np.zeros_like(self._slope)  # walks on another way

    def _plan(self) -> Proposal:
        """A proposal that may well be followed, near what the guard allows at most."""
        command = self._guard.command
        begin = self._start if command is None else command.position
        count = self._waypoints
        if self._style == 'tip':
            self._motion.reset(begin)
            positions = self._motion.preview(np.tile(self._rng.uniform(-1.2, 1.2, 3), (count, 1)))
        else:
            positions = self._walk(begin, count)
        first = self._rng.choice([0.1, 0.1, 0.03])
        times = first + np.arange(count) * self._time.control_dt
        stamp = self._ros - float(self._rng.choice([0.0, 0.0, 0.0, 0.0, 0.0, 0.01, 0.05, -0.03]))
        valid_for = float(self._rng.choice([0.25, 0.25, 0.19, 0.1]))
        return Proposal(self._arm.joint_names, positions, times, stamp, valid_for)

    def _walk(self, begin: FloatArray, count: int) -> FloatArray:
        """(N, J) rad: a walk in joint space as fast as allowed, to the limits or to and fro."""
        rng, arm = self._rng, self._arm
        fastest = arm.velocity_limit / arm.config.velocity_scale * self._time.control_dt
        if rng.random() < 0.2 or not np.any(self._slope):
            self._slope = rng.uniform(-1.0, 1.0, len(begin)) * fastest
            if self._style == 'edge':
                self._slope = np.sign(self._slope) * fastest * rng.choice([1.0, 0.999999, 0.3])
        if self._style == 'zigzag':
            self._slope = -self._slope
        out, q = [], begin
        for _ in range(count):
            q = np.clip(q + self._slope, arm.lower, arm.upper)
            out.append(q)
        return np.array(out)

    # The robot.

    def _measure(self) -> None:
        rng = self._rng
        lagging = self._commanded[max(-len(self._commanded), -1 - self._lag)]
        if rng.random() < self._lies * 0.1:
            self._frozen_until = self.tally.ticks + int(rng.integers(5, 200))
            self._frozen = lagging
        if self.tally.ticks < self._frozen_until:
            lagging = self._frozen
        if rng.random() < self._lies * 0.3:
            return
        sample, name = JointSample(lagging, np.zeros_like(lagging), self._ros), 'true'
        if rng.random() < self._lies:
            name, sample = spoil_sample(sample, rng)
        self._count(f'sent/joints: {name}')
        self._try(f'observe ({name})', lambda: self._guard.observe(sample, self._now))
        self._oracle.measured(sample, self._now)

    # People.

    def _disturb(self) -> None:
        """Calls of the services, and joints that could not even be read."""
        rng, guard = self._rng, self._guard
        if guard.state is GuardState.LATCHED and rng.random() < 0.1:
            self._reset_latch()
        elif guard.is_blocked and rng.random() < 0.05:
            self._call('resume', guard.resume)
            self._oracle.was_resumed()
        elif rng.random() < 0.003:
            self._oracle.was_held()
            self._call('hold', guard.hold)
        elif rng.random() < 0.002:
            self._oracle.lost_joints()
            self._call('lose_joints', lambda: guard.lose_joints('no such joints'))
        elif rng.random() < 0.002:
            self._reset_latch()

    def _reset_latch(self) -> None:
        verdict = self._call('reset_latch', lambda: self._guard.reset_latch(self._now))
        if verdict is not None and not verdict.reasons:
            self._oracle.was_reset(self._now)

    # The stream.

    def _tick(self) -> None:
        verdict = self._try('tick', lambda: self._guard.tick(self._now))
        if verdict is None:
            return
        self.tally.ticks += 1
        self.tally.counts[f'state/{verdict.state.name}'] += 1
        if verdict.command is not None:
            self._commanded.append(verdict.command.position)
        self._note(self._oracle.ticked(verdict, self._now))

    def _call(self, name: str, act: Callable[[], Any]) -> Any:
        self._count(f'sent/call: {name}')
        return self._try(name, act)

    def _count(self, what: str) -> None:
        self.tally.messages += 1
        self.tally.counts[what] += 1

    def _try(self, name: str, act: Callable[[], Any]) -> Any:
        """The result of ``act``; None after an exception, which is a violation."""
        try:
            return act()
        except Exception as error:  # whatever it is, it is what is looked for
            self._note([f'exception in {name}: {type(error).__name__}: {error}'])
            return None

    def _note(self, wrong: list[str]) -> None:
        """Counts violations; keeps the first of each kind as an example."""
        self.tally.violations += len(wrong)
        for text in wrong:
            kind = f'violation/{text.partition(":")[0]}'
            self.tally.counts[kind] += 1
            where = f'seed {self._seed}, message {self.tally.messages}'
            self.tally.examples.setdefault(kind, f'{where}: {" ".join(text.split())[:300]}')
