"""Guard fuzzing (``jepa-arm fuzz core``): hostile inputs to the guard's core, without ROS.

Each episode is determined by its seed alone. Episodes can run in several processes.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from time import perf_counter
from typing import Any

import numpy as np
from tqdm import tqdm

from jepa_arm.config import ArmConfig, GuardConfig, SimConfig, TimeConfig, load
from jepa_arm.core.files import arm_path, config_path
from jepa_arm.core.types import FloatArray, GuardState, JointSample, Proposal
from jepa_arm.datasets.worker_pool import exit_with_parent
from jepa_arm.guard.guard import Guard
from jepa_arm.robot.action_space import TipMotion
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.collision import CollisionModel

from .guard_oracle import GuardOracle
from .mutations import mutate_proposal, mutate_sample

EPISODE_MESSAGES = 1000
CLOCK_JUMPS_S = (-100.0, -1.0, -0.1, 0.06, 0.5, 3600.0)
STALLS_S = (0.02, 0.05, 0.12, 0.3, 5.0)
"""Durations for which the guard's process does not run."""
CHUNK = 8
"""Number of episodes handed to a process at a time."""
WIDE_MIN, WIDE_MAX = (-1.0, -1.0, 0.0), (1.0, 1.0, 1.5)
"""Corners (m) of a workspace in which far more proposals are followed."""


@dataclass
class FuzzCounts:
    """Counts of inputs, answers and violations over episodes.

    Attributes:
        messages: number of proposals, joint samples and calls sent. ticks: number of ticks judged.
        by_kind: number of inputs ('sent/…'), answers ('answer/…'), states ('state/…') and
            violations ('violation/…').
        violations: number of violations. examples: first violation of each kind, with its seed.
    """

    messages: int = 0
    ticks: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    violations: int = 0
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, other: FuzzCounts) -> None:
        """Add the counts of ``other``."""
        self.messages += other.messages
        self.ticks += other.ticks
        self.by_kind += other.by_kind
        self.violations += other.violations
        self.examples = {**other.examples, **self.examples}


class GuardFuzzer:
    """Guard under test, with a robot and a planner that may both send invalid messages.

    Attributes:
        counts: counts of the episode so far.
    """

    def __init__(
        self, seed: int, arms: dict[str, Arm], time: TimeConfig, config: GuardConfig
    ) -> None:
        """Draw the settings of the episode.

        Args:
            seed: seed of the episode.
            arms: the same arm with a 'narrow' and a 'wide' workspace.
            time, config: timing and configuration of the guard.
        """
        self._rng, self._seed = np.random.default_rng(seed), seed
        rng = self._rng
        self._arm = arms[str(rng.choice(list(arms)))]
        self._time, self._config = time, config
        self._guard = Guard(self._arm, time, config)
        self._oracle = GuardOracle(self._arm, time, config)
        self._motion = TipMotion(self._arm)
        self.counts = FuzzCounts()
        self._now, self._ros = float(rng.uniform(0.0, 1e6)), float(rng.choice([0.0, 5.0, 1.7e9]))
        self._start = self._draw_start()
        collisions = CollisionModel(self._arm)
        while collisions.self_collision(self._start) and rng.random() < 0.9:
            self._start = self._draw_start()
        is_wide = self._arm is not arms['narrow']
        styles = ['tip', 'walk', 'edge', 'zigzag'] if is_wide else ['tip', 'tip', 'walk', 'zigzag']
        self._style = str(rng.choice(styles))
        self._waypoints = int(rng.integers(1, 6))
        self._step = np.zeros_like(self._start)
        self._mutation_rate = float(rng.choice([0.0, 0.02, 0.1, 0.5]))
        self._lie_rate = float(rng.choice([0.0, 0.001, 0.01, 0.1]))
        self._lag_ticks = int(rng.choice([0, 0, 0, 3, 3, 10, 25]))
        self._proposal_rate = float(rng.choice([0.1, 0.3]))
        self._frozen_until, self._frozen_at = -1, self._start
        self._commanded: deque[FloatArray] = deque([self._start], maxlen=30)

    def run(self, messages: int = EPISODE_MESSAGES) -> FuzzCounts:
        """Send about ``messages`` messages and judge every answer."""
        self._send_before_start()
        while self.counts.messages < messages:
            self._advance_time()
            if self._rng.random() < self._proposal_rate:
                self._propose()
            self._measure()
            self._call_services()
            self._tick()
        return self.counts

    def _draw_start(self) -> FloatArray:
        """Return joints (J,) rad in the workspace, near home, or at or slightly beyond limits."""
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
        """Use the guard before its start, try to start at invalid joints, start at valid ones."""
        self._propose()
        self._tick()
        invalid = np.full_like(self._start, self._rng.choice([np.nan, 1e9, np.inf]))
        try:
            self._guard.reset(invalid, self._now)
            self._record(['started at invalid joints'])
        except ValueError:
            pass
        self._guard.reset(self._start, self._now)
        self._oracle.on_reset(self._now)

    def _advance_time(self) -> None:
        rng, dt = self._rng, self._time.stream_dt
        passed = dt * (1.0 + 0.1 * rng.normal()) if rng.random() < 0.2 else dt
        if rng.random() < 0.002:
            passed = float(rng.choice(STALLS_S))
        self._now += max(passed, 1e-4)
        self._ros += max(passed, 1e-4)
        if rng.random() < 0.002:
            self._ros = max(0.0, self._ros + float(rng.choice(CLOCK_JUMPS_S)))

    # The planner.

    def _propose(self) -> None:
        rng = self._rng
        proposal, name = self._plan(), 'followable'
        if rng.random() < self._mutation_rate:
            name, proposal = mutate_proposal(proposal, rng)
        if rng.random() < 0.01:
            self._call('reject', lambda: self._guard.reject('schema: not a proposal'))
            return
        self._count(f'sent/{name}')
        verdict = self._try(
            f'submit ({name})', lambda: self._guard.submit(proposal, self._now, self._ros)
        )
        if verdict is None:
            return
        code = verdict.reasons[0].split(':')[0] if verdict.reasons else 'accepted'
        self.counts.by_kind[f'answer/{code}'] += 1
        self._record(self._oracle.judge_submission(verdict, proposal, self._now, self._ros))
        if verdict.reasons:
            self._step = np.zeros_like(self._step)  # _walk then draws another direction

    def _plan(self) -> Proposal:
        """Return a well-formed proposal, close to the limits of what the guard follows."""
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
        """Return waypoints (N, J) rad at up to the velocity limit, straight or in zigzag."""
        rng, arm = self._rng, self._arm
        fastest = arm.velocity_limit / arm.config.velocity_scale * self._time.control_dt
        if rng.random() < 0.2 or not np.any(self._step):
            self._step = rng.uniform(-1.0, 1.0, len(begin)) * fastest
            if self._style == 'edge':
                self._step = np.sign(self._step) * fastest * rng.choice([1.0, 0.999999, 0.3])
        if self._style == 'zigzag':
            self._step = -self._step
        out, q = [], begin
        for _ in range(count):
            q = np.clip(q + self._step, arm.lower, arm.upper)
            out.append(q)
        return np.array(out)

    # The robot.

    def _measure(self) -> None:
        rng = self._rng
        lagging = self._commanded[max(-len(self._commanded), -1 - self._lag_ticks)]
        if rng.random() < self._lie_rate * 0.1:
            self._frozen_until = self.counts.ticks + int(rng.integers(5, 200))
            self._frozen_at = lagging
        if self.counts.ticks < self._frozen_until:
            lagging = self._frozen_at
        if rng.random() < self._lie_rate * 0.3:
            return
        sample, name = JointSample(lagging, np.zeros_like(lagging), self._ros), 'true'
        if rng.random() < self._lie_rate:
            name, sample = mutate_sample(sample, rng)
        self._count(f'sent/joints: {name}')
        self._try(f'observe ({name})', lambda: self._guard.observe(sample, self._now))
        self._oracle.on_joints(sample, self._now)

    # Services.

    def _call_services(self) -> None:
        """Call one of the guard's services, report unreadable joints, or do nothing, at random."""
        rng, guard = self._rng, self._guard
        if guard.state is GuardState.LATCHED and rng.random() < 0.1:
            self._reset_latch()
        elif guard.is_locked_out and rng.random() < 0.05:
            self._call('resume', guard.resume)
            self._oracle.on_resume()
        elif rng.random() < 0.003:
            self._oracle.on_hold()
            self._call('hold', guard.hold)
        elif rng.random() < 0.002:
            self._oracle.on_rejected_joints()
            self._call('reject_joint_state', lambda: guard.reject_joint_state('no such joints'))
        elif rng.random() < 0.002:
            self._reset_latch()

    def _reset_latch(self) -> None:
        verdict = self._call('reset_latch', lambda: self._guard.reset_latch(self._now))
        if verdict is not None and not verdict.reasons:
            self._oracle.on_reset(self._now)

    # Commands.

    def _tick(self) -> None:
        verdict = self._try('tick', lambda: self._guard.tick(self._now))
        if verdict is None:
            return
        self.counts.ticks += 1
        self.counts.by_kind[f'state/{verdict.state.name}'] += 1
        if verdict.command is not None:
            self._commanded.append(verdict.command.position)
        self._record(self._oracle.judge_tick(verdict, self._now))

    def _call(self, name: str, act: Callable[[], Any]) -> Any:
        self._count(f'sent/call: {name}')
        return self._try(name, act)

    def _count(self, what: str) -> None:
        self.counts.messages += 1
        self.counts.by_kind[what] += 1

    def _try(self, name: str, act: Callable[[], Any]) -> Any:
        """Return the result of ``act``, or None after an exception, which is a violation."""
        try:
            return act()
        except Exception as error:  # any exception is a finding
            self._record([f'exception in {name}: {type(error).__name__}: {error}'])
            return None

    def _record(self, violations: list[str]) -> None:
        """Count violations; keep the first of each kind as an example."""
        self.counts.violations += len(violations)
        for text in violations:
            kind = f'violation/{text.partition(":")[0]}'
            self.counts.by_kind[kind] += 1
            where = f'seed {self._seed}, message {self.counts.messages}'
            self.counts.examples.setdefault(kind, f'{where}: {" ".join(text.split())[:300]}')


def fuzz_core(
    count: int, seed: int, arm: str = 'panda', workers: int = 1, progress: bool = True
) -> dict[str, Any]:
    """Send hostile messages to the guard's core and judge every answer.

    Episodes have the seeds ``seed``, ``seed`` + 1, …; an episode depends on its seed alone.

    Args:
        count: number of messages, rounded to whole episodes.
        seed: seed of the first episode. arm: name of the arm.
        workers: number of processes; they end with this one, even if it is killed.
        progress: show a progress bar.

    Returns:
        Counts of messages, answers and states, the number of ``violations``, and ``examples`` of
        violations with the seeds of their episodes.
    """
    total, began = FuzzCounts(), perf_counter()
    seeds = range(seed, seed + max(1, round(count / EPISODE_MESSAGES)))
    length = min(count, EPISODE_MESSAGES)
    with tqdm(total=len(seeds) * length, unit='msg', unit_scale=True, disable=not progress) as bar:
        for counts in _run_all(seeds, length, arm, workers):
            total.add(counts)
            bar.update(counts.messages)
            bar.set_postfix(violations=total.violations)
    seconds = perf_counter() - began
    return {
        'messages': total.messages,
        'ticks': total.ticks,
        'seeds': [seeds[0], seeds[-1]],
        'violations': total.violations,
        'examples': list(total.examples.values()),
        'seconds': round(seconds, 1),
        'messages_per_s': round(total.messages / seconds),
        'counts': dict(sorted(total.by_kind.items())),
    }


def _run_all(seeds: range, length: int, arm: str, workers: int) -> Iterator[FuzzCounts]:
    run = partial(_run_episode, length=length, arm=arm)
    if workers == 1:
        yield from map(run, seeds)
        return
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(workers, context, exit_with_parent) as pool:
        yield from pool.map(run, seeds, chunksize=CHUNK)


def _run_episode(seed: int, length: int, arm: str) -> FuzzCounts:
    return GuardFuzzer(seed, *_load(arm)).run(length)


@cache
def _load(name: str) -> tuple[dict[str, Arm], TimeConfig, GuardConfig]:
    """Return the arm with its own workspace and with a wide one, and the guard's settings."""
    config = load(ArmConfig, arm_path(name))
    wide = replace(config, workspace_min=WIDE_MIN, workspace_max=WIDE_MAX)
    time = load(SimConfig, config_path('sim.yaml')).time
    guard = load(GuardConfig, config_path('guard.yaml'))
    return {'narrow': Arm(config), 'wide': Arm(wide)}, time, guard
