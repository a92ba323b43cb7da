"""What this machine and this installation can do, finding by finding, with what to do."""

from __future__ import annotations

import importlib.metadata
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from .arm import Arm, ArmError
from .collision import Scene
from .config import ArmConfig, GuardConfig, PlannerConfig, SimConfig, TimeConfig
from .motion import JointStreamer, make_contract
from .types import Command

PYTHONS = (3, 10), (3, 14)
"""Oldest and newest version that is tested; the newest without the simulator."""
PACKAGES = ('numpy', 'torch', 'opencv-python', 'transforms3d', 'pin', 'coal', 'ruckig', 'h5py')
TWINS = {'opencv-python': 'opencv-python-headless', 'pybullet': 'pybullet-arm64'}
"""Packages that bring the same modules under another name."""
SHARED_MEMORY = Path('/dev/shm')
SHARED_MEMORY_MIB = 128
"""What the image and status topics of one graph need, with room."""
PLANS = 40
PLACES = 100
"""In the workspace at which an arm is tried, beside the corners."""
MISSED_M, STRAIGHT_DOWN = 1e-3, -0.999


class Level(Enum):
    """How bad a finding is; ``FAIL`` makes the exit code 1."""

    OK = 'ok'
    WARN = 'warn'
    FAIL = 'FAIL'


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what. text: what was found. advice: what to do about it; empty if nothing.
    """

    name: str
    level: Level
    text: str
    advice: str = ''


def examine_machine() -> Iterator[Finding]:
    """Python, packages, processor, real-time priority, shared memory."""
    yield _python()
    yield from _packages()
    yield _processor()
    yield _priority()
    yield _shared_memory()


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
    median, worst = plan_latency(folder, arm, planner)
    text = f'{median:.0f} ms (median), {worst:.0f} ms (95th percentile)'
    period = sim.time.control_dt * 1000.0
    if worst <= 0.6 * period:
        yield Finding('plan latency', Level.OK, text)
    else:
        level = Level.WARN if worst <= period else Level.FAIL
        advice = 'lower deadline_ms or candidates in config/planner.yaml, or free a core'
        yield Finding('plan latency', level, f'{text}; expected <= {0.6 * period:.0f} ms', advice)


def plan_latency(folder: Path, arm: ArmConfig, planner: PlannerConfig) -> tuple[float, float]:
    """Median and 95th percentile, ms, of whole decisions on noise images; nothing moves."""
    import torch

    from .agent import Agent
    from .goals import PositionGoal
    from .model.checkpoint import load_checkpoint
    from .types import Observation

    torch.set_num_threads(planner.threads)
    model = Arm(arm)
    agent = Agent(load_checkpoint(folder), model, planner)
    centre = (model.workspace_min + model.workspace_max) / 2.0
    agent.set_goal(PositionGoal('object', centre))
    rng = np.random.default_rng(0)
    shape = arm.camera.height, arm.camera.width, 3
    took = []
    for step in range(PLANS):
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        began = time.perf_counter()
        agent.decide(Observation(image, model.home, 0.1 * step))
        took.append((time.perf_counter() - began) * 1000.0)
    return float(np.median(took[5:])), float(np.percentile(took[5:], 95))


def format_findings(findings: Sequence[Finding]) -> str:
    """The findings as lines for people, each with its advice below."""
    width = max(len(f.name) for f in findings)
    lines = []
    for found in findings:
        lines.append(f'{found.level.value:4s}  {found.name:{width}s}  {found.text}')
        if found.advice:
            lines.append(f'{"":{width + 6}s}  -> {found.advice}')
    return '\n'.join(lines)


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


def _python() -> Finding:
    oldest, newest = PYTHONS
    version = '.'.join(map(str, sys.version_info[:3]))
    if oldest <= sys.version_info[:2] <= newest:
        return Finding('python', Level.OK, version)
    text = f'{version}; expected {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}'
    return Finding('python', Level.FAIL, text, 'make setup PYTHON=python3.12')


def _packages() -> Iterator[Finding]:
    found, missing = [], []
    for name in PACKAGES:
        text = _installed(name)
        if text:
            found.append(text)
        else:
            missing.append(name)
    if missing:
        yield Finding('packages', Level.FAIL, f'missing: {", ".join(missing)}', 'make setup')
    yield Finding('packages', Level.OK, ', '.join(found))
    simulator = _installed('pybullet')
    if simulator:
        yield Finding('simulator', Level.OK, simulator)
    else:
        advice = 'make setup (there is no wheel for Python 3.14)'
        yield Finding('simulator', Level.WARN, 'no pybullet: no virtual arm here', advice)


def _installed(package: str) -> str:
    """Name and version of ``package`` or its twin; empty if neither is installed."""
    for name in (package, TWINS.get(package, package)):
        try:
            return f'{name} {importlib.metadata.version(name)}'
        except importlib.metadata.PackageNotFoundError:
            pass
    return ''


def _processor() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    text = f'{usable} usable cores'
    if (usable or 1) >= 2:
        return Finding('processor', Level.OK, text)
    advice = 'give planner and guard a core each; on one, commands come late'
    return Finding('processor', Level.WARN, text, advice)


def _priority() -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    may = limit == resource.RLIM_INFINITY or limit >= 20 or os.geteuid() == 0
    if may:
        return Finding('real-time priority', Level.OK, 'the guard may have it')
    advice = 'add "@realtime - rtprio 98" to /etc/security/limits.conf and your user to the group'
    return Finding('real-time priority', Level.WARN, f'limit {limit}, the guard wants 20', advice)


def _shared_memory() -> Finding:
    if not SHARED_MEMORY.is_dir():
        return Finding('shared memory', Level.WARN, f'no {SHARED_MEMORY}', 'mount a tmpfs there')
    free = shutil.disk_usage(SHARED_MEMORY).free / 2**20
    text = f'{free:.0f} MiB free in {SHARED_MEMORY}'
    if free >= SHARED_MEMORY_MIB:
        return Finding('shared memory', Level.OK, text)
    advice = 'in Docker: --shm-size=512m or --ipc=host'
    return Finding('shared memory', Level.WARN, f'{text}, expected >= {SHARED_MEMORY_MIB}', advice)
