"""Variants of the compact world model on one scale: same data, same processor time, same planner.

Each run of a row, one a seed, ends in one JSON file; runs that have theirs are skipped.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from .agent import Agent
from .config import (
    AblationConfig,
    AblationRow,
    ArmConfig,
    ConfigError,
    GuardConfig,
    ModelFile,
    PlannerConfig,
    SimConfig,
    TimeConfig,
    from_dict,
    load,
    to_dict,
)
from .data.episodes import EpisodeFile
from .data.windows import WindowSampler
from .decision import Decision
from .evaluator import Evaluator
from .model.checkpoint import git_hash, load_checkpoint, save_checkpoint
from .model.gates import HeldOut, prediction_report, windows_of
from .model.probes import Probes, fit_probe
from .model.world_model import WorldModel, encode_all
from .planning.planner import PlanningError
from .resources import config_path, machine
from .training.hindsight import fit_heads
from .training.loop import Trained, train_for
from .training.readout import fit_probes, gate_report
from .training.run import TrainingError
from .types import Observation

log = logging.getLogger(__name__)

SECONDS = (0.2, 0.4, 0.6, 1.0, 1.2, 2.0)
"""Ahead, of the open-loop errors: 1, 2, 3, 5, 6 and 10 model steps of the base."""
IMAGINED_S = 1.2
"""Ahead, of the imagined positions."""
WINDOWS = 8192
"""Held-out windows, at most, that are rolled out."""
SYMMETRY = 4
"""Of the object, seen from above: turned by a fourth it is the same."""
UNHURRIED_MS = 1e6
"""Deadline of plans: all sweeps are made, however busy the machine is."""
TAUGHT = 'model', 'train', 'heads'
"""Parts of a model's file that a variant is made from."""


@dataclass(frozen=True)
class Scene:
    """What runs besides the model: arm, simulator and guard."""

    arm: ArmConfig
    sim: SimConfig
    guard: GuardConfig


@dataclass(frozen=True)
class Variant:
    """A row of the table with everything resolved.

    Attributes:
        row: its name and changes.
        file: model, training and heads.
        planner: with all sweeps and one thread.
        time: the time chain; its frame skip may differ from the data's.
    """

    row: AblationRow
    file: ModelFile
    planner: PlannerConfig
    time: TimeConfig


def run_ablation(
    data: Path,
    out: Path,
    config: AblationConfig,
    scene: Scene,
    planner: PlannerConfig,
    only: list[str],
) -> list[Path]:
    """Makes what is missing of ``<out>/<row>-<seed>.json``: all rows of one seed, then the next.

    A run that was interrupted starts again.

    Args:
        data: episode file.
        config: the rows and how long each is trained and measured.
        planner: what the rows change.
        only: names of rows; empty for all.

    Raises:
        ConfigError: an unknown row or change, or a result that was made with other settings.
        DataError: data that cannot be used.
    """
    unknown = sorted(set(only) - {row.name for row in config.rows})
    if unknown:
        raise ConfigError(f'no rows {unknown}; there are: {[row.name for row in config.rows]}')
    rows = [row for row in config.rows if not only or row.name in only]
    variants = [resolve(row, config, planner, scene.sim.time) for row in rows]
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in config.seeds:
        for variant in variants:
            path = out / f'{variant.row.name}-{seed}.json'
            if not _is_finished(path, _settings(variant, config)):
                log.info('%s, seed %d: begun', variant.row.name, seed)
                result = run_variant(data, out, variant, config, scene, seed)
                _write(path, {**_settings(variant, config), 'seed': seed, **result})
            paths.append(path)
    return paths


def resolve(
    row: AblationRow, config: AblationConfig, planner: PlannerConfig, time_chain: TimeConfig
) -> Variant:
    """The configuration of ``row``.

    Raises:
        ConfigError: a change that is not ``part.key=value``, of an unknown key, or not valid.
    """
    base = load(ModelFile, config_path(f'model/{config.base}.yaml'))
    train = replace(base.train, probe_steps=config.probe_steps, tip_probe_steps=0)
    heads = replace(base.heads, actor_steps=config.heads_steps, value_steps=config.heads_steps)
    plain = to_dict(replace(base, train=train, heads=heads))
    values = {part: plain[part] for part in TAUGHT}
    values['planner'] = to_dict(replace(planner, deadline_ms=UNHURRIED_MS, threads=1))
    values['time'] = to_dict(time_chain)
    for change in row.changes:
        where, equals, value = change.partition('=')
        part, _, key = where.partition('.')
        if not equals or key not in values.get(part, {}):
            raise ConfigError(
                f'row {row.name}: expected part.key=value with a known key, got {change!r}; parts '
                f'are {sorted(values)}'
            )
        values[part][key] = yaml.safe_load(value)
    try:
        return Variant(
            row,
            from_dict(ModelFile, {part: values[part] for part in TAUGHT}),
            from_dict(PlannerConfig, values['planner']),
            from_dict(TimeConfig, values['time']),
        )
    except ConfigError as error:
        raise ConfigError(f'row {row.name}: {error}') from None


def run_variant(
    data: Path,
    out: Path,
    variant: Variant,
    config: AblationConfig,
    scene: Scene,
    seed: int,
) -> dict[str, Any]:
    """Trains and measures one run; names of values end in their unit.

    A loss, latent or plan that is not finite is a result: ``failed`` says which.
    """
    work = out / f'{variant.row.name}-{seed}.work'
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    episodes = EpisodeFile(data)
    episodes.contract = replace(episodes.contract, time=variant.time)
    result: dict[str, Any] = {
        'git': git_hash(),
        'machine': machine(),
        'torch': torch.__version__,
        'data': {'seed': episodes.seed, 'episodes': len(episodes), 'frames': episodes.frames},
    }
    try:
        trained = train_for(episodes, work, variant.file, seed, config.minutes * 60.0)
        result |= {
            'steps': trained.steps,
            'train_frames_per_s': trained.frames_per_s,
            'parameters': sum(p.numel() for p in trained.model.parameters()),
        }
        _measure(result, trained, episodes, work, variant, config, scene, seed)
    except (TrainingError, PlanningError) as error:
        result['failed'] = str(error)
    shutil.rmtree(work)
    return result


def _measure(
    result: dict[str, Any],
    trained: Trained,
    episodes: EpisodeFile,
    work: Path,
    variant: Variant,
    config: AblationConfig,
    scene: Scene,
    seed: int,
) -> None:
    """Adds what latents, probes, heads and plans are worth to ``result``, as it is found."""
    clock = _Clock(result.setdefault('processor_s', {}))
    model, split = trained.model, (trained.training, trained.held_out)
    latents = encode_all(model, episodes.pixels, episodes.proprioception(model.sees_velocity))
    if not np.isfinite(latents).all():
        raise TrainingError('the latents are not finite')
    clock.lap('encode')
    result |= prediction_errors(trained, episodes, latents, seed)
    probes, measured = fit_probes(episodes, latents, split, variant.file.train, seed)
    gates = gate_report(model, episodes, latents, trained.held_out, seed, measured)
    result['rank_share'] = gates['effective_rank'] / model.latent
    result['gates_failed'] = gates['failures']
    for name, key in (('tip_target', 'tip'), ('object_position', 'object')):
        result |= {f'{key}_{k}': v for k, v in gates['probes'][name].items()}
    result |= imagined_errors(trained, probes, episodes, latents, seed)
    result |= yaw_error(episodes, latents, split, seed, config.probe_steps)
    if isinstance(model, WorldModel) and model.config.image_dropout:
        result |= blind_error(trained, probes, episodes)
    clock.lap('probes')
    folder = work / 'checkpoint'
    info = {'gates': gates, 'training': {'seed': seed, 'config': to_dict(variant.file.train)}}
    save_checkpoint(folder, model, probes, info)
    fit_heads(load_checkpoint(folder), episodes, latents, variant.file.heads, seed, False)
    clock.lap('heads')
    torch.set_num_threads(1)
    sim = replace(scene.sim, time=variant.time)
    for task, count in (('reach', config.reach), ('push', config.push)):
        evaluator = Evaluator(scene.arm, sim, scene.guard, task)
        agent = _ClockedAgent(load_checkpoint(folder), evaluator.arm, variant.planner)
        seeds = [config.scene_seed + i for i in range(count)]
        runs = [evaluator.run_agent(agent, s) for s in seeds]
        evaluator.world.close()
        result[f'{task}_success'] = float(np.mean([r.success for r in runs]))
        result[f'{task}_failed_seeds'] = [r.seed for r in runs if not r.success]
        result[f'{task}_decide_ms_p50'] = float(np.median(agent.decide_ms))
        clock.lap(task)


def prediction_errors(
    trained: Trained, episodes: EpisodeFile, latents: NDArray[np.float32], seed: int
) -> dict[str, Any]:
    """Open-loop error on held-out windows, as a share of persistence.

    Returns:
        ``error_share``: seconds ahead -> share; only whole model steps.
    """
    dt = trained.model.contract.time.model_dt
    steps = round(max(SECONDS) / dt)
    held_out = _held_out(trained, episodes, latents, steps, seed)
    report = prediction_report(trained.model, held_out, steps, seed)
    shares = np.divide(report['mse'], report['persistence_mse'])
    whole = {f'{s:g}': round(s / dt) for s in SECONDS if abs(round(s / dt) * dt - s) < 1e-6}
    return {
        'error_share': {s: float(shares[n - 1]) for s, n in whole.items()},
        'shuffled_ratio': report['shuffled_mse'] / report['mse'][0],
    }


@torch.inference_mode()
def imagined_errors(
    trained: Trained,
    probes: Probes,
    episodes: EpisodeFile,
    latents: NDArray[np.float32],
    seed: int,
) -> dict[str, float]:
    """Distance, cm, between what is read from latents predicted ``IMAGINED_S`` ahead and truth.

    In metres all latents are alike, whatever they leave out.
    """
    model = trained.model
    time_chain = model.contract.time
    steps = round(IMAGINED_S / time_chain.model_dt)
    held_out = _held_out(trained, episodes, latents, steps, seed)
    z, z_prev, actions, _ = windows_of(model, held_out, steps)
    imagined = model.rollout(z, z_prev, actions)[:, -1]
    frames = held_out.starts + (model.past + steps) * time_chain.frame_skip
    found = {}
    for subject, truth in (('tip', episodes.tip_target), ('object', episodes.object_position)):
        distance = np.linalg.norm(probes.read(subject, imagined).numpy() - truth[frames], axis=1)
        found |= _percentiles(f'imagined_{subject}', 100.0 * distance, 'cm')
    return found


def yaw_error(
    episodes: EpisodeFile,
    latents: NDArray[np.float32],
    split: tuple[NDArray[np.int64], NDArray[np.int64]],
    seed: int,
    steps: int,
) -> dict[str, float]:
    """Degrees by which a probe misreads the object's yaw, up to the object's symmetry."""
    yaw = np.asarray(episodes.object_yaw) * SYMMETRY
    target = np.column_stack([np.sin(yaw), np.cos(yaw), np.zeros_like(yaw)])
    training, held_out = (np.isin(episodes.episode_of_frames(), part) for part in split)
    probe = fit_probe(latents[training], target[training].astype(np.float32), seed, steps)
    with torch.inference_mode():
        read = probe(torch.from_numpy(latents[held_out])).numpy()
    error = np.arctan2(read[:, 0], read[:, 1]) - yaw[held_out]
    wrapped = np.abs((error + np.pi) % (2.0 * np.pi) - np.pi) / SYMMETRY
    return _percentiles('yaw', np.degrees(wrapped), 'deg')


@torch.inference_mode()
def blind_error(trained: Trained, probes: Probes, episodes: EpisodeFile) -> dict[str, float]:
    """Distance, cm, of the tip's target as read from latents of the joints alone, held out."""
    rows = np.isin(episodes.episode_of_frames(), trained.held_out)
    assert isinstance(trained.model, WorldModel)
    proprio = episodes.proprioception(trained.model.sees_velocity)
    z = trained.model.encode_blind(proprio[rows])
    distance = np.linalg.norm(probes.read('tip', z).numpy() - episodes.tip_target[rows], axis=1)
    return _percentiles('blind_tip', 100.0 * distance, 'cm')


class _ClockedAgent(Agent):
    """Notes the processor time of each decision, encoding included, in ms."""

    decide_ms: list[float]

    def decide(self, observation: Observation) -> Decision:
        """See ``Agent.decide``."""
        began = time.process_time()
        decision = super().decide(observation)
        self.__dict__.setdefault('decide_ms', []).append((time.process_time() - began) * 1000.0)
        return decision


class _Clock:
    """Notes how much processor time each part of a run took, s, its child processes included."""

    def __init__(self, laps: dict[str, float]) -> None:
        self._laps, self._began = laps, _processor_s()

    def lap(self, name: str) -> None:
        """Ends part ``name``."""
        now = _processor_s()
        self._laps[name], self._began = round(now - self._began, 1), now


def _processor_s() -> float:
    return sum(os.times()[:4])


def _held_out(
    trained: Trained, episodes: EpisodeFile, latents: NDArray[np.float32], steps: int, seed: int
) -> HeldOut:
    """Held-out windows for ``steps`` model steps."""
    skip, length = trained.model.contract.time.frame_skip, steps + 1 + trained.model.past
    starts = WindowSampler(episodes, trained.held_out, length, skip, seed).starts
    starts = np.random.default_rng(seed).permutation(starts)[:WINDOWS]
    return HeldOut(latents, np.asarray(episodes.action), starts)


def _percentiles(name: str, values: NDArray[np.floating], unit: str) -> dict[str, float]:
    return {
        f'{name}_median_{unit}': float(np.median(values)),
        f'{name}_p90_{unit}': float(np.quantile(values, 0.9)),
    }


def _settings(variant: Variant, config: AblationConfig) -> dict[str, Any]:
    """What a result depends on, besides data, seed and machine."""
    protocol = {k: v for k, v in to_dict(config).items() if k not in ('rows', 'seeds')}
    return {'row': variant.row.name, 'changes': list(variant.row.changes), 'protocol': protocol}


def _is_finished(path: Path, settings: dict[str, Any]) -> bool:
    if not path.exists():
        return False
    there = json.loads(path.read_text())
    before = {key: there.get(key) for key in settings}
    if before != settings:
        raise ConfigError(
            f'{path} was made with other settings: expected {settings}, got {before}; give the '
            'row another name or remove the file'
        )
    return True


def _write(path: Path, result: dict[str, Any]) -> None:
    partial = path.with_name(path.name + '.partial')
    partial.write_text(json.dumps(result, indent=1) + '\n')
    os.replace(partial, path)
