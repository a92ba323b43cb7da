"""Graph benchmark: latencies, rates, memory and processor time of the whole graph."""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
from jepa_arm_msgs.msg import GuardStatus
from sensor_msgs.msg import Image

from jepa_arm.evaluation.benchmarks import BENCH_SEED
from jepa_arm.evaluation.episode import EpisodeRecord
from jepa_arm.ros.runtime.environment import isolated_domain
from jepa_arm.ros.runtime.process import resident_mb
from jepa_arm.ros.runtime.qos import SENSOR_QOS, STATUS_QOS

from .description import SimulationGraph
from .episode_runner import GraphEpisodeRunner
from .supervisor import Supervisor

SETTLE_S = 5.0
"""Time after the start, s, after which the graph only waits for goals."""


def bench_ros(
    checkpoint: Path, seconds: float = 30.0, arm: str = 'panda', idle: float = 10.0
) -> dict[str, Any]:
    """Measure latencies, rates, memory and processor time while the whole graph runs.

    Args:
        checkpoint: folder of the world model.
        seconds: s of planning on the push task.
        arm: name or path of the arm.
        idle: s for which the processor time of an idle graph is measured first, without a goal
            and without other subscribers.
    """
    to_ready_s, idle_percent = _measure_idle(checkpoint, arm, idle)
    with GraphEpisodeRunner('push', checkpoint, arm) as runner:
        usage = {name: ProcessUsage(p.pid) for name, p in runner.supervisor.processes.items()}
        statuses = runner.client.record(GuardStatus, 'guard/status', STATUS_QOS)
        images = runner.client.record(Image, 'camera/image_raw', SENSOR_QOS)
        results: list[EpisodeRecord] = []
        while runner.planned_s < seconds:
            left = seconds - runner.planned_s + 1.0
            results.append(runner.run_episode(BENCH_SEED + len(results), time_limit=left))
        figures: dict[str, Any] = {}
        command_ms = [ms for r in results for ms in r.command_ms]
        plan_ms = [ms for r in results for ms in r.plan_ms]
        for name, values in (('obs_to_command_ms', command_ms), ('plan_ms', plan_ms)):
            for q in (50, 99):
                figures[f'{name}_p{q}'] = round(float(np.percentile(values, q)), 2)
        figures['replan_hz'] = round((len(plan_ms) - len(results)) / runner.planned_s, 2)
        arrivals = [at for at, _ in images[-100:]]
        figures['image_rate_hz'] = round((len(arrivals) - 1) / (arrivals[-1] - arrivals[0]), 2)
        jitter_ms = [status.tick_jitter_ms for _, status in statuses]
        figures['guard_tick_jitter_ms'] = round(float(np.percentile(jitter_ms, 99)), 2)
        figures['guard_missed_ticks'] = statuses[-1][1].missed_ticks
        for name, used in usage.items():
            figures[f'rss_mb_{name}'] = round(resident_mb(used.pid) or np.nan, 1)
            figures[f'cpu_percent_{name}'] = round(used.cpu_percent(), 1)
            figures[f'idle_cpu_percent_{name}'] = round(idle_percent[name], 1)
        figures['start_to_ready_s'] = round(to_ready_s, 1)
        figures['start_to_motion_s'] = round(runner.to_motion_s, 1)
        figures['episodes'] = len(results)
    return figures


def _measure_idle(checkpoint: Path, arm: str, seconds: float) -> tuple[float, dict[str, float]]:
    """Measure the start-up time, s, and the processor time of each idle node, % of a core."""
    graph, began = SimulationGraph(arm=arm, checkpoint=str(checkpoint)), monotonic()
    with isolated_domain(), Supervisor(graph.nodes) as supervisor:
        supervisor.wait_ready()
        to_ready_s = monotonic() - began
        sleep(SETTLE_S)
        usage = {name: ProcessUsage(p.pid) for name, p in supervisor.processes.items()}
        sleep(seconds)
        return to_ready_s, {name: used.cpu_percent() for name, used in usage.items()}


class ProcessUsage:
    """Processor time of a process, from /proc (Linux)."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._began, self._cpu_s = monotonic(), self._read_cpu_s()

    def cpu_percent(self) -> float:
        """Return the mean processor load since this object was created, % of a core."""
        return 100.0 * (self._read_cpu_s() - self._cpu_s) / (monotonic() - self._began)

    def _read_cpu_s(self) -> float:
        fields = Path(f'/proc/{self.pid}/stat').read_text().rpartition(')')[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
