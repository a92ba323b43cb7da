"""Trains pictures of latents on frozen latents, and measures them; see ``model.decoder``.

Nothing of it reaches the world model, planner or guard: it is for people to look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ..config import DecoderConfig, to_dict
from ..data.augment import one_hue
from ..data.episodes import EpisodeFile
from ..data.windows import WindowSampler
from ..model.belief_heads import load_belief_heads
from ..model.checkpoint import (
    Checkpoint,
    add_module,
    check_contract,
    fingerprint,
    git_hash,
    load_checkpoint,
    round_weights,
)
from ..model.decoder import WEIGHTS, Decoder, new_decoder
from ..model.gates import HeldOut, windows_of
from ..model.precision import mixed_precision
from ..model.world_model import WorldModel, encode_all
from ..sim.camera import project
from .decoder_report import Strip, write_decoder_report
from .encoding import Encoded, encode_frames, split_of

AHEAD = 10
"""Model steps of the open-loop predictions that are drawn and measured."""
REPORTED = (1, 3, 5, 10)
MEASURED = 2000
"""Held-out windows, at most."""
MEAN_FRAMES = 4000
"""Training frames that the mean image is taken from, at most."""
AROUND_PX = 6
"""Half the side of the square round the object in which errors are measured apart."""
STRIPS = 8
"""Film strips of the worst windows, and as many of ordinary ones."""
Images = NDArray[np.uint8]


def train_decoder(
    folder: Path,
    data: Path,
    config: DecoderConfig,
    seed: int,
    progress: bool,
    page: Path | None = None,
    encoded: Encoded | None = None,
) -> dict[str, Any]:
    """Trains the decoder of the checkpoint in ``folder``, measures and adds it.

    Args:
        folder: checkpoint with a world model; gets ``decoder.safetensors``.
        data: the episode file it was trained on.
        config: of the training. seed: of weights and of what is drawn.
        progress: whether to show a progress bar.
        page: HTML file for film strips of held-out windows, imagined under real.
        encoded: all frames of ``data``; None: they are encoded first.

    Returns:
        The report that ``config.json`` keeps under ``decoder``.

    Raises:
        CheckpointError, DataError: what is there cannot be used, or they do not belong together.
    """
    checkpoint, episodes = load_checkpoint(folder), EpisodeFile(data)
    check_contract(checkpoint.contract, episodes.contract)
    training, held_out = split_of(checkpoint, episodes)
    frames = _Frames(checkpoint, episodes, encoded or encode_frames(checkpoint.model, episodes))
    windows = frames.windows(held_out, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = new_decoder(checkpoint, config)
    decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rows = np.flatnonzero(np.isin(episodes.episode_of_frames(), training))
    _fit(decoder, frames, rows, config, np.random.default_rng(seed), progress)
    round_weights(decoder)
    decoder.eval().requires_grad_(False)
    report = {
        'config': to_dict(config),
        'seed': seed,
        'git': git_hash(),
        **_measure(decoder, frames, windows),
    }
    add_module(folder, 'decoder', decoder, report, {WEIGHTS: fingerprint(checkpoint.model)})
    if page is not None:
        write_decoder_report(
            page,
            f'What {folder.name} imagines, held-out episodes of {data.name}',
            format_decoder(report),
            *_strips(decoder, frames, windows),
            checkpoint.contract.time.model_dt,
        )
    return report


@dataclass(frozen=True)
class _Windows:
    """Held-out windows rolled out open loop; W windows, ``AHEAD`` model steps.

    Attributes:
        frames: (W, AHEAD + 1) rows of the episode file.
        latents: (W, AHEAD + 1, D), the first as seen, the others imagined.
        error: (W,) mean squared error of the last latent.
    """

    frames: NDArray[np.int64]
    latents: Tensor
    error: NDArray[np.float32]


class _Frames:
    """Frames of the episodes, their latents (N, D), and what is to be drawn of these."""

    def __init__(self, checkpoint: Checkpoint, episodes: EpisodeFile, encoded: Encoded) -> None:
        self.checkpoint, self.episodes, self.latents = checkpoint, episodes, encoded.z
        self.proprio = episodes.proprioception(checkpoint.model.sees_velocity)

    def images(self, rows: NDArray[np.int64]) -> Images:
        """(B, h, w, 3) of frames ``rows`` (B,)."""
        return np.asarray(self.episodes.pixels[rows])

    def windows(self, held_out: NDArray[np.int64], seed: int) -> _Windows:
        """Windows drawn from the episodes ``held_out``.

        Raises:
            DataError: no episode is long enough.
        """
        model, episodes = self.checkpoint.model, self.episodes
        skip, past = model.contract.time.frame_skip, model.past
        length = AHEAD + 1 + past
        starts = WindowSampler(
            episodes, held_out, length, skip, seed, with_velocity=model.sees_velocity
        ).starts
        starts = np.random.default_rng(seed).permutation(starts)[:MEASURED]
        now, z_prev, actions, after = windows_of(
            model, HeldOut(self.latents, np.asarray(episodes.action), starts), AHEAD
        )
        with torch.inference_mode():
            ahead = model.rollout(now, z_prev, actions)
        frames = np.add.outer(starts, (past + np.arange(AHEAD + 1)) * skip)
        error = (ahead[:, -1] - after[:, -1]).square().mean(1).numpy()
        return _Windows(frames, torch.cat([now[:, None], ahead], 1), error)


def _fit(
    decoder: Decoder,
    frames: _Frames,
    rows: NDArray[np.int64],
    config: DecoderConfig,
    rng: np.random.Generator,
    progress: bool,
) -> None:
    """Least squares on the pixels of frames ``rows`` (N,), all of them before any comes again."""
    some = rng.permutation(rows)[:MEAN_FRAMES]
    mean = one_hue(frames.images(some)).mean(0, dtype=np.float64) / 255.0
    decoder.mean.copy_(torch.from_numpy(mean).permute(2, 0, 1).half())
    optimizer = torch.optim.AdamW(decoder.parameters(), config.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, config.steps, pct_start=0.1
    )
    needed = config.steps * config.batch
    order = np.concatenate([rng.permutation(rows) for _ in range(-(-needed // len(rows)))])
    bar = tqdm(order[:needed].reshape(config.steps, -1), desc='decoder', disable=not progress)
    for i, batch in enumerate(bar):
        z = torch.from_numpy(frames.latents[batch])
        target = torch.from_numpy(one_hue(frames.images(batch))).permute(0, 3, 1, 2)
        with mixed_precision():
            drawn = decoder(z)
        error = (drawn.float() - target / 255.0).square().mean()
        optimizer.zero_grad()
        error.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if i % 20 == 0:
            bar.set_postfix(psnr=f'{decibel(error.item()):.1f} dB')


def decibel(mse: float) -> float:
    """Peak signal-to-noise ratio of a mean squared error, of values in [0, 1]."""
    return float(-10.0 * np.log10(max(mse, 1e-10)))


def _measure(decoder: Decoder, frames: _Frames, windows: _Windows) -> dict[str, Any]:
    """Errors of pictures of what was seen and of what was imagined, on held-out windows."""
    mean = decoder.mean.mul(255.0).round().to(torch.uint8).permute(1, 2, 0).numpy()
    report: dict[str, Any] = {'windows': len(windows.frames), 'steps': {}}
    for step in (0, *(s for s in REPORTED if s <= AHEAD)):
        rows = windows.frames[:, step]
        real = one_hue(frames.images(rows))
        drawn = decoder.pictures(windows.latents[:, step])
        around = _around_object(frames, rows)
        report['steps'][str(step)] = {
            'psnr_db': decibel(_mse(drawn, real)),
            'mean_image_psnr_db': decibel(_mse(mean, real)),
            'object_psnr_db': decibel(_mse(drawn[around], real[around])),
            'object_mean_image_psnr_db': decibel(
                _mse(np.broadcast_to(mean, real.shape)[around], real[around])
            ),
            **_misread_cm(frames, rows, drawn),
        }
    rows = windows.frames[:, 0]
    report['real'] = _misread_cm(frames, rows, frames.images(rows))
    return report


def _mse(drawn: Images, real: Images) -> float:
    """Of values in [0, 1]."""
    error = drawn.astype(np.float32) - real
    return float(np.square(error).mean(dtype=np.float64)) / 255.0**2


def _around_object(frames: _Frames, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Index of the pixels round the object, at the edge as near as there are."""
    camera = frames.checkpoint.contract.camera
    place = frames.episodes.object_position[rows].astype(float)
    centre = np.rint(project(camera, place)).astype(np.int64)
    offsets = np.arange(-AROUND_PX, AROUND_PX + 1)
    x = (centre[:, :1] + offsets).clip(0, camera.width - 1)
    y = (centre[:, 1:] + offsets).clip(0, camera.height - 1)
    return np.arange(len(rows))[:, None, None], y[:, :, None], x[:, None, :]


@torch.inference_mode()
def _misread_cm(frames: _Frames, rows: NDArray[np.int64], images: Images) -> dict[str, float]:
    """Median cm by which object and tip are misread in ``images`` of frames ``rows``.

    The object by its probe from the latent of the image, with the true joints; the tip by what
    the belief's heads see in the image alone, if there are any.
    """
    checkpoint, episodes = frames.checkpoint, frames.episodes
    z = torch.from_numpy(encode_all(checkpoint.model, images, frames.proprio[rows]))
    read = checkpoint.probes.read('object', z).numpy()
    found = {'object_cm': _median_cm(read, episodes.object_position[rows])}
    heads, model = load_belief_heads(checkpoint), checkpoint.model
    if heads is not None and isinstance(model, WorldModel):
        features = model.encode_parts(images, frames.proprio[rows])[1]
        found['tip_cm'] = _median_cm(heads.sight(features)[0].numpy(), episodes.tip_position[rows])
    return found


def _median_cm(read: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    return float(np.median(np.linalg.norm(read - truth, axis=-1))) * 100.0


def _strips(
    decoder: Decoder, frames: _Frames, windows: _Windows
) -> tuple[list[Strip], list[Strip]]:
    """The worst windows, one an episode, and ordinary ones."""
    ranking = np.argsort(-windows.error, kind='stable')
    of_window = frames.episodes.episode_of_frames()[windows.frames[ranking, 0]]
    worst = ranking[np.sort(np.unique(of_window, return_index=True)[1])][:STRIPS]
    ordinary = ranking[len(ranking) // 2 :][:STRIPS]

    def strip(window: int) -> Strip:
        rows = windows.frames[window]
        episode = int(frames.episodes.episode_of_frames()[rows[0]])
        return Strip(
            frames.images(rows),
            decoder.pictures(windows.latents[window]),
            f'episode {episode}, frame {int(rows[0])}: '
            f'error {windows.error[window]:.4f} at the end',
        )

    return [strip(int(w)) for w in worst], [strip(int(w)) for w in ordinary]


def format_decoder(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    lines = [
        'PSNR, dB            whole image (mean image)   round the object (mean image)   '
        'misread in it: object, tip'
    ]
    for step, row in report['steps'].items():
        name = 'seen' if step == '0' else f'{step} model steps on'
        lines.append(
            f'{name:20s}{row["psnr_db"]:11.1f} ({row["mean_image_psnr_db"]:.1f})'
            f'{row["object_psnr_db"]:24.1f} ({row["object_mean_image_psnr_db"]:.1f})'
            f'{"":14s}{_centimetres(row)}'
        )
    lines.append(f'{"the real images":75s}{_centimetres(report["real"])}')
    lines.append(f'held-out windows: {report["windows"]}')
    return '\n'.join(lines)


def _centimetres(row: dict[str, float]) -> str:
    return ', '.join(f'{row[k]:.2f} cm' for k in ('object_cm', 'tip_cm') if k in row)
