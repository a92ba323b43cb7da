"""Public benchmark: resumable runs, one per environment, and a table with published results."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jepa_arm.core.files import git_hash, machine
from jepa_arm.evaluation.report import markdown_table, wilson

from .collect import collect, contract_of, held_out_pairs
from .environments import ENVIRONMENTS, Environment
from .evaluate import LatentGoalAgent, Policy, Score, evaluate, recorded, uniform
from .train import TrainedModel, train

PUBLISHED = {
    'tworoom': {'LeWM': 87, 'released': '84 (81–87)', 'strict': '58 (57–61)'},
    'pusht': {'LeWM': 96, 'released': '86 (84–88)', 'strict': '70 (66–74)'},
    'reacher': {'LeWM': 86, 'released': '46 (40–51)', 'strict': '43 (37–51)'},
}
"""Success in %: LeWM as reported by its authors (arXiv:2603.19312, counting pairs solved at the
start), and its weights under both rules of CLEAR-LeWM (0.5; mean and range of three seeds, n = 100
each)."""
POLICIES = {
    'search': 'our search',
    'actor': 'our actor alone',
    'random': 'random',
    'recorded': 'recorded actions',
    'expert': 'expert',
}
"""Title of each policy in the table."""
LEWM_TITLES = 'LeWM, same rule [1]', 'LeWM as published [2]'


def run_benchmark(name: str, pairs: int, seed: int, out: Path) -> None:
    """Run the benchmark of environment ``name`` and write ``<out>/<name>/result.json``.

    Args:
        name: key of ``ENVIRONMENTS``.
        pairs: number of held-out pairs. seed: seed of the pairs.
        out: folder of data, weights and results of all environments.
    """
    os.environ.setdefault('SDL_VIDEODRIVER', 'dummy')
    os.environ.setdefault('MUJOCO_GL', 'egl')
    os.environ.setdefault('LP_NUM_THREADS', '1')  # threads of software rendering
    torch.set_num_threads(1)
    environment, folder = ENVIRONMENTS[name], out / name
    folder.mkdir(parents=True, exist_ok=True)
    episodes = collect(environment, folder / 'data.h5')
    trained = train(environment, episodes, folder)
    result = {
        'environment': name,
        'seed': seed,
        'training': trained.figures,
        'git': git_hash(),
        'machine': machine(),
        'rules': _evaluate_policies(environment, trained, pairs, seed),
    }
    (folder / 'result.json').write_text(json.dumps(result, indent=1) + '\n')


def _evaluate_policies(
    environment: Environment, trained: TrainedModel, count: int, seed: int
) -> dict[str, Any]:
    """Measure each policy on the same pairs; return the figures by success rule and policy."""
    contract, expert = contract_of(environment), environment.expert
    policies: dict[str, Policy] = {
        'search': LatentGoalAgent(trained, contract).act,
        'actor': LatentGoalAgent(trained, contract, optimizer='actor').act,
        'random': uniform(seed),
        'recorded': recorded,
    }
    if expert is not None:
        policies['expert'] = lambda pair, step, env, info, image: expert(
            env, environment.state(info), pair.goal
        )
    pairs = held_out_pairs(environment, count, seed)
    figures: dict[str, Any] = {rule: {} for rule in environment.rules}
    for name, policy in policies.items():
        score = evaluate(environment, pairs, policy)
        for rule in figures:
            figures[rule][name] = _figures(score, rule)
            print(rule, name, figures[rule][name], flush=True)
    return figures


def _figures(score: Score, rule: str) -> dict[str, Any]:
    steps = score.steps[rule]
    return {
        'pairs': len(steps),
        'wins': int((steps > 0).sum()),
        'median_steps': float(np.median(steps[steps > 0])) if steps.any() else None,
        'decision_ms_p50': round(float(np.median(score.decision_ms)), 2),
    }


def format_score(score: Mapping[str, Any] | None) -> str:
    """Return success rate and 95 % Wilson interval in % as text, or a dash for None."""
    if score is None:
        return '–'
    low, high = wilson(score['wins'], score['pairs'])
    rate = 100.0 * score['wins'] / score['pairs']
    return f'{rate:.0f} [{100.0 * low:.0f}–{100.0 * high:.0f}]'


def format_public_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the table in Markdown, one line per environment and success rule."""
    rows = []
    for result in results:
        name = result['environment']
        for rule, scores in result['rules'].items():
            cells = [format_score(scores.get(policy)) for policy in POLICIES]
            published = str(PUBLISHED[name][rule]), str(PUBLISHED[name]['LeWM'])
            rows.append([f'{name}, {rule}', *cells, *published])
    return markdown_table(('environment, rule', *POLICIES.values(), *LEWM_TITLES), rows)


def read_environment_results(folder: Path) -> list[dict[str, Any]]:
    """Return the existing results in the order of ``PUBLISHED``."""
    paths = [folder / name / 'result.json' for name in PUBLISHED]
    return [json.loads(path.read_text()) for path in paths if path.exists()]
