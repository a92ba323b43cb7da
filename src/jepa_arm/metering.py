"""What decisions cost: processor time, floating-point operations, memory, joules."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from .agent import Agent
from .control import control_step
from .decision import Decision
from .evaluator import Evaluator
from .goals import Goal
from .types import Observation

POWERCAP = Path('/sys/class/powercap')
PROCESS = Path('/proc/self')


class EnergyError(RuntimeError):
    """Energy cannot be measured on this machine; the message says why."""


class Rapl:
    """Energy of all processor packages, as the processor itself counts it (Linux powercap).

    Everything that runs on the machine is in it.
    """

    def __init__(self, folder: Path = POWERCAP) -> None:
        """Opens the counters.

        Raises:
            EnergyError: the machine has none, or they may not be read.
        """
        self._zones = [
            zone
            for zone in sorted(folder.glob('intel-rapl:*'))  # AMD's too
            if (zone / 'name').is_file() and (zone / 'name').read_text().startswith('package')
        ]
        if not self._zones:
            raise EnergyError(f'no RAPL counters in {folder} (virtual machines have none)')
        try:
            self._last = [self._read(zone, 'energy_uj') for zone in self._zones]
            self._range = [self._read(zone, 'max_energy_range_uj') for zone in self._zones]
        except OSError as error:
            raise EnergyError(f'RAPL counters: {error}; run as root, or let it be read') from None
        self._joules = 0.0

    def joules(self) -> float:
        """Used since this object was made; call it before a counter runs round twice."""
        now = [self._read(zone, 'energy_uj') for zone in self._zones]
        for before, after, size in zip(self._last, now, self._range, strict=True):
            self._joules += ((after - before) % (size + 1)) * 1e-6
        self._last = now
        return self._joules

    @staticmethod
    def _read(zone: Path, name: str) -> int:
        return int((zone / name).read_text())


class MeteredAgent(Agent):
    """Notes of each decision, encoding included, what it cost.

    Attributes:
        processor_s: s; joules: J, of the whole machine meanwhile, where there is a ``rapl``.
        candidates: sequences priced.
    """

    rapl: Rapl | None = None

    def forget(self) -> None:
        """Starts the notes anew."""
        self.processor_s: list[float] = []
        self.joules: list[float] = []
        self.candidates: list[int] = []

    def decide(self, observation: Observation) -> Decision:
        """See ``Agent.decide``."""
        energy = self.rapl.joules() if self.rapl else 0.0
        began = time.process_time()
        decision = super().decide(observation)
        self.processor_s.append(time.process_time() - began)
        if self.rapl:
            self.joules.append(self.rapl.joules() - energy)
        if decision.plan is not None:
            self.candidates.append(decision.plan.candidates)
        return decision


def count_flops(
    agent: Agent, evaluator: Evaluator, goal: Goal, seed: int, steps: int = 10
) -> float:
    """Floating-point operations of a decision that goes on from one before, encoding included.

    Counted are matrix products and convolutions, a multiplication and an addition as two; what
    works element by element is not. The mean over ``steps`` decisions in scene ``seed``.
    """
    scene = evaluator.task.sample(seed)
    evaluator.world.reset(scene)
    evaluator.guard.reset(scene.joints, now=evaluator.world.time)
    agent.reset(scene.joints)
    agent.set_goal(goal)
    counts = []
    for _ in range(steps + 1):
        with FlopCounterMode(display=False) as counter:
            control_step(
                agent, evaluator.guard, evaluator.world, evaluator.world.config.time.ticks
            )
        counts.append(counter.get_total_flops())
    return float(np.mean(counts[1:]))


def peak_memory_mb(run: Callable[[], None]) -> float | None:
    """MB that this process held at most during ``run``; None where the system does not tell."""
    try:
        (PROCESS / 'clear_refs').write_text('5')  # forgets the peak so far
    except OSError:
        run()
        return None
    run()
    for line in (PROCESS / 'status').read_text().splitlines():
        if line.startswith('VmHWM:'):
            return int(line.split()[1]) / 1024.0
    return None
