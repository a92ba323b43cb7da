"""Trains what the belief needs beside the world model, on frozen latents; see ``BeliefHeads``.

The correction is taught by chains of predictions in which it is at work at each step, towards the
latents that the camera would have given; the gradient runs through the whole chain. One step at a
time it would learn the mean of what may be, which the predictor knows nothing of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from .config import BeliefConfig, to_dict
from .data.episodes import DataError, EpisodeFile
from .model.belief_heads import OUTLOOK, REGIMES, SUBJECTS, TIP, BeliefHeads, new_belief_heads
from .model.checkpoint import (
    Checkpoint,
    add_module,
    check_contract,
    git_hash,
    load_checkpoint,
    round_weights,
)
from .model.probes import REGION, REGION_SQUARED_RADIUS
from .model.world_model import WorldModel
from .surprise import ALARM_S, Frame, alarm_level, fit_tail, improbability, regimes, scores

CALIBRATION_CHAINS = 4000
REPORTED_S = (0.2, 0.6, 1.0, 2.0, 3.0, 4.0)
RISK_STEPS = 5
"""Model steps ahead for which contact is judged: 1 s."""
BATCH = 512
"""Frames encoded at once."""
SHORT_CHAINS = 4
"""How many more short chains are drawn than long ones."""
FloatRows = NDArray[np.float32]


@dataclass(frozen=True)
class Chains:
    """Windows of latents, one model step apart, for beliefs that go blind after two of them.

    Attributes:
        z: (B, L+2, D) as seen. features: (B, L+2, F) of the images alone.
        proprio: (B, L+2, P).
        actions: (B, L+1, K*A). truth: (B, L+2, 2, 3) m, tip target and object.
        contact: (B, L+2) whether arm and object touched since the step before.
    """

    z: Tensor
    features: Tensor
    proprio: Tensor
    actions: Tensor
    truth: Tensor
    contact: Tensor


class Recordings:
    """Episodes of frozen latents, from which chains are drawn."""

    def __init__(self, checkpoint: Checkpoint, episodes: EpisodeFile) -> None:
        """Encodes all frames of ``episodes``."""
        model = checkpoint.model
        assert isinstance(model, WorldModel)
        proprio = np.asarray(episodes.proprioception())
        self._latents = np.empty((len(proprio), model.latent), np.float32)
        self._features = np.empty((len(proprio), model.config.image_width), np.float16)
        for start in range(0, len(proprio), BATCH):
            rows = slice(start, start + BATCH)
            with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
                z, features = model.encode_parts(np.array(episodes.pixels[rows]), proprio[rows])
            self._latents[rows], self._features[rows] = z.numpy(), features.float().numpy()
        self._proprio = proprio
        self._actions = np.asarray(episodes.action)
        self._truth = np.stack([episodes.tip_target, episodes.object_position], axis=1)
        contact = np.asarray(episodes.contact, dtype=bool)
        self._contact = contact | np.roll(contact, 1)
        self._episodes, self._skip = episodes, episodes.contract.time.frame_skip

    def starts(self, indices: NDArray[np.int64], steps: int) -> NDArray[np.int64]:
        """First frames of chains of ``steps`` blind model steps in the episodes ``indices``.

        Raises:
            DataError: there are none.
        """
        span = (steps + 1) * self._skip
        offsets, lengths = self._episodes.ep_offset[indices], self._episodes.ep_len[indices]
        firsts = [np.arange(o, o + n - span) for o, n in zip(offsets, lengths, strict=True)]
        starts = np.concatenate([*firsts, np.zeros(0, dtype=np.int64)])
        if not len(starts):
            raise DataError(
                f'{self._episodes.path}: expected episodes of more than {span} frames in the '
                'training split and two of them held out; collect more, or take fewer chain_steps'
            )
        return starts

    def chains(self, starts: NDArray[np.int64], steps: int) -> Chains:
        """The chains that begin at frames ``starts`` (B,)."""
        frames = np.add.outer(starts, np.arange(steps + 2) * self._skip)
        controls = np.add.outer(starts, np.arange((steps + 1) * self._skip))
        actions = self._actions[controls].reshape(len(starts), steps + 1, -1)
        rows = (self._latents, self._proprio, self._truth, self._contact)
        z, proprio, truth, contact = (torch.from_numpy(a[frames]) for a in rows)
        features = torch.from_numpy(self._features[frames]).float()
        return Chains(z, features, proprio, torch.from_numpy(actions), truth, contact)


def blind(model: WorldModel, heads: BeliefHeads | None, chains: Chains) -> Tensor:
    """Beliefs (B, L, D) that see nothing after the first two latents.

    Without ``heads`` the joints are not asked either.
    """
    z_prev, z = chains.z[:, 0], chains.z[:, 1]
    modulations = model.predictor.modulations(chains.actions[:, 1:])
    beliefs = []
    for step in range(chains.actions.shape[1] - 1):
        predicted = model.predictor.step(z, z_prev, [m[:, step] for m in modulations])
        z_prev, z = z, predicted
        if heads is not None:
            seconds = torch.full((len(z),), (step + 1) * model.contract.time.model_dt)
            z = heads.correction(predicted, z_prev, chains.proprio[:, step + 2], seconds)
        beliefs.append(z)
    return torch.stack(beliefs, 1)


def train_belief(
    folder: Path, data: Path, config: BeliefConfig, seed: int, progress: bool
) -> dict[str, Any]:
    """Trains the belief heads of the checkpoint in ``folder``, measures and adds them.

    Half of the held-out episodes calibrate, the other half measures.

    Args:
        folder: checkpoint with a world model and probes; gets ``belief.safetensors``.
        data: the episode file it was trained on.

    Returns:
        The report that ``config.json`` keeps under ``belief``.

    Raises:
        CheckpointError, DataError: what is there cannot be used, or they do not belong together.
    """
    checkpoint, episodes = load_checkpoint(folder), EpisodeFile(data)
    check_contract(checkpoint.contract, episodes.contract)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        heads = new_belief_heads(checkpoint)
    recordings = Recordings(checkpoint, episodes)
    model = checkpoint.model
    assert isinstance(model, WorldModel)
    about = checkpoint.info['training']
    training, held_out = episodes.split(about['seed'], about['config']['held_out'])
    calibration, measured = held_out[::2], held_out[1::2]
    rng = np.random.default_rng(seed)
    starts = recordings.starts(training, config.chain_steps)
    draw = _Draw(recordings, starts, config.chain_steps, rng)
    _train_correction(model, heads, draw, config, progress)
    round_weights(heads.correction)
    _train_doubt(checkpoint, heads, draw, config)
    _train_surprise(model, heads, draw, config)
    _train_contact(model, heads, draw, config)
    round_weights(heads)
    heads.eval().requires_grad_(False)
    own = recordings.starts(calibration, config.chain_steps)
    draw = _Draw(recordings, own, config.chain_steps, np.random.default_rng([seed, 1]))
    _calibrate(checkpoint, heads, draw(CALIBRATION_CHAINS))
    heads.tail.copy_(fit_tail(*_scored(model, heads, recordings, calibration)))
    report = {
        **to_dict(config),
        'seed': seed,
        'git': git_hash(),
        **_report(checkpoint, heads, recordings, measured, config.chain_steps, seed),
    }
    add_module(folder, 'belief', heads, report)
    return report


class _Draw:
    """Draws chains at random."""

    def __init__(
        self,
        recordings: Recordings,
        starts: NDArray[np.int64],
        steps: int,
        rng: np.random.Generator,
    ) -> None:
        self._recordings, self._starts, self._steps, self.rng = recordings, starts, steps, rng

    def __call__(self, count: int) -> Chains:
        picked = self.rng.integers(0, len(self._starts), count)
        return self._recordings.chains(self._starts[picked], self._steps)


def _train_correction(
    model: WorldModel, heads: BeliefHeads, draw: _Draw, config: BeliefConfig, progress: bool
) -> None:
    step = _stepper(heads.correction, config.chain_updates, config)
    with tqdm(total=config.chain_updates, desc='correction', disable=not progress) as bar:
        for i in range(config.chain_updates):
            chains = draw(config.chain_batch)
            error = (blind(model, heads, chains) - chains.z[:, 2:]).square().mean()
            step(error)
            bar.update()
            if i % 20 == 0:
                bar.set_postfix(error=f'{error.item():.4f}')


def _train_doubt(
    checkpoint: Checkpoint, heads: BeliefHeads, draw: _Draw, config: BeliefConfig
) -> None:
    z, seconds, off = _misread(checkpoint, heads, draw(config.chains))
    step = _stepper(heads.doubt, config.steps, config)
    for _ in range(config.steps):
        pick = torch.from_numpy(draw.rng.integers(0, len(z), config.batch))
        sigma = heads.doubt(z[pick], seconds[pick])
        squared = off[pick].square().sum(-1)
        step((0.5 * squared / sigma.square() + 3.0 * sigma.log()).mean())


def _misread(
    checkpoint: Checkpoint, heads: BeliefHeads, chains: Chains
) -> tuple[Tensor, Tensor, Tensor]:
    """Beliefs (N, D), blind for (N,) s, and errors (N, 2, 3) m of their readings."""
    assert isinstance(checkpoint.model, WorldModel)
    with torch.inference_mode():
        beliefs = blind(checkpoint.model, heads, chains)
        beliefs = torch.cat([chains.z[:, 1:2], beliefs], dim=1)
        read = torch.stack([checkpoint.probes.read(s, beliefs) for s in SUBJECTS], 2)
    seconds = torch.arange(beliefs.shape[1]) * checkpoint.contract.time.model_dt
    off = read - chains.truth[:, 1:]
    size = beliefs.shape[:2]
    return (
        beliefs.flatten(0, 1).clone(),
        seconds.float().expand(size).flatten(),
        off.flatten(0, 1).clone(),
    )


def _train_surprise(
    model: WorldModel, heads: BeliefHeads, draw: _Draw, config: BeliefConfig
) -> None:
    """What is usual, by Gaussian likelihood."""
    frames = frame_of(model, _cut(draw(config.chains * SHORT_CHAINS), OUTLOOK))
    assert frames.long_before is not None and frames.long_predicted is not None
    step = _stepper(heads.world, config.steps, config)
    far = _stepper(heads.outlook, config.steps, config)
    feel = _stepper(heads.body, config.steps, config)
    look = _stepper(heads.sight, config.steps, config)
    for _ in range(config.steps):
        pick = torch.from_numpy(draw.rng.integers(0, len(frames.z), config.batch))
        f = Frame(*(getattr(frames, field.name)[pick] for field in fields(Frame)))
        assert f.long_before is not None and f.long_block is not None
        assert f.long_predicted is not None
        step(_surprisal(f.z - f.predicted, heads.world(f.before, f.predicted, f.block)))
        usual = heads.outlook(f.long_before, f.long_predicted, f.long_block)
        far(_surprisal(f.z - f.long_predicted, usual))
        way, log_var = heads.body(f.proprio_before, f.block)
        tip = f.proprio[:, TIP]
        feel(_surprisal(100.0 * (tip - f.proprio_before[:, TIP] - way), log_var))
        place, log_var = heads.sight(f.features)
        look(_surprisal(100.0 * (tip - place), log_var))


def _surprisal(error: Tensor, log_var: Tensor) -> Tensor:
    return (error.square() * torch.exp(-log_var) + log_var).mean()


@torch.no_grad()
def frame_of(model: WorldModel, chains: Chains) -> Frame:
    """The last frames of ``chains`` of ``OUTLOOK`` blind steps, with what was expected of them."""
    z, actions = chains.z, chains.actions
    return Frame(
        z=z[:, -1],
        proprio=chains.proprio[:, -1],
        features=chains.features[:, -1],
        before=z[:, -2],
        block=actions[:, -1],
        predicted=model.predict(z[:, -2], z[:, -3], actions[:, -1]),
        proprio_before=chains.proprio[:, -2],
        long_before=z[:, 1],
        long_block=actions[:, 1:].flatten(1),
        long_predicted=model.rollout(z[:, 1], z[:, 0], actions[:, 1:])[:, -1],
    )


def _train_contact(
    model: WorldModel, heads: BeliefHeads, draw: _Draw, config: BeliefConfig
) -> None:
    """On seen latents and on what is predicted up to ``RISK_STEPS`` ahead."""
    chains = draw(config.chains)
    with torch.inference_mode():
        ahead = blind(model, None, _cut(chains, RISK_STEPS))
    z = torch.cat([chains.z[:, 1], *ahead.unbind(1)]).clone()
    labels = chains.contact[:, 1 : RISK_STEPS + 2]
    wanted = torch.cat(labels.float().unbind(1))
    step = _stepper(heads.contact, config.steps, config)
    for _ in range(config.steps):
        pick = torch.from_numpy(draw.rng.integers(0, len(z), config.batch))
        step(nn.functional.binary_cross_entropy_with_logits(heads.contact(z[pick]), wanted[pick]))


def _cut(chains: Chains, steps: int) -> Chains:
    """The first ``steps`` blind steps of ``chains``."""
    return Chains(
        chains.z[:, : steps + 2],
        chains.features[:, : steps + 2],
        chains.proprio[:, : steps + 2],
        chains.actions[:, : steps + 1],
        chains.truth[:, : steps + 2],
        chains.contact[:, : steps + 2],
    )


@torch.inference_mode()
def _calibrate(checkpoint: Checkpoint, heads: BeliefHeads, chains: Chains) -> None:
    """Scales the doubt so that its 90 % region holds 90 % (split-conformal)."""
    z, seconds, off = _misread(checkpoint, heads, chains)
    squared = off.square().sum(-1) / heads.doubt(z, seconds).square()
    heads.doubt.unit.mul_((torch.quantile(squared, REGION, dim=0) / REGION_SQUARED_RADIUS).sqrt())


@torch.inference_mode()
def _scored(
    model: WorldModel, heads: BeliefHeads, recordings: Recordings, indices: NDArray[np.int64]
) -> tuple[FloatRows, NDArray[np.int64]]:
    """Scores (N, C) and regimes (N,) of all frames of the episodes ``indices``."""
    chains = recordings.chains(recordings.starts(indices, OUTLOOK), OUTLOOK)
    frame = frame_of(model, chains)
    return scores(heads, frame).numpy(), regimes(heads, frame).numpy()


@torch.inference_mode()
def _report(
    checkpoint: Checkpoint,
    heads: BeliefHeads,
    recordings: Recordings,
    measured: NDArray[np.int64],
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """What the heads do on episodes that neither taught nor calibrated them."""
    starts = recordings.starts(measured, steps)
    draw = _Draw(recordings, starts, steps, np.random.default_rng([seed, 2]))
    chains = draw(CALIBRATION_CHAINS)
    model = checkpoint.model
    assert isinstance(model, WorldModel)
    report: dict[str, Any] = {'blind': {}}
    for seconds in REPORTED_S:
        step = round(seconds / checkpoint.contract.time.model_dt)
        if step <= steps:
            report['blind'][f'{seconds:g} s'] = _blind_errors(checkpoint, heads, chains, step)
    ahead = blind(model, None, _cut(chains, RISK_STEPS))
    logits = heads.contact(ahead)
    labels = chains.contact[:, 2 : RISK_STEPS + 2]
    pairs = list(zip(logits.unbind(1), labels.unbind(1), strict=True))
    report['contact'] = {
        'auroc': [auroc(*pair) for pair in pairs],
        'calibration_error': [calibration_error(*pair) for pair in pairs],
        'share': float(labels.float().mean()),
    }
    report['surprise'] = _alarms(*_scored(model, heads, recordings, measured), heads, checkpoint)
    return report


def _alarms(
    score: FloatRows, regime: NDArray[np.int64], heads: BeliefHeads, checkpoint: Checkpoint
) -> dict[str, Any]:
    """Frames, and how many pass the level that one in ``ALARM_S`` should pass, by regime."""
    period = checkpoint.contract.time.control_dt
    rows = torch.from_numpy(score), torch.from_numpy(regime)
    is_alarm = (improbability(heads.tail, *rows).amax(-1) > alarm_level(period)).numpy()
    return {
        name: {
            'frames': int((regime == i).sum()),
            'alarms': int(is_alarm[regime == i].sum()),
            'expected': float((regime == i).sum() * period / ALARM_S),
        }
        for i, name in enumerate(REGIMES)
    }


def format_belief(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    lines = ['blind for    tip median / p90, in 90 %   object median / p90, in 90 %']
    for seconds, row in report['blind'].items():
        parts = [
            f'{row[f"{name}_median_cm"]:6.2f} / {row[f"{name}_p90_cm"]:.2f} cm '
            f'{row[f"{name}_coverage_90"]:6.1%}   '
            for name in SUBJECTS
        ]
        lines.append(f'{seconds:9s}' + '   '.join(parts))
    contact = report['contact']
    areas = ', '.join('-' if a is None else f'{a:.3f}' for a in contact['auroc'])
    lines.append(f'contact 1 to {RISK_STEPS} model steps ahead: AUROC {areas}')
    for name, row in report['surprise'].items():
        lines.append(
            f'{name:8s} {row["alarms"]} alarms in {row["frames"]} frames, expected '
            f'{row["expected"]:.1f}'
        )
    return '\n'.join(lines)


def _blind_errors(
    checkpoint: Checkpoint, heads: BeliefHeads, chains: Chains, step: int
) -> dict[str, float]:
    """Median and 90th percentile cm of readings after ``step`` blind steps, and coverage."""
    z, seconds, off = _misread(checkpoint, heads, _cut(chains, step))
    rows = slice(step, None, step + 1)
    distance = off[rows].norm(dim=-1)
    sigma = heads.doubt(z[rows], seconds[rows])
    inside = (distance / sigma).square() <= REGION_SQUARED_RADIUS
    figures: dict[str, float] = {}
    for i, name in enumerate(SUBJECTS):
        figures[f'{name}_median_cm'] = float(distance[:, i].median()) * 100.0
        figures[f'{name}_p90_cm'] = float(distance[:, i].quantile(0.9)) * 100.0
        figures[f'{name}_coverage_90'] = float(inside[:, i].float().mean())
    return figures


def auroc(scores: Tensor, labels: Tensor) -> float | None:
    """Share of (positive, negative) pairs that ``scores`` (N,) put in the right order.

    None where all ``labels`` (N,) are the same.
    """
    order = torch.argsort(scores)
    ranks = torch.empty(len(scores), dtype=torch.float64)
    ranks[order] = torch.arange(1, len(scores) + 1, dtype=torch.float64)
    positive = int(labels.sum())
    negative = len(labels) - positive
    if not positive or not negative:
        return None
    above = float(ranks[labels.bool()].sum()) - positive * (positive + 1) / 2
    return above / (positive * negative)


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 10) -> float:
    """Expected calibration error: mean gap of probability and frequency over equal bins."""
    probability = torch.sigmoid(logits)
    which = (probability * bins).long().clamp(max=bins - 1)
    total = 0.0
    for own in (which == b for b in range(bins)):
        if own.any():
            gap = probability[own].mean() - labels[own].float().mean()
            total += float(own.float().mean() * gap.abs())
    return total


def _stepper(module: nn.Module, steps: int, config: BeliefConfig) -> Callable[[Tensor], None]:
    """Takes a loss and makes one step of AdamW (cosine rate) on ``module``."""
    optimizer = torch.optim.AdamW(module.parameters(), config.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()

    return step
