"""``jepa-arm soak``: the whole graph at work for long, with faults; does anything wear out?

Random goals (places and images) and, in every second one, a random fault of the virtual arm or a
planner that stands still for a while. What is judged: every command, that the arm stops where it
must, memory, missed ticks, and that it is as fast at the end as at the start.
"""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from jepa_arm_msgs.msg import Goal, GuardStatus, PlannerStatus
from jepa_arm_msgs.srv import InjectFault
from tqdm import tqdm

from ..arm import Arm
from ..config import ArmConfig, SimConfig, load
from ..resources import arm_path, config_path, machine
from .attendant import Attendant, place_goal
from .description import simulation
from .faults import FAULTS
from .graph import GraphError, Supervisor
from .parameters import STATUS
from .session import own_domain
from .vitals import GROWTH, CommandWatch, MemoryLog

WARM_UP_S = 60.0
GOAL_S = 12.0
PAUSE = 'planner_pause'
"""The fault that is no fault of the virtual arm: SIGSTOP, later SIGCONT."""
STOPS = ('joints_stop', 'joints_nan', 'camera_stop', PAUSE)
"""Faults under which the arm must come to rest."""
STOP_WITHIN_S = 1.2
"""After the onset of such a fault: age limits, validity of a plan, and the way to rest."""
FAULT_S = 2.0
"""How long those last; others last a random time below."""
SAMPLE_S = 2.0
SHARE = 0.2
"""Of the time, at the start and at the end, over which latencies are compared."""


def soak(
    minutes: float,
    seed: int,
    checkpoint: Path,
    arm: str = 'panda',
    progress: bool = True,
    together: int = 1,
) -> dict[str, Any]:
    """Keeps the graph at work for ``minutes``, with so many faults ``together``.

    Returns:
        a report that explains itself; ``violations`` lists all that must not be.

    Raises:
        GraphError: the graph did not come up.
    """
    with own_domain(), Supervisor(simulation(arm, str(checkpoint))) as graph:
        graph.wait_ready()
        with Attendant(graph) as attendant:
            run = Soak(graph, attendant, seed, arm, together)
            run.run(minutes * 60.0, progress)
            return run.report()


class Soak:
    """Goals, faults, and what is seen of them."""

    def __init__(
        self, graph: Supervisor, attendant: Attendant, seed: int, arm: str, together: int = 1
    ) -> None:
        self._graph, self._attendant, self._seed = graph, attendant, seed
        self._together = together
        self._rng = np.random.default_rng(seed)
        self._arm = Arm(load(ArmConfig, arm_path(arm)))
        dt = load(SimConfig, config_path('sim.yaml')).time.stream_dt
        node = attendant.node
        self._watch = CommandWatch(node, self._arm, dt)
        self._memory = MemoryLog(graph)
        self._inject = node.create_client(InjectFault, 'sim/inject_fault')
        node.create_subscription(GuardStatus, 'guard/status', self._on_guard, STATUS)
        node.create_subscription(PlannerStatus, 'planner/status', self._on_planner, STATUS)
        self._latencies: dict[str, list[tuple[float, float]]] = {'plan': [], 'command': []}
        self._last_proposal: tuple[int, int] | None = None
        self._missed_ticks = 0
        self._outcomes: dict[str, Counter[str]] = {'calm': Counter(), 'with a fault': Counter()}
        self._faults: Counter[str] = Counter()
        self._stops = 0
        self._wrong: list[str] = []
        self._began = self._sampled_at = monotonic()

    def run(self, seconds: float, progress: bool = True) -> None:
        """Goal after goal until the time is over or a process has ended."""
        self._began = monotonic()
        with tqdm(total=round(seconds), unit='s', disable=not progress) as bar:
            while self._passed() < seconds and not self._has_ended():
                try:
                    self._run_goal()
                except GraphError as error:
                    self._wrong.append(f'after {self._passed():.0f} s: {error}')
                bar.update(min(round(self._passed()), bar.total) - bar.n)

    def report(self) -> dict[str, Any]:
        """What happened."""
        memory = self._memory.growth(WARM_UP_S)
        wrong = [*self._wrong, *self._watch.wrong]
        wrong += [f'memory of {n} grew: {m}' for n, m in memory.items() if m['growth'] > GROWTH]
        extra = self._watch.jumps - self._attendant.guard_resets
        if extra > 0:
            wrong.append(f'{extra} jumps of the command without a reset of the guard')
        return {
            'what': 'jepa-arm soak: random goals and faults on simulator, guard and planner',
            'minutes': round(self._passed() / 60.0, 2),
            'seed': self._seed,
            'faults_together': self._together,
            'machine': machine(),
            'goals': {name: dict(counter) for name, counter in self._outcomes.items()},
            'faults': dict(sorted(self._faults.items())),
            'stops_required': self._stops,
            'commands_judged': self._watch.commands,
            'commands_unseen': self._watch.unseen,
            'guard_missed_ticks': self._missed_ticks,
            'memory_after_first_minute': memory,
            'latency_ms': self._compare_latencies(),
            'violations': wrong,
        }

    # Goals and faults.

    def _run_goal(self) -> None:
        rng = self._rng
        task = str(rng.choice(['reach', 'push']))
        scene = self._attendant.reset_scene(int(rng.integers(2**31)), task)
        goal: Goal = scene.goal
        if rng.random() < 0.5:
            place = scene.goal_position
            position = np.array([place.x, place.y, place.z])
            subject = 'tip' if task == 'reach' else 'object'
            goal = place_goal(position, subject, self._arm.config.base_link)
        has_fault = rng.random() < 0.5
        self._plan_fault(str(rng.choice([*FAULTS, PAUSE])) if has_fault else '')
        try:
            outcome = self._attendant.pursue(goal, GOAL_S, self._each)
        finally:
            self._end_fault()
        kind = 'with a fault' if self._had_fault else 'calm'
        self._outcomes[kind][outcome] += 1

    def _plan_fault(self, fault: str) -> None:
        """Has ``fault`` begin a random time from now; '' for none."""
        self._fault, self._is_on, self._had_fault = fault, False, False
        self._fault_at = monotonic() + float(self._rng.uniform(0.3, 2.0)) if fault else np.inf
        must_stop = fault in STOPS
        self._fault_s = FAULT_S if must_stop else float(self._rng.uniform(0.1, FAULT_S))
        self._more: list[str] = []
        if fault and self._together > 1:
            others = sorted(set(FAULTS) - {fault})
            self._more = self._rng.choice(others, self._together - 1, replace=False).tolist()

    def _each(self) -> None:
        """Called again and again while a goal is pursued."""
        now = monotonic()
        if now - self._sampled_at > SAMPLE_S:
            self._memory.sample(self._passed())
            self._sampled_at = now
        if self._fault and not self._is_on and now >= self._fault_at:
            self._begin_fault()
        elif self._is_on and now >= self._on_since + self._fault_s:
            self._end_fault()

    def _begin_fault(self) -> None:
        for fault in (self._fault, *self._more):
            self._faults[fault] += 1
            if fault == PAUSE:
                self._graph.processes['planner'].send_signal(signal.SIGSTOP)
            else:
                request = InjectFault.Request(fault=fault, duration=self._fault_s + 1.0)
                self._attendant.call(self._inject, request)
        self._is_on, self._had_fault, self._on_since = True, True, monotonic()

    def _end_fault(self) -> None:
        """Sees whether the arm stopped; lets a planner that stands still go on."""
        if not self._is_on:
            return
        if self._fault == PAUSE and 'planner' in self._graph.processes:
            self._graph.processes['planner'].send_signal(signal.SIGCONT)
        lasted = monotonic() - self._on_since
        if self._fault in STOPS and lasted > STOP_WITHIN_S:
            self._stops += 1
            moved_for = self._watch.moving_at - self._on_since
            if moved_for > STOP_WITHIN_S:
                self._wrong.append(
                    f'missed stop: {", ".join([self._fault, *self._more])}, still moving at '
                    f'{moved_for:.2f} s'
                )
        self._is_on, self._fault = False, ''

    def _has_ended(self) -> bool:
        name = self._graph.ended()
        if name is not None:
            code, tail = self._graph.exit_codes[name], self._graph.tail(name, 6)
            self._wrong.append(f'{name} ended with {code}: {tail}')
        return name is not None

    # What is seen.

    def _passed(self) -> float:
        return monotonic() - self._began

    def _on_guard(self, msg: GuardStatus) -> None:
        self._missed_ticks = msg.missed_ticks
        stamp = msg.proposal_stamp.sec, msg.proposal_stamp.nanosec
        is_new = stamp != self._last_proposal and msg.state == GuardStatus.FOLLOWING
        if is_new and np.isfinite(msg.obs_to_command_ms):
            self._last_proposal = stamp
            self._latencies['command'].append((self._passed(), msg.obs_to_command_ms))

    def _on_planner(self, msg: PlannerStatus) -> None:
        if np.isfinite(msg.plan_ms):
            self._latencies['plan'].append((self._passed(), msg.plan_ms))

    def _compare_latencies(self) -> dict[str, Any]:
        """Percentiles in the first and the last part of the time."""
        whole, out = self._passed(), {}
        for name, values in self._latencies.items():
            parts = {
                'start': [ms for at, ms in values if at <= SHARE * whole],
                'end': [ms for at, ms in values if at >= (1.0 - SHARE) * whole],
            }
            for part, ms in parts.items():
                for q in (50, 95, 99) if ms else ():
                    out[f'{name}_p{q}_{part}'] = round(float(np.percentile(ms, q)), 1)
                out[f'{name}_count_{part}'] = len(ms)
        return out


def format_soak(report: dict[str, Any]) -> str:
    """The report as a table for a terminal."""
    lines = []
    for key, value in report.items():
        if isinstance(value, dict):
            lines += [f'{key}: {inner:<26} {shown}' for inner, shown in value.items()]
        elif not isinstance(value, list):
            lines.append(f'{key}: {value}')
    lines.append(f'violations: {len(report["violations"])}')
    return '\n'.join([*lines, *report['violations']])
