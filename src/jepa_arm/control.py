"""One control period of the whole loop: observe, decide, let the guard pass it on, move.

Evaluation, benchmarks and tests run this. On ROS 2 the same ``Agent`` and ``Guard`` live in two
nodes.
"""

from __future__ import annotations

from .decision import Decider, Decision
from .guard import Guard
from .robot import Line, Robot
from .types import Command, GuardState, JointSample

DROPPED = (GuardState.STOPPING, GuardState.HOLDING)
"""States in which a guard follows nothing of what it had taken."""


def control_step(
    agent: Decider,
    guard: Guard,
    robot: Robot,
    ticks: int,
    is_blind: bool = False,
    line: Line | None = None,
) -> Decision:
    """One control period of the closed loop, in lock-step: what the whole product does.

    ``is_blind``: there is no image. ``line``: the way to the guard; none takes no time.
    """
    line = Line() if line is None else line
    if is_blind:
        decision = agent.decide_blind(JointSample(*robot.joints(), robot.time))
    else:
        decision = agent.decide(robot.observe())
    if decision.proposal is not None:
        line.put(decision.proposal, robot.time)
    for _ in range(ticks):
        for proposal in line.arrived(robot.time):
            verdict = guard.submit(proposal, now=robot.time, ros_now=robot.time)
            if verdict.reasons and guard.command is not None:
                agent.resync(guard.command.position)
        position, velocity = robot.joints()
        guard.observe(JointSample(position, velocity, robot.time), now=robot.time)
        command: Command | None = guard.tick(now=robot.time).command
        if command is not None:
            robot.command(command.position, command.velocity)
        robot.step()
    if guard.state in DROPPED and guard.command is not None:
        agent.resync(guard.command.position)
    return decision
