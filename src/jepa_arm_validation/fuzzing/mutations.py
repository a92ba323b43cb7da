"""Mutations that make a proposal or a joint sample invalid, or put it on the edge of a limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from jepa_arm.core.types import JointSample, Proposal

Random = np.random.Generator
STRANGE = (np.nan, np.inf, -np.inf, 1e308, -1e308, 1e-308, 5e-324, 1e20, -0.0, 2.0**63)
"""Numbers that are easily handled wrongly."""
EDGES = (0.0, 1e-9, -1e-9, 1e-6, -1e-6, 2e-6, -2e-6, 1e-3, -1e-3)
"""Offsets that put a value exactly on a limit, just inside it or just outside."""
STAMP_AGES_S = (0.3, -0.05, 0.25, 0.19, 0.0, 1.0, -1.0, 60.0, -60.0, 1e9, -1e9, 1e300, -1e300)
"""Ages of stamps; the first ones are limits of the guard."""
HUGE_LENGTH = 100_000


def mutate_proposal(proposal: Proposal, rng: Random) -> tuple[str, Proposal]:
    """Return the name of a random mutation, and the mutated proposal."""
    name = str(rng.choice(list(PROPOSAL_MUTATIONS)))
    return name, PROPOSAL_MUTATIONS[name](proposal, rng)


def mutate_sample(sample: JointSample, rng: Random) -> tuple[str, JointSample]:
    """Return the name of a random mutation, and the mutated sample."""
    name = str(rng.choice(list(SAMPLE_MUTATIONS)))
    return name, replace(sample, position=SAMPLE_MUTATIONS[name](sample.position.copy(), rng))


def _number(p: Proposal, rng: Random) -> Proposal:
    """Replace one number by one of ``STRANGE``."""
    value, where = rng.choice(STRANGE), rng.integers(4)
    if where == 0:
        return replace(p, stamp=float(value))
    if where == 1:
        return replace(p, valid_for=float(value))
    key = 'times' if where == 2 else 'positions'
    array = np.array(getattr(p, key), dtype=float)
    array.flat[rng.integers(array.size)] = value
    return replace(p, **{key: array})


def _shape(p: Proposal, rng: Random) -> Proposal:
    q, t = p.positions, p.times
    shapes: list[dict[str, Any]] = [
        {'positions': q.T},
        {'positions': q.ravel()},
        {'positions': q[None]},
        {'positions': q[:, :-1]},
        {'positions': np.hstack([q, q[:, :1]])},
        {'positions': q[:-1]},
        {'positions': q[:0]},
        {'positions': q[:0], 'times': t[:0]},
        {'positions': np.array(0.5)},
        {'times': t[:-1]},
        {'times': t[:, None]},
        {'times': np.array(0.1)},
        {'times': np.concatenate([t, t])},
        {'positions': q.tolist()},
        {'times': None},
    ]
    return replace(p, **shapes[rng.integers(len(shapes))])


def _dtype(p: Proposal, rng: Random) -> Proposal:
    """Convert an array to another dtype; some are acceptable, most are not."""
    kind = rng.choice(['f4', 'f2', 'i8', 'u1', 'c16', 'O', 'U8', '?', 'M8[s]'])
    key = rng.choice(['positions', 'times'])
    with np.errstate(all='ignore'):
        return replace(p, **{key: getattr(p, key).astype('i8' if kind[0] == 'M' else kind)})


def _names(p: Proposal, rng: Random) -> Proposal:
    names = p.joint_names
    choices: list[tuple[Any, ...]] = [
        names[::-1],
        tuple(rng.permutation(names).tolist()),
        names[:-1],
        (*names, 'another'),
        (names[0],) * len(names),
        (),
        ('x' * HUGE_LENGTH, *names[1:]),
        tuple(name.upper() for name in names),
        ('',) * HUGE_LENGTH,
        (None, *names[1:]),
    ]
    return replace(p, joint_names=choices[rng.integers(len(choices))])


def _stamp(p: Proposal, rng: Random) -> Proposal:
    return replace(p, stamp=p.stamp - float(rng.choice(STAMP_AGES_S)) + float(rng.choice(EDGES)))


def _validity(p: Proposal, rng: Random) -> Proposal:
    valid_for = float(rng.choice([0.25, 0.0, -1.0, 1e9, 0.01])) + float(rng.choice(EDGES))
    return replace(p, valid_for=valid_for)


def _times(p: Proposal, rng: Random) -> Proposal:
    t = p.times
    choices = (
        t[::-1],
        np.full_like(t, t[0]),
        t * 0.5,
        t * 10.0,
        t - 0.1,
        t - t[0] + rng.uniform(0.0, 0.12),
        t + rng.uniform(-1.1e-3, 1.1e-3, len(t)),
        -t,
        t + 1e9,
    )
    return replace(p, times=choices[rng.integers(len(choices))])


def _huge(p: Proposal, rng: Random) -> Proposal:
    width = p.positions.shape[1]
    if rng.random() < 0.5:
        times = np.arange(1, HUGE_LENGTH + 1) * 0.1
        return replace(p, positions=np.tile(p.positions[0], (HUGE_LENGTH, 1)), times=times)
    return replace(p, positions=np.zeros((len(p.times), width * HUGE_LENGTH // 100)))


def _jump(p: Proposal, rng: Random) -> Proposal:
    """Offset one joint in all waypoints by about the largest first step that the guard allows."""
    size = float(rng.choice([0.6, 0.1, 1.0, 3.0])) + float(rng.choice(EDGES))
    joint = rng.integers(p.positions.shape[1])
    positions = p.positions.copy()
    positions[:, joint] += size * rng.choice([-1.0, 1.0])
    return replace(p, positions=positions)


def _noise(p: Proposal, rng: Random) -> Proposal:
    size = 10.0 ** rng.uniform(-6.0, 1.0)
    return replace(p, positions=p.positions + size * rng.normal(size=p.positions.shape))


PROPOSAL_MUTATIONS: dict[str, Callable[[Proposal, Random], Proposal]] = {
    'strange number': _number,
    'shape': _shape,
    'kind of number': _dtype,
    'joint names': _names,
    'stamp': _stamp,
    'validity': _validity,
    'times': _times,
    'huge array': _huge,
    'jump': _jump,
    'noise': _noise,
}

SAMPLE_MUTATIONS: dict[str, Callable[[Any, Random], Any]] = {
    'strange joint': lambda q, rng: _replace_one(q, rng, rng.choice(STRANGE)),
    'all NaN': lambda q, rng: np.full_like(q, np.nan),
    'too few': lambda q, rng: q[:-1],
    'too many': lambda q, rng: np.concatenate([q, q]),
    'none': lambda q, rng: q[:0],
    'matrix': lambda q, rng: q[None],
    'single precision': lambda q, rng: q.astype(np.float32),
    'whole numbers': lambda q, rng: q.astype(int),
    'huge': lambda q, rng: np.zeros(HUGE_LENGTH),
    'beyond a limit': lambda q, rng: _replace_one(
        q, rng, rng.choice([-1.0, 1.0]) * rng.uniform(2, 7)
    ),
    'jump': lambda q, rng: q + rng.normal(size=q.shape) * rng.choice([0.01, 0.05, 0.2, 1.0]),
}


def _replace_one(q: Any, rng: Random, value: float) -> Any:
    q[rng.integers(len(q))] = value
    return q
