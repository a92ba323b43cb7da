"""What the arm is asked to bring about.

A goal by position is the default, also when it was shown as an image: the image is read by a
probe into the object's (or the tip's) position, since a goal image fixes the arm's pose too,
which nobody asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .types import FloatArray

HOLD_STEPS = 3
"""Control steps in a row within tolerance that count as reached."""
SUBJECTS = ('object', 'tip')
"""What a position may be asked for."""


class GoalError(ValueError):
    """A goal that cannot be taken; the message says what was expected and what came."""


@dataclass(frozen=True)
class PositionGoal:
    """A place for the object or the tip.

    Attributes:
        subject: 'object' or 'tip'.
        position: (3,) m in the base frame.
        yaw: rad about the base frame's z axis, of the object, up to quarter turns; None: any.
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
    """A latent to be reached as a whole: the object and the arm as they were.

    Attributes:
        latent: (D,) of an observation.
    """

    latent: FloatArray


Goal = PositionGoal | LatentGoal
