"""Ablation: trains and measures variants of the world model under equal conditions.

All variants get the same data, processor time and planner. A run trains one variant with one seed
and writes one JSON file; finished runs are skipped.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from jepa_arm.config import ConfigError, ModelFile, PlannerConfig, from_dict, load, to_dict
from jepa_arm.core.files import config_path, git_hash, machine
from jepa_arm.datasets.episodes import EpisodeFile
from jepa_arm.evaluation.episode_runner import EpisodeRunner, SimulationSetup
from jepa_arm.evaluation.report import format_number, markdown_table
from jepa_arm.model.checkpoint import AnyWorldModel, load_checkpoint, save_checkpoint
from jepa_arm.model.heads.probes import Probes
from jepa_arm.planning.planner import PlanningError
from jepa_arm.training.actor_critic import train_actor_critic
from jepa_arm.training.encoding import EncodedEpisodes, HeadTraining, encode_episodes
from jepa_arm.training.fit import TrainingError
from jepa_arm.training.gates import gate_report, held_out_windows
from jepa_arm.training.probes import fit_probes
from jepa_arm_validation.peers.metering import MeteredAgent
from jepa_arm_validation.results import load_result, select, write_result
from jepa_arm_validation.timed_training import train_for

log = logging.getLogger(__name__)

POSITION_HORIZON_S = 1.2
"""Prediction horizon at which the errors of positions read from predicted latents are measured."""
NO_DEADLINE_MS = 1e6
"""Deadline of plans, so long that all iterations are made even on a busy machine."""

COLUMNS: tuple[tuple[str, str, float, int], ...] = (
    *((f'{n} steps, %', f'error_share {n}', 100.0, 1) for n in (1, 3, 5)),
    ('tip, cm', 'tip_median_cm', 1.0, 2),
    ('p90', 'tip_p90_cm', 1.0, 2),
    ('object, cm', 'object_median_cm', 1.0, 2),
    ('p90', 'object_p90_cm', 1.0, 2),
    ('tip in 1.2 s, cm', 'predicted_tip_median_cm', 1.0, 2),
    ('object in 1.2 s, cm', 'predicted_object_median_cm', 1.0, 2),
    ('p90', 'predicted_object_p90_cm', 1.0, 2),
    ('rank, %', 'rank_share', 100.0, 0),
    ('reach, %', 'reach_success', 100.0, 0),
    ('push, %', 'push_success', 100.0, 0),
    ('plan, ms', 'push_decide_ms_p50', 1.0, 0),
    ('frames/s', 'train_frames_per_s', 1.0, 0),
    ('million parameters', 'parameters', 1e-6, 2),
)
"""Title, key of the value, factor and decimals of each column."""


@dataclass(frozen=True)
class AblationVariant:
    """Changes to the base model.

    Attributes:
        name: identifier, used in file names.
        changes: each is ``part.key=value`` with the value in YAML; the part is ``model`` or
            ``train``, see ``ModelFile``.
    """

    name: str
    changes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ConfigError(f'variant: expected a name like latent_128, got {self.name!r}')


@dataclass(frozen=True)
class AblationConfig:
    """Variants of a world model, all trained and measured alike.

    Attributes:
        base: model that the variants change, ``config/model/BASE.yaml``.
        minutes: processor time to train each variant.
        seeds: seeds of weights, windows, split and heads; each variant runs once per seed.
        probe_steps, heads_steps: optimiser steps for each probe, and for each of actor and value.
        reach, push: number of development scenes of each task.
        scene_seed: seed of the first development scene.
        variants: at least the base without changes.
    """

    base: str
    minutes: float
    seeds: tuple[int, ...]
    probe_steps: int
    heads_steps: int
    reach: int
    push: int
    scene_seed: int
    variants: tuple[AblationVariant, ...]

    def __post_init__(self) -> None:
        counts = (self.probe_steps, self.heads_steps, self.reach, self.push, len(self.seeds))
        if min(counts) < 1 or not self.minutes > 0.0:
            raise ConfigError(
                'ablation: expected positive minutes, steps and scenes and at least one seed, got '
                f'{self.minutes} minutes and {counts}'
            )
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            raise ConfigError(f'ablation: expected unique names of variants, got {names}')


@dataclass(frozen=True)
class AblationInputs:
    """Inputs that all runs of an ablation share.

    Attributes:
        data: HDF5 file of play episodes.
        config: the variants, and the amount of training and measuring per run.
        setup: robot, simulator and guard. planner: configuration of the planner.
    """

    data: Path
    config: AblationConfig
    setup: SimulationSetup
    planner: PlannerConfig


def run_ablation(inputs: AblationInputs, out: Path, only: list[str]) -> list[Path]:
    """Run every variant and seed that lacks its ``<out>/<variant>-<seed>.json``; return all paths.

    All variants of one seed run before the next seed. An interrupted run restarts from its
    beginning.

    Args:
        inputs: inputs shared by all runs.
        out: folder of the results.
        only: names of the variants to run; empty for all.

    Raises:
        ConfigError: a variant or change is unknown, or a result was made with other settings.
        DataError: the data cannot be used.
    """
    config = inputs.config
    variants = {variant.name: variant for variant in config.variants}
    selected = [variants[name] for name in select('variant', only, variants)]
    files = [resolve(variant, config) for variant in selected]
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in config.seeds:
        for variant, file in zip(selected, files, strict=True):
            path = out / f'{variant.name}-{seed}.json'
            settings = _settings(variant, config)
            if load_result(path, settings) is None:
                log.info('%s, seed %d: started', variant.name, seed)
                work = out / f'{variant.name}-{seed}.work'
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir()
                result = run_variant(inputs, file, seed, work)
                write_result(path, {'settings': settings, 'seed': seed, **result})
                shutil.rmtree(work)
            paths.append(path)
    return paths


def resolve(variant: AblationVariant, config: AblationConfig) -> ModelFile:
    """Return the base model with the changes of ``variant``.

    Raises:
        ConfigError: a change is not ``part.key=value``, has an unknown key or an invalid value.
    """
    base = load(ModelFile, config_path(f'model/{config.base}.yaml'))
    train = replace(base.train, probe_steps=config.probe_steps, tip_probe_steps=config.probe_steps)
    values = {'model': to_dict(base.model), 'train': to_dict(train)}
    for change in variant.changes:
        where, equals, value = change.partition('=')
        part, _, key = where.partition('.')
        if not equals or key not in values.get(part, {}):
            raise ConfigError(
                f'variant {variant.name}: expected part.key=value with a known key of '
                f'model or train, got {change!r}'
            )
        values[part][key] = yaml.safe_load(value)
    actor_critic = to_dict(
        replace(base.actor_critic, actor_steps=config.heads_steps, value_steps=config.heads_steps)
    )
    try:
        return from_dict(ModelFile, {**values, 'actor_critic': actor_critic})
    except ConfigError as error:
        raise ConfigError(f'variant {variant.name}: {error}') from None


def run_variant(inputs: AblationInputs, file: ModelFile, seed: int, work: Path) -> dict[str, Any]:
    """Train and measure one variant with one seed; the names of the values end in their unit.

    If a loss, latent or plan is not finite, ``failed`` says which, and later values are missing.

    Args:
        inputs: inputs shared by all runs.
        file: configuration of the variant. seed: seed of the run.
        work: empty folder for training state and checkpoint.
    """
    config, episodes = inputs.config, EpisodeFile(inputs.data)
    result: dict[str, Any] = {
        'git': git_hash(),
        'machine': machine(),
        'torch': torch.__version__,
        'data': {'seed': episodes.seed, 'episodes': len(episodes), 'frames': episodes.frames},
    }
    try:
        trained = train_for(episodes, work, file, seed, config.minutes * 60.0)
        model = trained.model
        result |= {
            'steps': trained.steps,
            'train_frames_per_s': trained.frames_per_s,
            'parameters': sum(p.numel() for p in model.parameters()),
        }
        encoded = encode_episodes(model, episodes, (trained.training, trained.held_out))
        if not np.isfinite(encoded.z).all():
            raise TrainingError('the latents are not finite')
        probes, measured = fit_probes(encoded, file.train, seed)
        gates = gate_report(model, encoded, seed, measured)
        result |= gate_figures(gates, model.latent_dim)
        result |= predicted_position_errors(model, encoded, probes, seed)
        info = {'gates': gates, 'training': {'seed': seed, 'config': to_dict(file.train)}}
        folder = work / 'checkpoint'
        save_checkpoint(folder, model, probes, info)
        train_actor_critic(HeadTraining(folder, encoded, seed), file.actor_critic)
        torch.set_num_threads(1)
        for task, count in (('reach', config.reach), ('push', config.push)):
            result |= run_episodes(inputs, folder, task, count)
    except (TrainingError, PlanningError) as error:
        result['failed'] = str(error)
    return result


def gate_figures(gates: dict[str, Any], latent_dim: int) -> dict[str, Any]:
    """Return the figures of a gate report.

    Returns:
        ``error_share``: open-loop error as a share of the error of persistence, by model steps
        ahead; ``rank_share``: effective rank as a share of ``latent_dim``; probe errors; failed
        gates.
    """
    shares = np.divide(gates['mse'], gates['persistence_mse'])
    figures: dict[str, Any] = {
        'error_share': {str(step): float(share) for step, share in enumerate(shares, start=1)},
        'rank_share': gates['effective_rank'] / latent_dim,
        'gates_failed': gates['failures'],
    }
    for name, key in (('tip_target', 'tip'), ('object_position', 'object')):
        figures |= {f'{key}_{k}': v for k, v in gates['probes'][name].items()}
    return figures


@torch.inference_mode()
def predicted_position_errors(
    model: AnyWorldModel, encoded: EncodedEpisodes, probes: Probes, seed: int
) -> dict[str, float]:
    """Measure errors (cm) of positions read from latents predicted ``POSITION_HORIZON_S`` ahead.

    Unlike latent errors, position errors do not depend on the scale and content of the latents.
    """
    steps = round(POSITION_HORIZON_S / model.contract.time.model_dt)
    windows = held_out_windows(model, encoded, steps, seed)
    predicted, frames = windows.rollout(model)[:, -1], windows.frames[:, -1]
    episodes, errors = encoded.episodes, {}
    for name, truth in (('tip', episodes.tip_target), ('object', episodes.object_position)):
        read = probes.read(name, predicted).numpy()
        distance_cm = 100.0 * np.linalg.norm(read - truth[frames], axis=1)
        errors[f'predicted_{name}_median_cm'] = float(np.median(distance_cm))
        errors[f'predicted_{name}_p90_cm'] = float(np.quantile(distance_cm, 0.9))
    return errors


def run_episodes(inputs: AblationInputs, folder: Path, task: str, count: int) -> dict[str, Any]:
    """Measure success in ``count`` development scenes of ``task`` and processor time per decision.

    Args:
        inputs: inputs shared by all runs.
        folder: folder of the checkpoint. task: 'reach' or 'push'. count: number of scenes.
    """
    planner = replace(inputs.planner, deadline_ms=NO_DEADLINE_MS, threads=1)
    first = inputs.config.scene_seed
    with EpisodeRunner(inputs.setup, task) as runner:
        agent = MeteredAgent(load_checkpoint(folder), runner.arm, planner)
        runs = [runner.run_agent(agent, seed) for seed in range(first, first + count)]
    return {
        f'{task}_success': float(np.mean([r.success for r in runs])),
        f'{task}_failed_seeds': [r.seed for r in runs if not r.success],
        f'{task}_decide_ms_p50': 1000.0 * float(np.median(agent.processor_s)),
    }


def _settings(variant: AblationVariant, config: AblationConfig) -> dict[str, Any]:
    """Return everything that a result depends on, besides data, seed and machine."""
    protocol = {k: v for k, v in to_dict(config).items() if k not in ('variants', 'seeds')}
    return {'variant': variant.name, 'changes': list(variant.changes), 'protocol': protocol}


def format_ablation(results: list[dict[str, Any]]) -> str:
    """Return Markdown: one line per variant with the mean and half the range over its seeds.

    The base comes first, the others in the order of their names; failed runs are listed below.
    """
    variants: dict[str, list[dict[str, Any]]] = {}
    for result in sorted(results, key=lambda r: (bool(r['settings']['changes']), *_name(r))):
        variants.setdefault(result['settings']['variant'], []).append(result)
    rows = []
    for name, runs in variants.items():
        cells = [_format_cell(runs, key, factor, n) for _, key, factor, n in COLUMNS]
        rows.append([name, str(len(runs)), *cells])
    lines = [markdown_table(['variant', 'seeds', *(title for title, *_ in COLUMNS)], rows)]
    failed = ['{}, seed {}: '.format(*_name(r)) + r['failed'] for r in results if 'failed' in r]
    if failed:
        lines += ['', 'Failed: ' + '; '.join(failed)]
    return '\n'.join(lines)


def _name(result: dict[str, Any]) -> tuple[str, int]:
    """Return variant and seed of a run."""
    return result['settings']['variant'], result['seed']


def _format_cell(runs: list[dict[str, Any]], key: str, factor: float, decimals: int) -> str:
    """Return mean and half range; a dash if all runs failed before the value was measured."""
    part, _, step = key.partition(' ')
    found = [run.get(part, {}).get(step) if step else run.get(part) for run in runs]
    values = [value * factor for value in found if value is not None]
    if not values:
        return format_number(None, '')
    text = f'{np.mean(values):.{decimals}f}'
    half_range = (max(values) - min(values)) / 2.0
    return f'{text} ± {half_range:.{decimals}f}' if half_range else text
