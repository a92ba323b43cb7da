"""A recording of the graph: what its planner saw, was asked for and proposed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..messages import Message
from ..types import FloatArray, JointSample, Observation, Proposal

FROM_BELIEF = 'planning from the belief'
"""With what the reason of a status ends that tells of a plan made without an image."""
TOO_OLD = 's old when it comes'
"""What the reason of a status says where the newest image was too old to plan from."""
WRIST_IMAGES = 'wrist_camera/image_raw'
"""Topic of the wrist camera."""
WRIST_APART_S = 0.05
"""Between the stamps of two cameras' images that are taken for one."""


@dataclass(frozen=True)
class Recording:
    """What a replay needs of a file.

    Attributes:
        about: the recorder's notes: ``planner.checkpoint``, ``planner.seed``, ``git``, ...
        began: s of the system clock, when the first image was published.
        steps, goals: in the order of their publication. A goal may have begun before.
        unplanned: images between the first and the last step that were not planned from, with
            the time of their publication.
        camera_info: the first; None: not recorded.
    """

    path: Path
    namespace: str
    about: Mapping[str, str]
    began: float
    steps: tuple[Step, ...]
    goals: tuple[Asked, ...]
    unplanned: tuple[tuple[float, Observation], ...]
    camera_info: Message | None


@dataclass(frozen=True)
class Step:
    """One planning step.

    Attributes:
        published: s of the system clock, when the planner told of it; plan_ms: of its search.
        late: images that came after what they show was planned without them, taken in before.
            None where the recording does not say.
        lacks: what of it, or before it, is not in the recording; empty if nothing.
        told, is_continued, latency_s: what it started from; see ``decision.Decision``. ``told`` is
            None where nothing was decided. speed: share of the full speed it was planned with.
        seen: that it was made from; joints alone where no image had come in time.
        state: of the planner. source: of its plan. candidates: priced for it, in how many sweeps:
            0 where the recording does not say.
        distance: m, read distance to the goal; surprise: see ``decision.Decision``.
        proposal: what was sent to the guard; None: nothing.
    """

    published: float
    plan_ms: float
    late: tuple[Observation, ...] | None
    lacks: str
    told: FloatArray | None
    is_continued: bool
    latency_s: float
    speed: float
    seen: Observation | JointSample
    state: PlannerState
    source: str
    candidates: int
    sweeps: int
    distance: float
    surprise: float
    proposal: Proposal | None

    @property
    def has_plan(self) -> bool:
        """Whether a plan was made, sent or not."""
        return self.candidates > 0


class PlannerState(Enum):
    """What a planner does; values equal those of ``PlannerStatus.msg``."""

    IDLE = 0
    PLANNING = 1
    HOLDING = 2
    FAULT = 3


@dataclass(frozen=True)
class Asked:
    """One goal that was pursued.

    Attributes:
        published: s of the system clock, when its pursuit began.
        subject: 'object' or 'tip'.
        place: (3,) m, base frame, if it was asked for as a place; else None.
        yaw: rad, of that place, if one was asked for. wants_yaw: whether any was.
        shown: with image and joints if it was asked for so; only joints count for the tip.
        reach: m, read distance that counted as reached; NaN if it is not known.
        read_place: (3,) m, where the recorded planner took it to be; None if it is not known.
        outcome: of the action; empty if its end was not recorded.
    """

    published: float
    subject: str
    place: FloatArray | None
    shown: Observation | None
    reach: float
    read_place: FloatArray | None
    outcome: str
    yaw: float | None = None
    wants_yaw: bool = False
