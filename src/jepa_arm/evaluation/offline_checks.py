"""Offline checks of arm files and checkpoints, without ROS 2 and without a running graph."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from jepa_arm.agent.agent import Agent
from jepa_arm.config import ArmConfig, CameraConfig, GuardConfig, PlannerConfig, SimConfig
from jepa_arm.core.goals import PositionGoal
from jepa_arm.core.installation import Finding, Level
from jepa_arm.core.types import Command, Observation
from jepa_arm.model.checkpoint import Checkpoint, check_contract, load_checkpoint
from jepa_arm.model.checkpoint_files import CheckpointError
from jepa_arm.robot.action_space import make_contract
from jepa_arm.robot.arm import Arm, ArmError
from jepa_arm.robot.collision import CollisionModel
from jepa_arm.robot.trajectory import JointStreamer

PLANS, WARM_UP_PLANS = 40, 5
SAMPLED_POSITIONS = 100
"""Random positions in the workspace that are checked besides its corners."""
MAX_IK_ERROR_M, MAX_TOOL_Z = 1e-3, -0.999
"""Largest position error, and largest z component of a tool axis that points down."""


def examine_arm(config: ArmConfig, guard: GuardConfig, sim: SimConfig) -> Iterator[Finding]:
    """Yield findings on the files of an arm, and on their consistency."""
    try:
        arm = Arm(config)
        model = CollisionModel(arm)
    except ArmError as error:
        yield Finding('arm', Level.FAIL, str(error), 'see docs/how_to/another_arm.md')
        return
    yield Finding('arm', Level.OK, f'{config.name}, {len(arm.home)} joints, tip {config.tip_link}')
    yield _check_home(arm, model)
    yield _check_workspace(arm, model)
    yield _check_stops(arm, guard, sim.time.stream_dt)


def examine_checkpoint(
    folder: Path, arm: ArmConfig, sim: SimConfig, planner: PlannerConfig
) -> Iterator[Finding]:
    """Yield findings on whether a checkpoint loads, fits the arm and plans in time."""
    try:
        checkpoint = load_checkpoint(folder)
    except CheckpointError as error:
        yield Finding('checkpoint', Level.FAIL, str(error), 'train one with: make model')
        return
    try:
        check_contract(checkpoint.contract, make_contract(arm, sim.time))
    except CheckpointError as error:
        text, _, advice = str(error).rpartition('\n')
        yield Finding('checkpoint', Level.FAIL, text, advice)
        return
    commit = checkpoint.info.get('git', 'unknown')
    text = f'{folder.name} fits {arm.name}; trained at commit {commit}'
    yield Finding('checkpoint', Level.OK, text)
    median, worst, candidates = plan_latency(checkpoint, arm, planner)
    threads = f'{planner.threads} thread{"s" * (planner.threads != 1)} of {planner.backend}'
    text = f'{median:.0f} ms (median), {worst:.0f} ms (95th percentile) with {threads}'
    if candidates < planner.candidates:
        text += f', {candidates} candidates per iteration: {planner.candidates} take too long'
    period = sim.time.control_dt * 1000.0
    if worst <= 0.6 * period:
        yield Finding('plan latency', Level.OK, text)
        return
    level = Level.WARN if worst <= period else Level.FAIL
    advice = 'lower deadline_ms or min_candidates in config/planner.yaml, or free a core'
    yield Finding('plan latency', level, f'{text}; expected <= {0.6 * period:.0f} ms', advice)


def camera_of(folder: Path) -> CameraConfig | None:
    """Return the camera of a checkpoint; None if the checkpoint does not load."""
    try:
        return load_checkpoint(folder).contract.camera
    except CheckpointError:
        return None


def plan_latency(
    checkpoint: Checkpoint, arm: ArmConfig, planner: PlannerConfig
) -> tuple[float, float, int]:
    """Measure how long decisions on images of random noise take; nothing moves.

    Returns:
        median and 95th percentile, ms, and the number of candidates per iteration, which a
        planner node on this machine would use, too.
    """
    torch.set_num_threads(planner.threads)
    kinematics = Arm(arm)
    agent = Agent(checkpoint, kinematics, planner)
    budget = agent.planners.measure_candidate_budget()
    if budget is not None:
        agent.planners.candidates_per_iteration = budget.candidates
    centre = (kinematics.workspace_min + kinematics.workspace_max) / 2.0
    agent.set_goal(PositionGoal('object', centre))
    rng = np.random.default_rng(0)
    times_ms = []
    for step in range(PLANS):
        image = rng.integers(0, 256, arm.camera.image_shape, dtype=np.uint8)
        began = time.perf_counter()
        agent.step(Observation(image, kinematics.home, 0.1 * step))
        times_ms.append((time.perf_counter() - began) * 1000.0)
    median, worst = np.percentile(times_ms[WARM_UP_PLANS:], (50, 95))
    return float(median), float(worst), agent.planners.candidates_per_iteration


def _check_home(arm: Arm, model: CollisionModel) -> Finding:
    """Check that the arm is inside the workspace and touches nothing at its home position."""
    advice = "change home; links that always touch are named in the arm's allowed_contacts"
    if touching := model.self_collision(arm.home):
        return Finding('home', Level.FAIL, f'{" and ".join(touching)} touch', advice)
    tip = arm.tip_position(arm.home)
    if not arm.in_workspace(tip):
        text = f'the tip is outside the workspace: {np.round(tip, 3)}'
        return Finding('home', Level.FAIL, text, advice)
    return Finding('home', Level.OK, 'inside the workspace, touches nothing')


def _check_workspace(arm: Arm, model: CollisionModel) -> Finding:
    """Check that the tip reaches corners and random points of the workspace with the tool down."""
    low, high = arm.workspace_min, arm.workspace_max
    corners = np.array(np.meshgrid(*np.stack([low, high], axis=1))).reshape(3, -1).T
    inside = np.random.default_rng(0).uniform(low, high, (SAMPLED_POSITIONS, 3))
    positions, missed = [*corners, *inside], []
    for position in positions:
        q, error = arm.ik(position, arm.home, iterations=60)
        pose, tool = model.evaluate(q), arm.tip_pose(q)[:3, :3] @ arm.config.tool_axis
        if error > MAX_IK_ERROR_M or tool[2] > MAX_TOOL_Z:
            missed.append(f'{np.round(position, 3)} is not reached with the tool down')
        elif pose.distances.min(initial=np.inf) <= 0.0:
            missed.append(f'{np.round(position, 3)}: {model.self_collision(q)} touch')
        elif model.ground_clearance(pose) <= 0.0:
            missed.append(f'{np.round(position, 3)}: the arm touches the table')
    if not missed:
        return Finding('workspace', Level.OK, f'{len(positions)} positions are reached, tool down')
    text = f'{len(missed)} of {len(positions)} positions are not reached: {missed[0]}'
    return Finding('workspace', Level.FAIL, text, 'shrink workspace_min and workspace_max')


def _check_stops(arm: Arm, guard: GuardConfig, stream_dt: float) -> Finding:
    """Check that each joint can stop from full speed within the guard's ``slowdown_time``."""
    streamer, rest = JointStreamer(arm, stream_dt), np.zeros_like(arm.home)
    longest, slowest = 0.0, ''
    for joint, speed in zip(range(len(rest)), arm.velocity_limit, strict=True):
        velocity = np.where(np.arange(len(rest)) == joint, speed, 0.0)
        streamer.go_on_from(Command(arm.home, velocity, rest))
        duration = len(streamer.stopping_path()) * stream_dt
        if duration > longest:
            longest, slowest = duration, arm.joint_names[joint]
    text = f'{longest:.2f} s from full speed ({slowest}), expected <= {guard.slowdown_time} s'
    if longest <= guard.slowdown_time + 1e-9:
        return Finding('stop', Level.OK, text)
    advice = 'lower velocity_scale or raise jerk_scale; else the arm often stops near obstacles'
    return Finding('stop', Level.WARN, text, advice)
