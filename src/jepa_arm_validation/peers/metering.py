"""Cost of decisions: processor time, floating-point operations, memory and energy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from jepa_arm.agent.agent import Agent
from jepa_arm.agent.decision import NO_FEEDBACK, Decision, StepFeedback
from jepa_arm.core.errors import JepaArmError
from jepa_arm.core.goals import Goal
from jepa_arm.core.types import JointSample, Observation
from jepa_arm.evaluation.episode_runner import EpisodeRunner

POWERCAP = Path('/sys/class/powercap')
PROCESS = Path('/proc/self')
COUNTED = 10
"""Number of decisions over which operations are counted."""


class EnergyError(JepaArmError):
    """Energy cannot be measured on this machine; the message says why."""


class RaplCounter:
    """Energy of all processor packages, counted by the processor itself (RAPL, Linux powercap).

    The counters include everything that runs on the machine.
    """

    def __init__(self, folder: Path = POWERCAP) -> None:
        """Open the counters.

        Raises:
            EnergyError: the machine has no counters, or they may not be read.
        """
        self._zones = [
            zone
            for zone in sorted(folder.glob('intel-rapl:*'))  # AMD processors use this name, too
            if (zone / 'name').is_file() and (zone / 'name').read_text().startswith('package')
        ]
        if not self._zones:
            raise EnergyError(f'no RAPL counters in {folder} (virtual machines have none)')
        try:
            self._last = [_read_counter(zone, 'energy_uj') for zone in self._zones]
            self._range = [_read_counter(zone, 'max_energy_range_uj') for zone in self._zones]
        except OSError as error:
            raise EnergyError(f'RAPL counters: {error}; run as root or grant access') from None
        self._joules = 0.0

    def joules(self) -> float:
        """Return the energy used since construction, J.

        Between two calls, a counter may wrap around at most once.
        """
        now = [_read_counter(zone, 'energy_uj') for zone in self._zones]
        for before, after, size in zip(self._last, now, self._range, strict=True):
            self._joules += ((after - before) % (size + 1)) * 1e-6
        self._last = now
        return self._joules


class MeteredAgent(Agent):
    """Agent that records what each decision, encoding included, costs.

    Attributes:
        energy_counter: counter that measures the whole machine during a decision, or None.
        processor_s: processor time of each decision, s.
        joules: energy of each decision, J; zero without a counter.
        candidates: number of action sequences evaluated for each decision.
    """

    def __init__(self, *args: Any, counter: RaplCounter | None = None, **kwargs: Any) -> None:
        """Build the agent; see ``Agent`` for the other arguments."""
        super().__init__(*args, **kwargs)
        self.energy_counter = counter
        self.processor_s: list[float] = []
        self.joules: list[float] = []
        self.candidates: list[int] = []

    def clear_records(self) -> None:
        """Delete the records of all decisions."""
        self.processor_s, self.joules, self.candidates = [], [], []

    def step(
        self, observation: Observation | JointSample, feedback: StepFeedback = NO_FEEDBACK
    ) -> Decision:
        """Decide as ``Agent.step`` does, and record the cost."""
        self.processor_s.append(0.0)
        self.joules.append(0.0)
        with self._recording():
            decision = super().step(observation, feedback)
        if decision.plan is not None:
            self.candidates.append(decision.plan.candidates)
        return decision

    def assess(self, decision: Decision) -> Decision:
        """Assess as ``Agent.assess`` does, and add the cost to the decision's record."""
        with self._recording():
            return super().assess(decision)

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Add the cost of the enclosed code to the record of the newest decision."""
        energy = self.energy_counter.joules() if self.energy_counter else 0.0
        began = time.process_time()
        yield
        self.processor_s[-1] += time.process_time() - began
        if self.energy_counter:
            self.joules[-1] += self.energy_counter.joules() - energy


def count_flops(agent: Agent, runner: EpisodeRunner, goal: Goal, seed: int) -> float:
    """Count the floating-point operations per decision, encoding included.

    Only matrix products and convolutions are counted; a multiplication and an addition count as
    two. The result is the mean over ``COUNTED`` decisions in the scene of ``seed``. The first
    decision, which has no warm start, is left out.
    """
    loop, counts = runner.control_loop(agent, runner.task.sample(seed), goal), []
    for _ in range(COUNTED + 1):
        with FlopCounterMode(display=False) as counter:
            loop.step()
        counts.append(counter.get_total_flops())
    return float(np.mean(counts[1:]))


def peak_memory_mb(run: Callable[[], None]) -> float | None:
    """Measure the peak resident memory (MB) of this process during ``run``.

    ``run`` is called in any case. The result is None if the system does not report the peak.
    """
    try:
        (PROCESS / 'clear_refs').write_text('5')  # resets the peak
    except OSError:
        run()
        return None
    run()
    for line in (PROCESS / 'status').read_text().splitlines():
        if line.startswith('VmHWM:'):
            return int(line.split()[1]) / 1024.0
    return None


def _read_counter(zone: Path, name: str) -> int:
    return int((zone / name).read_text())
