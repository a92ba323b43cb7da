"""What is decided on an observation, and what decides."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from .planning.planner import Plan
from .types import FloatArray, JointSample, Observation, Proposal


@dataclass(frozen=True)
class Decision:
    """What the agent makes of one observation.

    Attributes:
        proposal: the joint trajectory it would like to see; None: hold.
        plan: in latent space, with its latency; None without a goal.
        distance, predicted_distance: m (latent units for a latent goal) to the goal, as read
            from the belief now and at the plan's end; NaN without a goal.
        surprise: how improbable the observation was; 1 is the level of an alarm. NaN without an
            image, and without belief heads. channel: what was surprising.
        doubt: m, standard deviation on each axis of what is read of the goal's subject.
        contact: probability that arm and object touch within the plan.
        tip_path: (H, 3) m, where the plan sends the tip, read from the predicted latents.
        told: (J,) rad, where the arm was told to go before, from which the plan starts.
        is_continued: whether the plan goes on from the one before it.
        left: m, of the way round declared obstacles that is left for the goal's subject;
            round_left: for the tip until it can push, where it goes round something first. NaN
            without obstacles, or where nothing is gone round.
        turn: rad, by which the object is to be turned yet; NaN where no yaw was asked for.
        decided_at: s, ``time.perf_counter`` when the decision was made.
    """

    proposal: Proposal | None
    plan: Plan | None = None
    distance: float = np.nan
    predicted_distance: float = np.nan
    surprise: float = np.nan
    channel: str = ''
    doubt: float = np.nan
    contact: float = np.nan
    tip_path: FloatArray | None = None
    told: FloatArray | None = None
    is_continued: bool = False
    left: float = np.nan
    round_left: float = np.nan
    turn: float = np.nan
    decided_at: float = field(default_factory=time.perf_counter)


class Decider(Protocol):
    """Anything that turns observations into proposals: the agent, or a scripted policy."""

    def decide(self, observation: Observation) -> Decision:
        """The decision for ``observation``."""
        ...

    def decide_blind(self, joints: JointSample) -> Decision:
        """The decision without an image."""
        ...

    def resync(self, joints: FloatArray) -> None:
        """Plans on from ``joints`` (J,), where the guard holds the arm."""
        ...
