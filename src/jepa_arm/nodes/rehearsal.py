"""Plans that nobody hears of: the first ones of a process take long."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
from rclpy.impl.rcutils_logger import RcutilsLogger

from ..agent import Agent
from ..arm import Arm
from ..config import Contract, PlannerConfig
from ..goals import PositionGoal
from ..planning.planner import PlanningError
from ..types import Observation


def rehearse(
    agent: Agent,
    arm: Arm,
    contract: Contract,
    config: PlannerConfig,
    is_ending: Callable[[], bool],
    logger: RcutilsLogger,
) -> None:
    """Makes the first plans of ``agent`` before anybody waits for one, and fits it to the machine.

    The fewest candidates tell how many can be priced on this machine: a slow one compiles no
    others. Who is ending meanwhile has no use for that.
    """
    _make_plans(agent, arm, contract, config)
    fit = None if is_ending() else agent.planners.fitted()
    if fit is None or is_ending():
        return
    logger.info(f'plans: {fit}')
    if fit.candidates != agent.planners.sweep_size:
        agent.planners.sweep_size = fit.candidates
        _make_plans(agent, arm, contract, config)


def _make_plans(agent: Agent, arm: Arm, contract: Contract, config: PlannerConfig) -> None:
    home = arm.home
    black = np.zeros(contract.camera.shape, dtype=np.uint8)
    agent.effort = agent.planners.sweep_size * config.sweeps
    for i, subject in enumerate(('tip', 'tip', 'object', 'object')):
        agent.set_goal(PositionGoal(subject, arm.tip_position(home)))
        with suppress(PlanningError):
            agent.decide(Observation(black, home, i * contract.time.control_dt))
    agent.effort = None
    agent.reset(home)
