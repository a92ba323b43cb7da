"""Collects, trains and evaluates, each where it is not done yet, and prints the table."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jepa_arm.resources import git_hash, machine

from .collect import collect, contract_of, held_out_pairs
from .environments import ENVIRONMENTS, Environment
from .evaluate import (
    Score,
    as_expert,
    as_recorded,
    at_random,
    evaluate,
    planner_config,
    seek,
)
from .table import read_results, table
from .train import Brain, train


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.public', description=__doc__)
    parser.add_argument('--env', choices=sorted(ENVIRONMENTS), help='none: the table alone')
    parser.add_argument('--episodes', type=int, default=100, help='held-out pairs')
    parser.add_argument('--seed', type=int, default=0, help='of the held-out pairs')
    parser.add_argument('--out', type=Path, default=Path('runs/public'))
    options = parser.parse_args()
    if options.env:
        os.environ.setdefault('SDL_VIDEODRIVER', 'dummy')
        os.environ.setdefault('MUJOCO_GL', 'egl')
        os.environ.setdefault('LP_NUM_THREADS', '1')  # of the drawing without a GPU
        torch.set_num_threads(1)
        environment, folder = ENVIRONMENTS[options.env], options.out / options.env
        folder.mkdir(parents=True, exist_ok=True)
        episodes = collect(environment, folder / 'data.h5', environment.episodes)
        brain = train(episodes, folder, environment.minutes, environment.heads_steps)
        result = {
            'environment': options.env,
            'seed': options.seed,
            'training': brain.info,
            'git': git_hash(),
            'machine': machine(),
            'rules': _rules(environment, brain, options.episodes, options.seed),
        }
        (folder / 'result.json').write_text(json.dumps(result, indent=1) + '\n')
    print(table(read_results(options.out)))


def _rules(environment: Environment, brain: Brain, count: int, seed: int) -> dict[str, Any]:
    """Each policy on the same pairs, by each rule."""
    contract = contract_of(environment)
    policies = {
        'search': lambda: seek(brain, contract, planner_config()),
        'actor': lambda: seek(brain, contract, planner_config(optimizer='actor')),
        'random': lambda: at_random(seed),
        'recorded': lambda: as_recorded,
    }
    if environment.expert is not None:
        policies['expert'] = lambda: as_expert(environment)
    pairs = held_out_pairs(environment, count, seed)
    scores: dict[str, Any] = {name: {} for name in environment.rules}
    for policy, make in policies.items():
        score = evaluate(environment, pairs, make())
        for name in scores:
            scores[name][policy] = _plain(score, name)
            print(name, policy, scores[name][policy], flush=True)
    return scores


def _plain(score: Score, rule: str) -> dict[str, Any]:
    steps = score.steps[rule]
    return {
        'pairs': len(steps),
        'wins': int((steps > 0).sum()),
        'median_steps': float(np.median(steps[steps > 0])) if steps.any() else None,
        'decision_ms_p50': round(float(np.median(score.plan_ms)), 2),
    }


if __name__ == '__main__':
    main()
