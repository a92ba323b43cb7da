"""What became of one episode, however it was run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .types import FloatArray, ImageArray


@dataclass(frozen=True)
class EpisodeResult:
    """One episode.

    Attributes:
        seed: of the scene.
        success: whether the tolerance was held for the task's control steps in time.
        time_s: until then, or the whole time limit.
        distance: m, true distance to the goal at the end.
        plan_ms: latency of each plan; command_ms: from observation to accepted command.
        limit_violations: commands beyond a position, velocity or acceleration limit (in process:
            the last one of each control step; over ROS: every one, without acceleration).
        measured_violations: likewise for the measured joints, which contact may push.
        frames: images seen by the agent, if they were asked for.
        tip_path, object_path: (N, 3) m, true paths.
        predicted: the tip path that each plan predicted, (H, 3) m each.
        goal: (3,) m true goal; read_goal: (3,) m as the probe read it from the goal image.
        goal_image: what the agent was shown.
        touched: whether the arm touched an obstacle at any time (in process: by PyBullet's
            contacts; over ROS: by where the measured joints put its shapes).
        yaw_errors: (N,) rad in [0, pi/4] along ``object_path``, up to quarter turns; NaN where no
            yaw was asked.
    """

    seed: int
    success: bool
    time_s: float
    distance: float
    plan_ms: list[float]
    command_ms: list[float]
    limit_violations: int
    measured_violations: int
    frames: list[ImageArray]
    tip_path: FloatArray
    object_path: FloatArray
    predicted: list[FloatArray]
    goal: FloatArray
    read_goal: FloatArray
    goal_image: ImageArray
    touched: bool = False
    yaw_errors: FloatArray = field(default_factory=lambda: np.array([np.nan]))

    @property
    def yaw_error(self) -> float:
        """rad, at the end."""
        return float(self.yaw_errors[-1])
