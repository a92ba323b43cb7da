"""What this machine and this installation can do, finding by finding, with what to do.

Imports nothing that may be missing: what is missing is what it says.
"""

from __future__ import annotations

import importlib.metadata
import os
import resource
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path

PYTHONS = (3, 10), (3, 14)
"""Oldest and newest version that is tested; the newest without the simulator."""
MODULES = {
    'numpy': ('numpy',),
    'torch': ('torch',),
    'openvino': ('openvino',),
    'cv2': ('opencv-python', 'opencv-python-headless'),
    'transforms3d': ('transforms3d',),
    'pinocchio': ('pin',),
    'coal': ('coal',),
    'ruckig': ('ruckig',),
    'h5py': ('h5py',),
    'safetensors': ('safetensors',),
    'mcap': ('mcap',),
    'mcap_ros2': ('mcap-ros2-support',),
    'yaml': ('pyyaml',),
    'xacro': ('xacro',),
    'tqdm': ('tqdm',),
    'matplotlib': ('matplotlib',),
    'pybullet': ('pybullet', 'pybullet-arm64'),
}
"""What is imported, and the packages of pip that it comes in, the one to ask for first. One from a
Linux distribution is none of them."""
SIMULATOR = 'pybullet'
"""The one without which planner and guard work."""
ROS = {
    'rclpy': 'run "make setup", or source a ROS 2 whose Python this is',
    'jepa_arm_msgs': 'run "make setup", or build ros_ws and source its install/setup.bash',
}
"""What to do where these modules of ROS 2 are missing."""
SHARED_MEMORY = Path('/dev/shm')
SHARED_MEMORY_MIB = 128
"""What the image and status topics of one graph need, with room."""


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


def how_to_get(*modules: str) -> str:
    """What to do where ``modules`` cannot be imported; their packages are in ``MODULES``."""
    names = [MODULES.get(module, (module,)) for module in modules]
    if sys.version_info >= (3, 12):  # for which only the last package of PyBullet has wheels
        names = [(name[-1],) if name == MODULES[SIMULATOR] else name for name in names]
    return (
        f'make setup; or, in a colcon workspace, {sys.executable} -m pip install '
        f'{" ".join(name[0] for name in names)} (README: Use it from ROS 2)'
    )


def lack(error: ModuleNotFoundError) -> str:
    """What is missing and what to do, in one line."""
    module = (error.name or str(error)).partition('.')[0]
    return f'{sys.executable} has no module {module}: {ROS.get(module) or how_to_get(module)}'


def missing_modules() -> list[str]:
    """Those of ``MODULES`` that are not here, the simulator's aside."""
    return [name for name in MODULES if name != SIMULATOR and find_spec(name) is None]


def format_findings(findings: Sequence[Finding]) -> str:
    """The findings as lines for people, each with its advice below."""
    width = max(len(f.name) for f in findings)
    lines = []
    for found in findings:
        lines.append(f'{found.level.value:4s}  {found.name:{width}s}  {found.text}')
        if found.advice:
            lines.append(f'{"":{width + 6}s}  -> {found.advice}')
    return '\n'.join(lines)


def _python() -> Finding:
    oldest, newest = PYTHONS
    version = '.'.join(map(str, sys.version_info[:3]))
    if oldest <= sys.version_info[:2] <= newest:
        return Finding('python', Level.OK, version)
    text = f'{version}; expected {oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}'
    return Finding('python', Level.FAIL, text, 'make setup PYTHON=python3.12')


def _packages() -> Iterator[Finding]:
    missing = missing_modules()
    found = [n for n in MODULES if n not in missing and n != SIMULATOR]
    if missing:
        names = ', '.join(MODULES[module][0] for module in missing)
        yield Finding('packages', Level.FAIL, f'missing: {names}', how_to_get(*missing))
    yield Finding('packages', Level.OK, ', '.join(_version(MODULES[name]) for name in found))
    if find_spec(SIMULATOR):
        yield Finding('simulator', Level.OK, _version(MODULES[SIMULATOR]))
    else:
        advice = f'{how_to_get(SIMULATOR)}; there is no wheel for Python 3.14'
        yield Finding('simulator', Level.WARN, 'no pybullet: no virtual arm here', advice)


def _version(names: Sequence[str]) -> str:
    """Of the first of these packages that pip knows."""
    for name in names:
        try:
            return f'{name} {importlib.metadata.version(name)}'
        except importlib.metadata.PackageNotFoundError:
            continue
    return names[0]


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
