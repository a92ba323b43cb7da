"""Planner recording: observations, goals and proposals of a planner, as a replay needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from jepa_arm.core.messages import Message
from jepa_arm.core.types import FloatArray, JointSample, Observation, Proposal

BLIND_REASON = 'planning from the belief'
"""Ending of ``PlannerStatus.reason`` if the plan was made without an image."""
WRIST_IMAGE_TOPIC = 'wrist_camera/image_raw'
MAX_WRIST_OFFSET_S = 0.05
"""Images of the two cameras belong together if their stamps differ by at most this."""


class PlannerState(Enum):
    """States of the planner, with the values of ``PlannerStatus.msg``."""

    IDLE = 0
    PLANNING = 1
    HOLDING = 2


@dataclass(frozen=True)
class RecordedGoal:
    """A goal that the planner pursued.

    Attributes:
        published: s of the system clock, when the goal became active.
        subject: 'object' or 'tip'.
        position: (3,) m, base frame, if the goal was given as a position; else None.
        yaw: rad, if the goal was given as a position with a yaw; else None.
        has_yaw: whether the goal includes a yaw.
        goal_observation: image and joints, if the goal was given as an observation; else None.
            A tip goal uses its joints only.
        tolerance: m, distance at which the goal counts as reached; NaN if not recorded.
        estimated_position: (3,) m, position that the recorded planner derived from the goal; None
            if not recorded.
        outcome: name of the action's final status; empty if not recorded.
    """

    published: float
    subject: str
    position: FloatArray | None
    yaw: float | None
    has_yaw: bool
    goal_observation: Observation | None
    tolerance: float
    estimated_position: FloatArray | None
    outcome: str


@dataclass(frozen=True)
class RecordedStep:
    """One planning step.

    Attributes:
        published: s of the system clock, when the status was published.
        observation: observation that the step started from; joints alone if no image had arrived
            in time.
        late_observations: observations whose images arrived after a step was planned without them.
        missing: description of data missing from the recording; empty if complete.
        setpoint: (J,) rad, commanded joints at the start of the plan; None if nothing was decided.
        is_continued: whether the plan continues the previous one.
        delay: s, assumed time from the observation to the first command.
        speed_scale: fraction of the full speed that the plan may use.
        state: state of the planner.
        candidates, iterations: number of evaluated action sequences, and number of iterations
            they were split into; 0 without a plan.
        plan_ms: duration of the search.
        distance: m, estimated distance to the goal.
        proposal: proposal sent to the guard; None if none was sent.
    """

    published: float
    observation: Observation | JointSample
    late_observations: tuple[Observation, ...]
    missing: str
    setpoint: FloatArray | None
    is_continued: bool
    delay: float
    speed_scale: float
    state: PlannerState
    candidates: int
    iterations: int
    plan_ms: float
    distance: float
    proposal: Proposal | None

    @property
    def has_plan(self) -> bool:
        """Return whether a plan was made, even if it was not sent."""
        return self.candidates > 0

    @property
    def joints(self) -> FloatArray:
        """Return the measured joints (J,) rad."""
        seen = self.observation
        return seen.joints if isinstance(seen, Observation) else seen.position


@dataclass(frozen=True)
class PlannerRecording:
    """The content of a recording that a replay uses.

    Attributes:
        path: path of the MCAP file.
        notes: metadata written by the recorder, such as ``planner.checkpoint`` and ``git``.
        start: s of the system clock, when the first image was published.
        steps, goals: in order of publication. A goal may have become active before ``start``.
        unplanned_images: number of images between the first and the last step that no step used.
        camera_info: the first ``CameraInfo`` message; None if not recorded.
    """

    path: Path
    notes: Mapping[str, str]
    start: float
    steps: tuple[RecordedStep, ...]
    goals: tuple[RecordedGoal, ...]
    unplanned_images: int
    camera_info: Message | None
