"""Trains what the belief needs beside the world model, on frozen latents; see ``BeliefHeads``.

How an object is pushed is taught by chains of its poses, each of which is told from the one
before: one step at a time it would learn nothing of what its errors grow to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ..config import BeliefConfig, to_dict
from ..data.episodes import EpisodeFile
from ..model.belief_heads import (
    CELL_FLOOR,
    SUBJECTS,
    TIP,
    UNIT_S,
    UNITS,
    BeliefHeads,
    new_belief_heads,
)
from ..model.checkpoint import (
    Checkpoint,
    add_module,
    check_contract,
    git_hash,
    load_checkpoint,
    round_weights,
)
from ..model.optimizers import Optimizers, adamw, muon_and_adamw
from ..model.probes import REGION, REGION_SQUARED_RADIUS
from ..model.world_model import WorldModel
from ..surprise import Frame, fit_level, fit_pair_tail, fit_tail, largest
from .belief_report import MEASURED_CHAINS, RISK_STEPS, measure_belief, tell_alarms
from .chains import (
    PUSHED_FOR,
    Chains,
    Draw,
    LatentEpisodes,
    Scored,
    follow,
    frames_of,
    misread,
    predict,
    scored,
)
from .cpu import worker_pool
from .encoding import BATCH, Encoded, encode_frames, split_of
from .view import train_view

EXPECTATIONS = 'world', 'outlook', 'sight', 'background', 'motion'
"""Heads of errors that are usual."""
UNREAD = 0.15
"""Share of the states that are taught without the object's yaw."""
MOVES = 0.8
"""Share of the chains that teach pushing in which the object moves, at least."""
PUSHED_M, TURN_WEIGHT, LEAST_SQUARED = 0.01, 0.3, 0.01
"""Unit of how far pushed objects are off; weight of how wrongly they are turned, which is 0 to 2;
what is added to squared distances, in that unit, before their root."""
VIEW_FRAMES, USUAL_VIEWS = 20000, 4000
"""Images that teach where the camera looks from, and others that say what is usual."""
DECAY = 1e-4
"""Of weights, by AdamW."""


def train_belief(
    folder: Path,
    data: Path,
    config: BeliefConfig,
    seed: int,
    progress: bool,
    encoded: Encoded | None = None,
) -> dict[str, Any]:
    """Trains the belief heads of the checkpoint in ``folder``, measures and adds them.

    Half of the held-out episodes calibrate, the other half measures; what is surprising all of
    them say, and how often it is without a reason is told of each half as the other one says.
    What lasts without images is taught here, what is usual where they come in two processes
    beside.

    Args:
        folder: checkpoint with a world model and probes; gets ``belief.safetensors``.
        data: the episode file it was trained on.
        encoded: all of its frames; None: they are encoded first.

    Returns:
        The report that ``config.json`` keeps under ``belief``.

    Raises:
        CheckpointError, DataError: what is there cannot be used, or they do not belong together.
        RuntimeError: a loss that is not finite.
    """
    checkpoint, episodes = load_checkpoint(folder), EpisodeFile(data)
    check_contract(checkpoint.contract, episodes.contract)
    heads = _new_heads(checkpoint, seed)
    encoded = encoded or encode_frames(checkpoint.model, episodes)
    latents, model = LatentEpisodes(checkpoint, episodes, encoded), checkpoint.model
    assert isinstance(model, WorldModel)
    training, held_out = split_of(checkpoint, episodes)
    calibration, measured = held_out[::2], held_out[1::2]
    draw = Draw(latents, training, config.chain_steps, np.random.default_rng(seed))
    with worker_pool(2) as beside:
        given = folder, data, config, seed, encoded
        usual = [beside.submit(teach, *given) for teach in (_teach_errors, _teach_views)]
        _teach_blind(checkpoint, heads, latents, draw, config, progress)
        for name, state in chain.from_iterable(taught.result().items() for taught in usual):
            weights = {key: torch.from_numpy(value) for key, value in state.items()}
            getattr(heads, name).load_state_dict(weights)
    round_weights(heads)
    heads.eval().requires_grad_(False)
    draw = Draw(latents, calibration, config.chain_steps, np.random.default_rng([seed, 1]))
    _calibrate(checkpoint, heads, draw(MEASURED_CHAINS))
    halves = [scored(model, heads, latents, half) for half in (calibration, measured)]
    report = {
        **to_dict(config),
        'seed': seed,
        'git': git_hash(),
        **measure_belief(checkpoint, heads, latents, measured, config.chain_steps, seed),
        'surprise': _calibrate_surprise(heads, halves, checkpoint.contract.time.control_dt),
    }
    add_module(folder, 'belief', heads, report)
    return report


def _new_heads(checkpoint: Checkpoint, seed: int) -> BeliefHeads:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return new_belief_heads(checkpoint)


def _teach_blind(
    checkpoint: Checkpoint,
    heads: BeliefHeads,
    latents: LatentEpisodes,
    draw: Draw,
    config: BeliefConfig,
    progress: bool,
) -> None:
    """What lasts without images, and how far off it may be."""
    _train_pushing(heads, draw, config, progress)
    _train_state(heads, latents, draw, config, progress)
    for part in (heads.pushing, heads.state):
        round_weights(part.requires_grad_(False))
    _train_doubt(checkpoint, heads, draw, config)


Weights = dict[str, dict[str, NDArray]]
"""Of heads, by their names."""


def _teach_errors(
    folder: Path, data: Path, config: BeliefConfig, seed: int, encoded: Encoded
) -> Weights:
    """What errors are usual, of images and of the tip."""
    heads, model, latents, draw = _set_up(folder, data, config, [seed, 3], encoded)
    chosen = draw.rng.permutation(draw.episodes)[: config.usual_episodes]
    frames = frames_of(model, latents, chosen, colours=False)
    _train_surprise(heads, frames, draw, config)
    _train_body(heads, frames, draw, config)
    return _weights(heads, (*EXPECTATIONS, 'body'))


def _teach_views(
    folder: Path, data: Path, config: BeliefConfig, seed: int, encoded: Encoded
) -> Weights:
    """Where the camera looks from, and when the arm touches the object."""
    heads, model, latents, draw = _set_up(folder, data, config, [seed, 4], encoded)
    _train_view(heads, latents, draw.episodes, draw.rng, config)
    _train_contact(model, heads, draw, config)
    return _weights(heads, ('view', 'contact'))


def _set_up(
    folder: Path, data: Path, config: BeliefConfig, seed: list[int], encoded: Encoded
) -> tuple[BeliefHeads, WorldModel, LatentEpisodes, Draw]:
    """What a process beside begins with; chains are drawn from the training split by ``seed``."""
    checkpoint, episodes = load_checkpoint(folder), EpisodeFile(data)
    heads, model = _new_heads(checkpoint, seed[0]), checkpoint.model
    assert isinstance(model, WorldModel)
    latents = LatentEpisodes(checkpoint, episodes, encoded)
    training, _ = split_of(checkpoint, episodes)
    draw = Draw(latents, training, config.chain_steps, np.random.default_rng(seed))
    return heads, model, latents, draw


def _weights(heads: BeliefHeads, names: Sequence[str]) -> Weights:
    return {
        name: {k: v.numpy() for k, v in getattr(heads, name).state_dict().items()}
        for name in names
    }


def _train_pushing(heads: BeliefHeads, draw: Draw, config: BeliefConfig, progress: bool) -> None:
    """By the mean distance from where the object went, and how far it turned, in chains.

    Most of them are of objects that move.
    """
    step = _adamw_stepper(heads.pushing, config.push_updates, config)
    with tqdm(total=config.push_updates, desc='pushing', disable=not progress) as bar:
        for i in range(config.push_updates):
            chains = draw(config.push_batch, MOVES).cut(PUSHED_FOR)
            poses = follow(heads.pushing, chains)
            place = torch.stack([p.place for p in poses], dim=1)
            yaw = torch.stack([p.yaw for p in poses], dim=1)
            off = (place - chains.way[..., :3])[..., :2] / PUSHED_M
            away = (off.square().sum(-1) + LEAST_SQUARED).sqrt().mean()
            turned = (1.0 - torch.cos(4.0 * (yaw - chains.way[..., 3]))).mean()
            step(away + TURN_WEIGHT * turned)
            bar.update()
            if i % 20 == 0:
                bar.set_postfix(away=f'{away.item():.2f} cm')


def _train_state(
    heads: BeliefHeads, latents: LatentEpisodes, draw: Draw, config: BeliefConfig, progress: bool
) -> None:
    """By least squares, with some yaws unknown: where an object stands is not always read."""
    z, proprio, place, true_yaw = latents.states(draw.episodes)
    optimizers = muon_and_adamw(heads.state, config.learning_rate, DECAY, config.state_steps)
    step = _stepper(heads.state, optimizers)
    for _ in tqdm(range(config.state_steps), desc='state', disable=not progress):
        rows = torch.from_numpy(draw.rng.integers(0, len(z), config.batch))
        yaw = draw.as_read(true_yaw[rows])
        yaw[torch.from_numpy(draw.rng.random(len(yaw)) < UNREAD)] = torch.nan
        step((heads.state(proprio[rows], place[rows], yaw) - z[rows]).square().mean())


def _train_doubt(
    checkpoint: Checkpoint, heads: BeliefHeads, draw: Draw, config: BeliefConfig
) -> None:
    read, unread = draw(config.chains), draw(config.chains // 4).unread()
    parts = [misread(checkpoint, heads, chains) for chains in (read, unread)]
    z, seconds, yaw, off = (torch.cat(each) for each in zip(*parts, strict=True))
    step = _adamw_stepper(heads.doubt, config.steps, config)
    for _ in range(config.steps):
        pick = torch.from_numpy(draw.rng.integers(0, len(z), config.batch))
        sigma = heads.doubt(z[pick], seconds[pick], yaw[pick])
        squared = off[pick].square().sum(-1)
        step((0.5 * squared / sigma.square() + 3.0 * sigma.log()).mean())


def _train_surprise(heads: BeliefHeads, frames: Frame, draw: Draw, config: BeliefConfig) -> None:
    """What is usual in ``frames``, by Gaussian likelihood."""
    steps = {n: _adamw_stepper(getattr(heads, n), config.steps, config) for n in EXPECTATIONS}
    for _ in range(config.steps):
        f = frames.rows(torch.from_numpy(draw.rng.integers(0, len(frames.z), config.batch)))
        assert f.long_before is not None and f.long_block is not None
        assert f.long_predicted is not None and f.change is not None
        near = f.before, f.predicted, f.block
        far = f.long_before, f.long_predicted, f.long_block
        steps['world'](_surprisal(f.z - f.predicted, heads.world(*near)))
        steps['outlook'](_surprisal(f.z - f.long_predicted, heads.outlook(*far)))
        tip = f.proprio[:, TIP]
        place, log_var = heads.sight(f.features)
        steps['sight'](_surprisal(100.0 * (tip - place), log_var))
        usual = heads.background(*far).clamp(min=CELL_FLOOR)
        steps['background'](_surprisal(f.change.cells, usual))
        level, log_var = heads.motion(f.before, f.change.felt, f.proprio)
        steps['motion'](_surprisal(f.change.motion - level, log_var))


def _train_body(heads: BeliefHeads, f: Frame, draw: Draw, config: BeliefConfig) -> None:
    """As what is usual, for longer: it can be known all but exactly."""
    optimizers = muon_and_adamw(heads.body, config.learning_rate, DECAY, config.body_steps)
    step = _stepper(heads.body, optimizers)
    way = 100.0 * (f.proprio[:, TIP] - f.recent[:, 0, TIP])
    for _ in range(config.body_steps):
        rows = torch.from_numpy(draw.rng.integers(0, len(way), config.batch))
        expected, log_var = heads.body(f.recent[rows], f.told[rows])
        step(_surprisal(way[rows] - 100.0 * expected, log_var))


def _train_view(
    heads: BeliefHeads,
    latents: LatentEpisodes,
    training: NDArray[np.int64],
    rng: np.random.Generator,
    config: BeliefConfig,
) -> None:
    """On some frames of the episodes ``training``; what is read off others is usual.

    Where there are too few for both, the same serve twice.
    """
    drawn = rng.permutation(latents.starts(training, 1))
    frames = drawn[:VIEW_FRAMES]
    usual = drawn[: VIEW_FRAMES + USUAL_VIEWS][-USUAL_VIEWS:]
    train_view(heads.view, *latents.images(frames), config, rng)
    round_weights(heads.view)
    with torch.inference_mode():
        parts = np.array_split(usual, -(-len(usual) // BATCH))
        read = [heads.view.read(*map(torch.from_numpy, latents.images(p))) for p in parts]
        heads.view.fit(torch.cat(read))


def _surprisal(error: Tensor, log_var: Tensor) -> Tensor:
    return (error.square() * torch.exp(-log_var) + log_var).mean()


def _train_contact(
    model: WorldModel, heads: BeliefHeads, draw: Draw, config: BeliefConfig
) -> None:
    """On seen latents and on what is predicted up to ``RISK_STEPS`` ahead."""
    chains = draw(config.chains)
    with torch.inference_mode():
        ahead = predict(model, chains.cut(RISK_STEPS))
    z = torch.cat([chains.z[:, :2], ahead], dim=1).clone()
    z, z_prev = z[:, 1:].flatten(0, 1), z[:, :-1].flatten(0, 1)
    wanted = chains.contact[:, 1 : RISK_STEPS + 2].float().flatten()
    step = _adamw_stepper(heads.contact, config.steps, config)
    for _ in range(config.steps):
        pick = torch.from_numpy(draw.rng.integers(0, len(z), config.batch))
        logits = heads.contact(z[pick], z_prev[pick])
        step(nn.functional.binary_cross_entropy_with_logits(logits, wanted[pick]))


@torch.inference_mode()
def _calibrate(checkpoint: Checkpoint, heads: BeliefHeads, chains: Chains) -> None:
    """Scales the doubt so that its 90 % region holds 90 % (split-conformal).

    Of unknown and of known yaws, after each time without images; after longer ones than ``chains``
    have as after the longest.
    """
    for is_known, each in enumerate((chains.unread(), chains)):
        z, seconds, yaw, off = misread(checkpoint, heads, each)
        squared = off.square().sum(-1) / heads.doubt(z, seconds, yaw).square()
        squared = squared.view(len(chains.z), -1, len(SUBJECTS))
        unit = (torch.quantile(squared, REGION, dim=0) / REGION_SQUARED_RADIUS).sqrt()
        steps = (torch.arange(UNITS) * UNIT_S / checkpoint.contract.time.model_dt).round().long()
        heads.doubt.unit[is_known] *= unit[steps.clamp(max=len(unit) - 1)]


def _calibrate_surprise(
    heads: BeliefHeads, halves: Sequence[Scored], period_s: float
) -> dict[str, dict[str, float]]:
    """Says how improbable each score is, and sets the level, by both ``halves``.

    Returns:
        ``tell_alarms`` of each half where only the other one calibrates.
    """
    alarms = []
    for half, other in (halves, halves[::-1]):
        _fit_surprise(heads, half, period_s)
        alarms.append((largest(heads, *other) > heads.level).numpy())
    scores, regimes, follows = (np.concatenate(each) for each in zip(*halves, strict=True))
    _fit_surprise(heads, (scores, regimes, follows), period_s)
    return tell_alarms(np.concatenate(alarms[::-1]), regimes, period_s)


def _fit_surprise(heads: BeliefHeads, frames: Scored, period_s: float) -> None:
    scores, regimes, follows = frames
    heads.tail.copy_(fit_tail(scores, regimes))
    heads.pair_tail.copy_(fit_pair_tail(heads.tail, scores, regimes, follows))
    heads.level.fill_(fit_level(largest(heads, *frames), period_s))


def _adamw_stepper(
    module: nn.Module, steps: int, config: BeliefConfig
) -> Callable[[Tensor], None]:
    return _stepper(module, adamw(module, config.learning_rate, DECAY, steps))


def _stepper(module: nn.Module, optimizers: Optimizers) -> Callable[[Tensor], None]:
    """Takes a loss and makes one step on ``module``."""

    def step(loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise RuntimeError(
                f'belief: expected a finite loss, got {loss.item()}; lower learning_rate'
            )
        optimizers.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizers.step()

    return step
