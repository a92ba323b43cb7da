"""The parameters of the planner's node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rclpy.node import Node

from ..config import ConfigError
from .parameters import declare, declare_arm, declare_seed, declare_sim_config

TOLERANCE_TEXT = 'm, of goals that name none; 0: that of the task (config/tasks)'
GUARD_TEXT = 'of the guard, for its obstacles, which plans lead round: config/<file>, or a path'
LEVEL_TEXT = 'surprise that counts; 1: a false alarm in 10 minutes was meant'
DEADLINE_TEXT = (
    'ms, of each plan; 0: that of planner_config; not in lock-step; the candidates of a sweep are '
    'fitted to that of the start'
)
PROGRESS_TEXT = 's of moving at full speed without progress end a goal'
LONGEST_S = 3600.0
BELIEF_TEXT = (
    'absolute path of a file, best in memory (/run/user/...), in which the belief outlasts the '
    'process; empty: nowhere'
)
BELIEF_AGE_TEXT = 's, oldest belief that is taken up from belief_file'


@dataclass(frozen=True)
class PlannerSettings:
    """The parameters of the node, by their names."""

    arm: str
    sim_config: str
    planner_config: str
    guard_config: str
    checkpoint: str
    seed: int
    dry_run: bool
    lock_step: bool
    max_image_age: float
    max_joint_age: float
    max_clipped: float
    max_blackout: float
    observation_timeout: float
    progress_timeout: float
    guard_timeout: float
    surprise_level: float
    surprise_timeout: float
    goal_tolerance: float
    deadline_ms: float
    belief_file: str
    max_belief_age: float

    @classmethod
    def read(cls, node: Node) -> PlannerSettings:
        """Declares them, or reads them again."""

        def text(name: str, default: str, description: str) -> str:
            return str(declare(node, name, default, description))

        def flag(name: str, description: str) -> bool:
            return bool(declare(node, name, False, description))

        def number(
            name: str, default: float, description: str, most: float, is_live: bool = False
        ) -> float:
            return float(declare(node, name, default, description, (0.0, most), is_live))

        return cls(
            declare_arm(node),
            declare_sim_config(node),
            text('planner_config', 'planner.yaml', 'search: config/<file>, or a path'),
            text('guard_config', 'guard.yaml', GUARD_TEXT),
            text('checkpoint', 'compact', 'a shipped world model, or a path to a folder'),
            declare_seed(node, 'of the random numbers of the search'),
            flag('dry_run', 'plan and show (planner/plan_preview), but send nothing to the guard'),
            flag('lock_step', 'time passes only in sim/step: a plan may take long'),
            number('max_image_age', 0.2, 's, oldest image to plan from', 10.0),
            number('max_joint_age', 0.1, 's, oldest joint state to plan from', 10.0),
            number('max_clipped', 0.3, 'share of black or of overexposed pixels, at most', 1.0),
            number(
                'max_blackout', 0.25, 's without an image that the belief is planned from', 60.0
            ),
            number('observation_timeout', 1.0, 's, a goal ends when blind so long', LONGEST_S),
            number('progress_timeout', 3.0, PROGRESS_TEXT, LONGEST_S),
            number(
                'guard_timeout', 3.0, 's, a goal ends when the guard is silent so long', LONGEST_S
            ),
            number('surprise_level', 1.0, LEVEL_TEXT, 1000.0),
            number('surprise_timeout', 1.5, 's of images that all surprise end a goal', LONGEST_S),
            number('goal_tolerance', 0.0, TOLERANCE_TEXT, 0.2, is_live=True),
            number('deadline_ms', 0.0, DEADLINE_TEXT, 1000.0, is_live=True),
            text('belief_file', '', BELIEF_TEXT),
            number('max_belief_age', 30.0, BELIEF_AGE_TEXT, LONGEST_S),
        )

    def check(self) -> None:
        """Raises ConfigError where a number is 0 that must not be, or a folder is missing."""
        for name in (
            'max_image_age',
            'max_joint_age',
            'max_clipped',
            'observation_timeout',
            'progress_timeout',
            'guard_timeout',
            'surprise_timeout',
            'max_belief_age',
        ):
            if not getattr(self, name) > 0.0:
                value = getattr(self, name)
                raise ConfigError(f'{name}: expected more than 0, got {value}')
        folder = Path(self.belief_file).expanduser().parent
        if self.belief_file and not (folder.is_absolute() and folder.is_dir()):
            raise ConfigError(
                f'belief_file: expected an absolute path in a folder that exists, got '
                f'{self.belief_file!r}'
            )
