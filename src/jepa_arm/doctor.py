"""Whether an arm's files and a checkpoint can be used here, with what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .arm import Arm, ArmError
from .collision import Scene
from .config import ArmConfig, CameraConfig, GuardConfig, PlannerConfig, SimConfig, TimeConfig
from .installation import Finding, Level
from .motion import JointStreamer, make_contract
from .types import Command

PLANS = 40
PLACES = 100
"""In the workspace at which an arm is tried, beside the corners."""
MISSED_M, STRAIGHT_DOWN = 1e-3, -0.999


def examine_arm(config: ArmConfig, guard: GuardConfig, time: TimeConfig) -> Iterator[Finding]:
    """Whether the arm's files can be used, and fit each other."""
    try:
        arm = Arm(config)
        scene = Scene(arm)
    except ArmError as error:
        yield Finding('arm', Level.FAIL, str(error), 'see docs/arms.md')
        return
    yield Finding('arm', Level.OK, f'{config.name}, {len(arm.home)} joints, tip {config.tip_link}')
    yield _home(arm, scene)
    yield _workspace(arm, scene)
    yield _stops(arm, guard, time)


def examine_checkpoint(
    folder: Path, arm: ArmConfig, sim: SimConfig, planner: PlannerConfig
) -> Iterator[Finding]:
    """Whether the checkpoint loads, fits the arm, and how long its plans take here."""
    from .model.checkpoint import CheckpointError, check_contract, load_checkpoint

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
    made = checkpoint.info.get('git', 'unknown')
    yield Finding('checkpoint', Level.OK, f'{folder.name} fits {arm.name}; made by commit {made}')
    median, worst, candidates = plan_latency(folder, arm, planner)
    threads = f'{planner.threads} thread{"s" * (planner.threads != 1)} of {planner.runtime}'
    text = f'{median:.0f} ms (median), {worst:.0f} ms (95th percentile) with {threads}'
    if candidates < planner.candidates:
        text += f', {candidates} candidates a sweep: {planner.candidates} take too long here'
    period = sim.time.control_dt * 1000.0
    if worst <= 0.6 * period:
        yield Finding('plan latency', Level.OK, text)
    else:
        level = Level.WARN if worst <= period else Level.FAIL
        advice = 'lower deadline_ms or fewest_candidates in config/planner.yaml, or free a core'
        yield Finding('plan latency', level, f'{text}; expected <= {0.6 * period:.0f} ms', advice)


def camera_of(folder: Path) -> CameraConfig | None:
    """The camera that a checkpoint was trained with; None where it does not load."""
    from .model.checkpoint import CheckpointError, load_checkpoint

    try:
        return load_checkpoint(folder).contract.camera
    except CheckpointError:
        return None


def plan_latency(folder: Path, arm: ArmConfig, planner: PlannerConfig) -> tuple[float, float, int]:
    """Median and 95th percentile, ms, of whole decisions on noise images; nothing moves.

    With as many candidates a sweep as the planner node takes here, which is told too.
    """
    import torch

    from .agent import Agent
    from .goals import PositionGoal
    from .model.checkpoint import load_checkpoint
    from .types import Observation

    torch.set_num_threads(planner.threads)
    model = Arm(arm)
    agent = Agent(load_checkpoint(folder), model, planner)
    fit = agent.planners.fitted()
    if fit is not None:
        agent.planners.sweep_size = fit.candidates
    centre = (model.workspace_min + model.workspace_max) / 2.0
    agent.set_goal(PositionGoal('object', centre))
    rng = np.random.default_rng(0)
    took = []
    for step in range(PLANS):
        image = rng.integers(0, 256, arm.camera.shape, dtype=np.uint8)
        began = time.perf_counter()
        agent.decide(Observation(image, model.home, 0.1 * step))
        took.append((time.perf_counter() - began) * 1000.0)
    worst = float(np.percentile(took[5:], 95))
    return float(np.median(took[5:])), worst, agent.planners.sweep_size


def _home(arm: Arm, scene: Scene) -> Finding:
    problem = ''
    if not arm.in_workspace(arm.tip_position(arm.home)):
        problem = f'the tip is outside the workspace: {np.round(arm.tip_position(arm.home), 3)}'
    touching = scene.self_collision(arm.home)
    if touching:
        problem = f'{" and ".join(touching)} touch'
    if not problem:
        return Finding('home', Level.OK, 'inside the workspace, touches nothing')
    advice = "change home; links that always touch are named in the arm's allowed_contacts"
    return Finding('home', Level.FAIL, problem, advice)


def _workspace(arm: Arm, scene: Scene) -> Finding:
    """Whether the tip gets to random places of the workspace and its corners, tool down."""
    low, high = arm.workspace_min, arm.workspace_max
    corners = np.array(np.meshgrid(*np.stack([low, high], axis=1))).reshape(3, -1).T
    inside = np.random.default_rng(0).uniform(low, high, (PLACES, 3))
    missed = []
    for place in [*corners, *inside]:
        q, error = arm.ik(place, arm.home, iterations=60)
        pose, tilt = scene.at(q), arm.tip_pose(q)[:3, :3] @ arm.config.tool_axis
        if error > MISSED_M or tilt[2] > STRAIGHT_DOWN:
            missed.append(f'{np.round(place, 3)} is not reached with the tool down')
        elif pose.distances.min(initial=np.inf) <= 0.0:
            missed.append(f'{np.round(place, 3)}: {scene.self_collision(q)} touch')
        elif scene.clearance_below(pose) <= 0.0:
            missed.append(f'{np.round(place, 3)}: the arm touches the table')
    if not missed:
        return Finding('workspace', Level.OK, f'{len(inside) + 8} places are reached, tool down')
    text = f'{len(missed)} of {len(inside) + 8} places are not: {missed[0]}'
    return Finding('workspace', Level.FAIL, text, 'shrink workspace_min and workspace_max')


def _stops(arm: Arm, guard: GuardConfig, time: TimeConfig) -> Finding:
    """How long a stop from full speed takes."""
    streamer, rest = JointStreamer(arm, time.stream_dt), np.zeros_like(arm.home)
    longest, slowest = 0.0, ''
    for joint, speed in zip(range(len(rest)), arm.velocity_limit, strict=True):
        velocity = np.where(np.arange(len(rest)) == joint, speed, 0.0)
        streamer.go_on_from(Command(arm.home, velocity, rest))
        duration = len(streamer.stopping_path()) * time.stream_dt
        if duration > longest:
            longest, slowest = duration, arm.joint_names[joint]
    text = f'{longest:.2f} s from full speed ({slowest}), expected <= {guard.approach_time} s'
    if longest <= guard.approach_time + 1e-9:
        return Finding('stop', Level.OK, text)
    advice = 'lower velocity_scale or raise jerk_scale; else the arm often stops near obstacles'
    return Finding('stop', Level.WARN, text, advice)
