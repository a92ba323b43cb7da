"""Soak test (``jepa-arm soak``): random goals and faults on the graph for a long time.

Goals are positions and images. During about half of them, the virtual arm has a random fault or
the planner's process is paused. Every command, required stops and memory growth are judged;
missed ticks, and latency at the start and at the end, are reported.
"""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from jepa_arm_msgs.msg import Goal, GuardStatus, PlannerStatus
from jepa_arm_msgs.srv import InjectFault
from tqdm import tqdm

from jepa_arm.config import ArmConfig, SimConfig, load
from jepa_arm.core.files import arm_path, config_path
from jepa_arm.core.goals import PositionGoal
from jepa_arm.robot.arm import Arm
from jepa_arm.ros.client import ANSWER_S, GraphClient
from jepa_arm.ros.graph.description import SimulationGraph
from jepa_arm.ros.graph.supervisor import Supervisor
from jepa_arm.ros.runtime.node_contract import GraphError
from jepa_arm.ros.runtime.qos import STATUS_QOS
from jepa_arm.ros.sim.faults import FAULTS
from jepa_arm_validation.graph import running_graph
from jepa_arm_validation.monitors.graph_monitors import (
    CommandMonitor,
    MemoryMonitor,
    excessive_growth,
)

WARM_UP_S = 60.0
GOAL_S = 12.0
PLANNER_PAUSE = 'planner_pause'
"""Fault in addition to those of the virtual arm: SIGSTOP and later SIGCONT of the planner."""
STOPPING_FAULTS = ('joints_stop', 'joints_nan', 'camera_stop', PLANNER_PAUSE)
"""Faults under which the arm must come to rest."""
MAX_STOP_S = 1.2
"""Longest time (s) from onset of a stopping fault to rest: age limits, plan validity and stop."""
FAULT_S = 2.0
"""Duration (s) of a stopping fault; other faults last a random shorter time."""
SAMPLE_PERIOD_S = 2.0
LATENCY_SHARE = 0.2
"""Share of the time, at the start and at the end, over which latencies are compared."""


@dataclass(frozen=True)
class SoakSettings:
    """Settings of a soak test.

    Attributes:
        minutes: duration. seed: seed of goals and faults.
        arm: name of the arm. faults_together: number of faults injected at a time.
    """

    minutes: float
    seed: int
    arm: str = 'panda'
    faults_together: int = 1


@dataclass
class InjectedFault:
    """Faults that are injected while one goal is pursued.

    Attributes:
        names: the first one decides whether the arm must stop; empty if there is no fault.
        at: planned onset, s, ``time.monotonic``. duration: s.
        began: time of the injection, s; NaN before it.
    """

    names: tuple[str, ...] = ()
    at: float = np.inf
    duration: float = 0.0
    began: float = np.nan


def run_soak(checkpoint: Path, settings: SoakSettings, progress: bool = True) -> dict[str, Any]:
    """Run the soak test on a new graph; return its report with the list of ``violations``.

    Raises:
        GraphError: the graph did not start.
    """
    with running_graph(SimulationGraph(settings.arm, str(checkpoint)), 'soak') as running:
        return SoakTest(*running, settings).run(progress)


class SoakTest:
    """Sender of goals and faults that records what the graph does."""

    def __init__(self, graph: Supervisor, client: GraphClient, settings: SoakSettings) -> None:
        """Subscribe to commands and status.

        Args:
            graph: the running processes. client: client connected to them.
            settings: settings of the test.
        """
        self._graph, self._client, self._settings = graph, client, settings
        self._rng = np.random.default_rng(settings.seed)
        arm = Arm(load(ArmConfig, arm_path(settings.arm)))
        dt = load(SimConfig, config_path('sim.yaml')).time.stream_dt
        self._commands = client.execute(lambda: CommandMonitor(client.node, arm, dt))
        self._memory = MemoryMonitor(graph)
        self._latencies: dict[str, list[tuple[float, float]]] = {'plan': [], 'command': []}
        self._last_proposal: tuple[int, int] | None = None
        self._missed_ticks = self._required_stops = 0
        self._outcomes: dict[str, Counter[str]] = {'calm': Counter(), 'with a fault': Counter()}
        self._faults: Counter[str] = Counter()
        self._violations: list[str] = []
        self._fault = InjectedFault()
        self._began = self._sampled_at = monotonic()
        client.subscribe(GuardStatus, 'guard/status', self._on_guard, STATUS_QOS)
        client.subscribe(PlannerStatus, 'planner/status', self._on_planner, STATUS_QOS)

    def run(self, progress: bool) -> dict[str, Any]:
        """Pursue goals until the time is over or a process has ended; return the report."""
        self._began, seconds = monotonic(), self._settings.minutes * 60.0
        with tqdm(total=round(seconds), unit='s', disable=not progress) as bar:
            while self._elapsed() < seconds and not self._has_process_ended():
                try:
                    self._pursue_goal()
                except GraphError as error:
                    self._violations.append(f'after {self._elapsed():.0f} s: {error}')
                bar.update(min(round(self._elapsed()), bar.total) - bar.n)
        return self._report()

    def _report(self) -> dict[str, Any]:
        memory, commands = self._memory.growth(WARM_UP_S), self._commands
        violations = self._violations + commands.findings(self._client.guard_resets)
        return {
            'what': 'jepa-arm soak: random goals and faults on simulator, guard and planner',
            'minutes': round(self._elapsed() / 60.0, 2),
            'seed': self._settings.seed,
            'faults_together': self._settings.faults_together,
            'goals': {name: dict(counter) for name, counter in self._outcomes.items()},
            'faults': dict(sorted(self._faults.items())),
            'stops_required': self._required_stops,
            'commands_judged': commands.commands,
            'commands_lost': commands.lost,
            'guard_missed_ticks': self._missed_ticks,
            'memory_after_first_minute': memory,
            'latency_ms': self._compare_latencies(),
            'violations': violations + excessive_growth(memory),
        }

    # Goals and faults.

    def _pursue_goal(self) -> None:
        rng = self._rng
        task = str(rng.choice(['reach', 'push']))
        scene = self._client.reset(int(rng.integers(2**31)), task)
        goal: Goal | PositionGoal = scene.goal
        if rng.random() < 0.5:
            p = scene.goal_position
            subject = 'tip' if task == 'reach' else 'object'
            goal = PositionGoal(subject, np.array([p.x, p.y, p.z]))
        self._fault = self._draw_fault() if rng.random() < 0.5 else InjectedFault()
        injected = self._faults.total()
        try:
            sent = self._client.send_goal(goal, timeout=GOAL_S)
            self._client.wait(lambda: self._act() or sent.is_done, 'the result', GOAL_S + ANSWER_S)
            result = sent.result()
        finally:
            self._end_fault()
        kind = 'calm' if self._faults.total() == injected else 'with a fault'
        self._outcomes[kind][result.outcome] += 1

    def _draw_fault(self) -> InjectedFault:
        """Return a random fault with a random onset, and random further faults."""
        name = str(self._rng.choice([*FAULTS, PLANNER_PAUSE]))
        at = monotonic() + float(self._rng.uniform(0.3, 2.0))
        is_stopping = name in STOPPING_FAULTS
        duration = FAULT_S if is_stopping else float(self._rng.uniform(0.1, FAULT_S))
        others = sorted(set(FAULTS) - {name})
        more = self._rng.choice(others, self._settings.faults_together - 1, replace=False)
        return InjectedFault((name, *more.tolist()), at, duration)

    def _act(self) -> None:
        """Sample memory, and begin or end a fault when due; called while a goal is pursued."""
        now = monotonic()
        if now - self._sampled_at > SAMPLE_PERIOD_S:
            self._memory.sample(self._elapsed())
            self._sampled_at = now
        if now >= self._fault.began + self._fault.duration:
            self._end_fault()
        elif now >= self._fault.at and np.isnan(self._fault.began):
            self._begin_fault()

    def _begin_fault(self) -> None:
        for name in self._fault.names:
            self._faults[name] += 1
            if name == PLANNER_PAUSE:
                self._graph.processes['planner'].send_signal(signal.SIGSTOP)
            else:
                request = InjectFault.Request(fault=name, duration=self._fault.duration + 1.0)
                self._client.call(InjectFault, 'sim/inject_fault', request)
        self._fault.began = monotonic()

    def _end_fault(self) -> None:
        """End the fault: resume a paused planner, and judge whether the arm has stopped."""
        fault, self._fault = self._fault, InjectedFault()
        if np.isnan(fault.began):
            return
        if PLANNER_PAUSE in fault.names and 'planner' in self._graph.processes:
            self._graph.processes['planner'].send_signal(signal.SIGCONT)
        if fault.names[0] in STOPPING_FAULTS and monotonic() - fault.began > MAX_STOP_S:
            self._required_stops += 1
            moved_for = self._commands.moving_at - fault.began
            if moved_for > MAX_STOP_S:
                self._violations.append(
                    f'missed stop: {", ".join(fault.names)}, still moving at {moved_for:.2f} s'
                )

    def _has_process_ended(self) -> bool:
        name = self._graph.poll_ended()
        if name is not None:
            code, tail = self._graph.exit_codes[name], self._graph.tail(name, 6)
            self._violations.append(f'{name} ended with {code}: {tail}')
        return name is not None

    # Records.

    def _elapsed(self) -> float:
        return monotonic() - self._began

    def _on_guard(self, msg: GuardStatus) -> None:
        self._missed_ticks = msg.missed_ticks
        stamp = msg.proposal_stamp.sec, msg.proposal_stamp.nanosec
        is_new = stamp != self._last_proposal and msg.state == GuardStatus.FOLLOWING
        if is_new and np.isfinite(msg.obs_to_command_ms):
            self._last_proposal = stamp
            self._latencies['command'].append((self._elapsed(), msg.obs_to_command_ms))

    def _on_planner(self, msg: PlannerStatus) -> None:
        if np.isfinite(msg.plan_ms):
            self._latencies['plan'].append((self._elapsed(), msg.plan_ms))

    def _compare_latencies(self) -> dict[str, Any]:
        """Return latency percentiles over the first and over the last part of the test."""
        total, figures = self._elapsed(), {}
        for name, values in self._latencies.items():
            parts = {
                'start': [ms for at, ms in values if at <= LATENCY_SHARE * total],
                'end': [ms for at, ms in values if at >= (1.0 - LATENCY_SHARE) * total],
            }
            for part, ms in parts.items():
                for q in (50, 95, 99) if ms else ():
                    figures[f'{name}_p{q}_{part}'] = round(float(np.percentile(ms, q)), 1)
                figures[f'{name}_count_{part}'] = len(ms)
        return figures
