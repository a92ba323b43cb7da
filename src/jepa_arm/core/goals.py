"""Goals: positions of the object or the tip, poses of the object, and latents.

A goal image, too, becomes a position goal by default: it also shows an arm pose, which is not part
of the goal, so only the position of the object or the tip is read from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import JepaArmError
from .types import FloatArray

HOLD_STEPS = 3
"""Consecutive control steps within tolerance after which a goal counts as reached."""
SUBJECTS = ('object', 'tip')
"""Subjects of a position goal."""


class GoalError(JepaArmError, ValueError):
    """A goal that cannot be pursued; the message says what was expected and received."""


@dataclass(frozen=True)
class PositionGoal:
    """A position of the object or the tip, for the object optionally with a yaw.

    Attributes:
        subject: 'object' or 'tip'.
        position: (3,) m in the base frame.
        yaw: rad about the base frame's z axis, modulo quarter turns; None: any yaw, as always for
            the tip.
    """

    subject: str
    position: FloatArray
    yaw: float | None = None

    def __post_init__(self) -> None:
        if self.subject not in SUBJECTS:
            raise GoalError(f'goal subject: expected object or tip, got {self.subject!r}')
        if np.shape(self.position) != (3,) or not np.all(np.isfinite(self.position)):
            raise GoalError(f'goal position: expected 3 finite numbers (m), got {self.position}')
        if self.yaw is not None and (self.subject == 'tip' or not np.isfinite(self.yaw)):
            raise GoalError(
                f'goal yaw: expected a finite number (rad) for the object, got {self.yaw} for '
                f'the {self.subject}'
            )


@dataclass(frozen=True)
class LatentGoal:
    """A latent to be reached as a whole: object and arm as in a goal observation.

    Attributes:
        latent: (D,).
    """

    latent: FloatArray


Goal = PositionGoal | LatentGoal
