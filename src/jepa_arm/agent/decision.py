"""Decisions and imagined motions of an agent, and the feedback that a decision is based on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from jepa_arm.belief.belief import Belief, EncodedObservation
from jepa_arm.core.goals import Goal
from jepa_arm.core.types import FloatArray, JointSample, Observation, Proposal
from jepa_arm.planning.planner import Plan


@dataclass(frozen=True)
class StepFeedback:
    """Feedback since the last decision, and the conditions of the next one.

    Attributes:
        setpoint: (J,) rad, commanded joints to plan from; None: those of the last decision.
        is_continued: whether the next plan continues the last one. Otherwise its warm start and
            the actions in progress are dropped.
        late_observations: observations that arrived after a plan was made without them, oldest
            first. Those that are not newer than the newest image are ignored.
        sent_at: s, time at which the last proposal was sent; None: assumed from ``delay``.
        speed_scale: share of the tip's full speed to plan with, in (0, 1].
        delay: s from an observation to the first command of its proposal.
        max_candidates: action sequences to evaluate for a plan, regardless of the deadline; None:
            as many as the deadline allows.
    """

    setpoint: FloatArray | None = None
    is_continued: bool = True
    late_observations: tuple[Observation, ...] = ()
    sent_at: float | None = None
    speed_scale: float = 1.0
    delay: float = 0.0
    max_candidates: int | None = None


NO_FEEDBACK = StepFeedback()


@dataclass(frozen=True)
class Evidence:
    """An encoded observation and the belief before it, from which surprise is computed.

    Attributes:
        belief: the belief before the observation.
        encoded: the observation, with the features of its image.
        tip_setpoints: (1, 2, 3) m, commanded tip positions at the observation and a control step
            before.
    """

    belief: Belief
    encoded: EncodedObservation
    tip_setpoints: Tensor


@dataclass(frozen=True)
class Decision:
    """The agent's answer to one observation.

    ``Agent.assess`` adds ``surprise``, ``surprise_channel``, ``predicted_distance``,
    ``position_std``, ``risk`` and ``tip_path``, computed from ``evidence``, ``goal`` and
    ``start``; ``Agent.step`` sets all other attributes.

    Attributes:
        proposal: the joint trajectory to execute; None: hold.
        problem: why there is no plan although there is a goal; empty otherwise.
        plan: the plan in latent space; None without a goal, or if none was found.
        setpoint: (J,) rad, commanded joints at which the plan starts.
        is_continued: whether the plan continues the one before it.
        distance: m (latent units for a latent goal), current distance to the goal; NaN without
            a plan.
        remaining_path: m, remaining length of the path of the goal's subject around declared
            obstacles; NaN without obstacles.
        remaining_approach: m, remaining length of the tip's path to its place behind the
            object; NaN unless the tip must go there first.
        yaw_error: rad, remaining yaw error of the object; NaN if the goal has no yaw.
        surprise: improbability of the observation; 1 is the alarm threshold. NaN without an
            image, belief heads, image features or enough recent images.
        surprise_channel: the most surprising channel, see ``belief_heads.CHANNELS``.
        predicted_distance: as ``distance``, at the plan's end.
        position_std: m, predicted standard deviation of the goal subject's position per axis.
        risk: highest predicted probability of contact between arm and object in the plan.
        tip_path: (H, 3) m, tip positions read from the predicted latents.
        decided_at: s, ``time.perf_counter`` when the decision was made.
        evidence: the observation and the belief before it; None without an image.
        goal: the goal; a tip goal is shifted by the current error of the tip probe.
        start: (1, D) latent at which the plan starts.
    """

    proposal: Proposal | None
    problem: str = ''
    plan: Plan | None = None
    setpoint: FloatArray | None = None
    is_continued: bool = False
    distance: float = np.nan
    remaining_path: float = np.nan
    remaining_approach: float = np.nan
    yaw_error: float = np.nan
    surprise: float = np.nan
    surprise_channel: str = ''
    predicted_distance: float = np.nan
    position_std: float = np.nan
    risk: float = np.nan
    tip_path: FloatArray | None = None
    decided_at: float = field(default_factory=time.perf_counter)
    evidence: Evidence | None = field(default=None, repr=False)
    goal: Goal | None = field(default=None, repr=False)
    start: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ImaginedMotion:
    """Motion of tip and object that the world model predicts for given actions; nothing moves.

    One row per model step.

    Attributes:
        times: (N,) s from now.
        tips, objects: (N, 3) m, read by the probes from the predicted latents.
    """

    times: FloatArray
    tips: FloatArray
    objects: FloatArray


class DecisionMaker(Protocol):
    """Anything that turns observations into proposals: the agent, or a scripted policy."""

    def step(
        self, observation: Observation | JointSample, feedback: StepFeedback = NO_FEEDBACK
    ) -> Decision:
        """Return the decision for an observation, or for measured joints if there is no image."""
        ...

    def assess(self, decision: Decision) -> Decision:
        """Return ``decision`` completed with the values that its proposal does not need."""
        ...
