"""``jepa-arm fuzz core``: storms on the guard's core, spread over processes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from time import perf_counter
from typing import Any

from tqdm import tqdm

from ..arm import Arm
from ..config import ArmConfig, GuardConfig, SimConfig, load
from ..resources import arm_path, config_path
from .storm import EPISODE, Storm, Tally

TOGETHER = 8
"""Episodes given to a process at once."""
WIDE_MIN, WIDE_MAX = (-1.0, -1.0, 0.0), (1.0, 1.0, 1.5)
"""m, a workspace in which far more is followed."""


def fuzz_core(
    count: int, seed: int, arm: str = 'panda', workers: int = 1, progress: bool = True
) -> dict[str, Any]:
    """Sends ``count`` messages in episodes of seeds ``seed``, ``seed`` + 1, ... and judges.

    The same seed gives the same episode, however many there are.

    Returns:
        a flat report: how many of what, ``violations``, and ``examples`` with their seeds.
    """
    total, began = Tally(), perf_counter()
    seeds = range(seed, seed + max(1, round(count / EPISODE)))
    length = min(count, EPISODE)
    with tqdm(total=len(seeds) * length, unit='msg', unit_scale=True, disable=not progress) as bar:
        for tally in _tallies(seeds, length, arm, workers):
            total.add(tally)
            bar.update(tally.messages)
            bar.set_postfix(violations=total.violations)
    seconds = perf_counter() - began
    return {
        'messages': total.messages,
        'ticks': total.ticks,
        'seeds': [seeds[0], seeds[-1]],
        'violations': total.violations,
        'examples': list(total.examples.values()),
        'seconds': round(seconds, 1),
        'messages_per_s': round(total.messages / seconds),
        'counts': dict(sorted(total.counts.items())),
    }


def format_fuzz(report: dict[str, Any]) -> str:
    """The report as a table for a terminal."""
    lines = [f'{name:<34} {number:>10}' for name, number in report['counts'].items()]
    for key in ('messages', 'ticks', 'messages_per_s', 'violations'):
        lines.append(f'{key:<34} {report[key]:>10}')
    lines += report['examples']
    if report['examples']:
        lines.append('to see one again: jepa-arm fuzz core --count 1000 --seed <its seed>')
    return '\n'.join(lines)


def _tallies(seeds: range, length: int, arm: str, workers: int) -> Iterator[Tally]:
    if workers == 1:
        yield from _run_episodes(seeds, length, arm)
        return
    parts = [seeds[i : i + TOGETHER] for i in range(0, len(seeds), TOGETHER)]
    with ProcessPoolExecutor(workers) as pool:
        for tallies in pool.map(_run_part, parts, [length] * len(parts), [arm] * len(parts)):
            yield from tallies


def _run_part(seeds: range, length: int, arm: str) -> list[Tally]:
    return list(_run_episodes(seeds, length, arm))


def _run_episodes(seeds: range, length: int, arm: str) -> Iterator[Tally]:
    arms, time = _arms(arm), load(SimConfig, config_path('sim.yaml')).time
    guard = load(GuardConfig, config_path('guard.yaml'))
    for seed in seeds:
        yield Storm(seed, arms, time, guard).run(length)


@cache
def _arms(name: str) -> dict[str, Arm]:
    config = load(ArmConfig, arm_path(name))
    wide = replace(config, workspace_min=WIDE_MIN, workspace_max=WIDE_MAX)
    return {'narrow': Arm(config), 'wide': Arm(wide)}
