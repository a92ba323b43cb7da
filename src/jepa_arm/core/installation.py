"""Installation checks: Python, packages, processor and memory, with advice for each finding.

This module imports only the standard library, so that it can report any missing package.
"""

from __future__ import annotations

import importlib.metadata
import os
import resource
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path

PYTHONS = (3, 10), (3, 14)
"""Oldest and newest tested version; PyBullet has no wheel for the newest."""
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
"""Required modules, each with the pip packages that provide it, the preferred one first."""
SIMULATOR = 'pybullet'
"""The only one of ``MODULES`` that planner and guard do not need."""
ROS = {
    'rclpy': 'run "make setup", or source a ROS 2 whose Python this is',
    'jepa_arm_msgs': 'run "make setup", or build ros_ws and source its install/setup.bash',
}
"""Advice for missing ROS 2 modules."""
SHARED_MEMORY = Path('/dev/shm')
SHARED_MEMORY_MIB = 128
"""Free space that suffices for the image and status topics of one graph."""


class Level(Enum):
    """Severity of a finding; ``FAIL`` makes the exit code 1."""

    OK = 'ok'
    WARN = 'warn'
    FAIL = 'FAIL'


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        name: what was checked.
        level: severity.
        text: what was found.
        advice: what to do about it; empty if nothing.
    """

    name: str
    level: Level
    text: str
    advice: str = ''


def examine_machine() -> Iterator[Finding]:
    """Check Python, packages, processor, real-time priority and shared memory."""
    yield _python()
    yield from _packages()
    yield _processor()
    yield _priority()
    yield _shared_memory()


def how_to_get(*modules: str) -> str:
    """Return the commands that install the packages that provide ``modules``."""
    names = [MODULES.get(module, (module,)) for module in modules]
    if sys.version_info >= (3, 12):  # only PyBullet's last listed package has wheels
        names = [(name[-1],) if name == MODULES[SIMULATOR] else name for name in names]
    return (
        f'make setup; or, in a colcon workspace, {sys.executable} -m pip install '
        f'{" ".join(name[0] for name in names)} (docs/how_to/install_ros2.md)'
    )


def describe_missing_module(error: ModuleNotFoundError) -> str:
    """Return one line that names the missing module and how to install it."""
    module = (error.name or str(error)).partition('.')[0]
    return f'{sys.executable} has no module {module}: {ROS.get(module) or how_to_get(module)}'


def missing_modules() -> list[str]:
    """Return the modules of ``MODULES`` that are missing, except the simulator."""
    return [name for name in MODULES if name != SIMULATOR and find_spec(name) is None]


def format_findings(findings: Sequence[Finding]) -> str:
    """Return the findings as lines of text, each followed by its advice."""
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
    """Return name and version of the first installed package of ``names``."""
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            return f'{name} {importlib.metadata.version(name)}'
    return names[0]


def _processor() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    advice = 'give planner and guard a core each; on one, commands come late'
    return _warn_unless((usable or 1) >= 2, 'processor', f'{usable} usable cores', advice)


def _priority() -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    may = limit == resource.RLIM_INFINITY or limit >= 20 or os.geteuid() == 0
    text = 'the guard may have it' if may else f'limit {limit}, the guard wants 20'
    advice = 'add "@realtime - rtprio 98" to /etc/security/limits.conf and your user to the group'
    return _warn_unless(may, 'real-time priority', text, advice)


def _shared_memory() -> Finding:
    if not SHARED_MEMORY.is_dir():
        return Finding('shared memory', Level.WARN, f'no {SHARED_MEMORY}', 'mount a tmpfs there')
    free = shutil.disk_usage(SHARED_MEMORY).free / 2**20
    text = f'{free:.0f} MiB free in {SHARED_MEMORY}, expected >= {SHARED_MEMORY_MIB}'
    advice = 'in Docker: --shm-size=512m or --ipc=host'
    return _warn_unless(free >= SHARED_MEMORY_MIB, 'shared memory', text, advice)


def _warn_unless(is_good: bool, name: str, text: str, advice: str) -> Finding:
    return Finding(name, Level.OK, text) if is_good else Finding(name, Level.WARN, text, advice)
