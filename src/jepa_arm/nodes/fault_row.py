"""One row of the table of faults, and how rows of one kind are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from . import fault_plans as plans
from .fault_scenarios import Stop, Trial
from .fault_stage import Stage

COMMAND_S = 0.15
"""s to the start of the stop where a proposal is at fault."""
JOINTS_S = 0.1
"""s without joint states to the start of the stop."""
BLACKOUT_S = 0.5
"""s for which the camera may be missing."""
STOP_S = 0.2
"""s that a jerk-limited stop may take, from its start."""
SILENCE_S = 0.3
"""s to rest when the planner or the guard falls silent."""
BLOCKED_S = 0.5
"""s until a blocked arm is seen to be behind its commands."""
LATCHED_S = 8.0
"""s until an arm that stays blocked is given up."""
SHORT_S = 0.7
"""s that a fault lasts which a goal outlives."""


class Play(Protocol):
    """Tries one fault on a prepared stage."""

    @property
    def expected(self) -> str:
        """What must happen, in words."""
        ...

    def __call__(self, stage: Stage) -> Trial:
        """What happened."""
        ...


@dataclass(frozen=True)
class Row:
    """One fault.

    Attributes:
        number: of the group of faults it belongs to. name: to choose it by.
        fault: in words. play: tries it.
        note: what a reader of the table must know.
    """

    number: int
    name: str
    fault: str
    play: Play
    note: str = ''


def virtual(fault: str, value: float = 0.0) -> Callable[[Stage], float]:
    """Has the virtual arm break something for ``SHORT_S``."""
    return lambda stage: stage.inject(fault, SHORT_S, value)


def send_signal(name: str, number: int) -> Callable[[Stage], float]:
    """Sends a signal to the process of a node."""
    return lambda stage: stage.signal(name, number)


def camera(fault: str, reason: str, value: float = 0.0) -> Stop:
    """A camera fault that a goal outlives."""
    said = (f'planner: {reason}',)
    return Stop(virtual(fault, value), said, BLACKOUT_S, BLACKOUT_S + STOP_S)


def joints(fault: str, *reasons: str) -> Stop:
    """Joint states that cannot be used, which a goal outlives."""
    return Stop(virtual(fault), reasons, COMMAND_S, COMMAND_S + STOP_S, trusts_joints=False)


def clock(fault: str, direction: str) -> Stop:
    """A jump of the clock, which a goal outlives."""
    said = (f'guard: clock: ROS time jumped {direction}',)
    return Stop(virtual(fault), said, COMMAND_S, COMMAND_S + STOP_S)


def plan(spoil: plans.Spoil, reason: str, after: str = 'resumes') -> Stop:
    """A bad proposal in the stream of a moving arm."""
    return Stop(
        partial(plans.send, spoil),
        (f'guard: {reason}',),
        COMMAND_S,
        COMMAND_S + STOP_S,
        after=after,
        before=plans.look_for_self_collision,
        by='proposals',
    )
