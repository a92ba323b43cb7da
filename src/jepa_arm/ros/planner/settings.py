"""Parameters of the planner node."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from jepa_arm.config import ConfigError
from jepa_arm.ros.runtime.parameters import SEED_BOUNDS, ArmSettings, parameter

TIMEOUT_BOUNDS, AGE_BOUNDS = (0.001, 3600.0), (0.001, 10.0)
STEADY_LIMITS = 'max_image_age', 'max_joint_age', 'observation_timeout', 'guard_timeout'
"""Limits that are measured on the steady clock."""


@dataclass(frozen=True)
class PlannerSettings(ArmSettings):
    """Values of the planner node's parameters; see their descriptions.

    Raises:
        ConfigError: ``belief_file`` is invalid.
    """

    planner_config: str = parameter('planner.yaml', 'search: file in config/, or path')
    guard_config: str = parameter(
        'guard.yaml', 'limits and obstacles, for the obstacles to avoid: file in config/, or path'
    )
    checkpoint: str = parameter('compact', 'name of a shipped world model, or path of a folder')
    seed: int = parameter(0, 'seed of the random numbers of the search', SEED_BOUNDS)
    dry_run: bool = parameter(
        False, 'plan and publish planner/plan_preview, but send no proposals to the guard'
    )
    lock_step: bool = parameter(
        False, 'simulated time only advances in sim/step: plans have no deadline'
    )
    max_image_age: float = parameter(0.2, 's, largest age of an image to plan from', AGE_BOUNDS)
    max_joint_age: float = parameter(
        0.1, 's, largest age of a joint state to plan from', AGE_BOUNDS
    )
    max_clipped: float = parameter(
        0.3, 'largest fraction of black or overexposed pixels in a usable image', (0.001, 1.0)
    )
    max_blackout: float = parameter(
        0.25, 's, longest time without an image that is bridged by the belief', (0.0, 60.0)
    )
    observation_timeout: float = parameter(
        1.0, 's without an observation after which a goal ends', TIMEOUT_BOUNDS
    )
    progress_timeout: float = parameter(
        3.0, 's of motion at full speed without progress after which a goal ends', TIMEOUT_BOUNDS
    )
    guard_timeout: float = parameter(
        3.0, 's without a status of an active guard after which a goal ends', TIMEOUT_BOUNDS
    )
    surprise_threshold: float = parameter(
        1.0, 'surprise that counts; 1 is calibrated to one false alarm in 10 minutes', (0.0, 1e3)
    )
    surprise_timeout: float = parameter(
        1.5, 's of uninterrupted surprise after which a goal ends', TIMEOUT_BOUNDS
    )
    goal_tolerance: float = parameter(
        0.0, 'm, tolerance of goals without one; 0: of the task (config/tasks)', (0.0, 0.2), True
    )
    deadline_ms: float = parameter(
        0.0,
        'ms, deadline of each plan; 0: of planner_config. The candidates per iteration are fitted '
        'to the deadline at start-up. Ignored with lock_step',
        (0.0, 1000.0),
        True,
    )
    belief_file: str = parameter(
        '',
        'absolute path of a file, preferably in memory (/run/user/...), from which the belief is '
        'restored after a restart; empty: none',
    )
    max_belief_age: float = parameter(
        30.0, 's, largest age of a belief restored from belief_file', TIMEOUT_BOUNDS
    )

    def __post_init__(self) -> None:
        folder = Path(self.belief_file).expanduser().parent
        if self.belief_file and not (folder.is_absolute() and folder.is_dir()):
            raise ConfigError(
                'belief_file: expected an absolute path in an existing folder, got '
                f'{self.belief_file!r}'
            )

    def without_steady_limits(self) -> PlannerSettings:
        """Return the settings without limits on the steady clock, for lock-step.

        In lock-step, simulated time may stand still for any length of time, and no image is lost.
        """
        unlimited = dict.fromkeys(STEADY_LIMITS, float('inf'))
        return replace(self, max_blackout=0.0, **unlimited)
