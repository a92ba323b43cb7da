"""Training of the decoder on frozen latents, its errors on held-out windows, and film strips.

Decoded images are for people to look at: they do not affect world model, planner or guard.
"""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_arm.config import DecoderConfig, to_dict
from jepa_arm.core.files import git_hash
from jepa_arm.datasets.augmentation import unify_hues
from jepa_arm.model.checkpoint import FINGERPRINT_KEY, Checkpoint, load_checkpoint, new_decoder
from jepa_arm.model.checkpoint_files import add_module, fingerprint, round_weights
from jepa_arm.model.heads.decoder import Decoder
from jepa_arm.model.numerics import mixed_precision
from jepa_arm.robot.camera import project

from .encoding import EncodedEpisodes, HeadTraining, encode_frames
from .fit import adamw_one_cycle, fit
from .gates import RolloutWindows, held_out_windows
from .report import html_figure, html_page, rank_windows

HORIZON = 10
"""Model steps of the open-loop predictions that are decoded and measured."""
REPORTED_STEPS = (0, 1, 3, 5, 10)
MAX_WINDOWS = 2000
"""Largest number of held-out windows that are measured."""
MEAN_FRAMES = 4000
"""Largest number of training frames that the mean image is computed from."""
OBJECT_RADIUS_PX = 6
"""Half the side length of the square around the object in which errors are also measured."""
STRIPS = 8
"""Number of film strips of windows with the largest errors, and of typical windows."""
GAP_PX = 1
"""White pixels between the images of a film strip."""
TEXT = """Upper rows: camera images, one model step ({model_dt:g} s) apart. Lower rows: decoded
latents, first that of the first image, then those that the world model predicts from it and the
actions alone (open loop). All hues are mapped to one, since the latent is trained to ignore them.
The decoder is for people to look at: it takes no part in the training of the model or in
planning."""
WORST_TEXT = 'Windows with the largest error of the latent at their end, one per episode.'
TYPICAL_TEXT = 'From the middle of that ranking.'
Images = NDArray[np.uint8]


def train_decoder(
    inputs: HeadTraining, config: DecoderConfig, page: Path | None = None
) -> dict[str, Any]:
    """Train the decoder, measure it and add it to the checkpoint as ``decoder.safetensors``.

    Args:
        inputs: checkpoint and episodes.
        config: configuration of decoder and training.
        page: HTML file for film strips of held-out windows; None: not written.

    Returns:
        The report, which ``config.json`` holds under ``decoder``.

    Raises:
        CheckpointError, DataError: a file cannot be used.
        TrainingError: a loss is not finite.
    """
    checkpoint, encoded, seed = load_checkpoint(inputs.folder), inputs.encoded, inputs.seed
    windows = held_out_windows(checkpoint.model, encoded, HORIZON, seed, MAX_WINDOWS)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = new_decoder(checkpoint, config)
    decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _fit(decoder, inputs, config)
    round_weights(decoder)
    evaluation = _DecoderEvaluation(checkpoint, decoder, encoded, windows)
    report = {'config': to_dict(config), 'seed': seed, 'git': git_hash(), **evaluation.report()}
    metadata = {FINGERPRINT_KEY: fingerprint(checkpoint.model)}
    add_module(inputs.folder, 'decoder', decoder, report, metadata)
    if page is not None:
        data, table = encoded.episodes.path.name, html.escape(format_decoder(report))
        title = f'Predictions of {inputs.folder.name}, held-out episodes of {data}'
        text = TEXT.format(model_dt=checkpoint.contract.time.model_dt)
        worst, typical = evaluation.strips()
        sections = [
            ('Errors', text, f'<pre>{table}</pre>'),
            ('Largest errors', WORST_TEXT, worst),
            ('Typical errors', TYPICAL_TEXT, typical),
        ]
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(html_page(title, sections, width_rem=112))
    return report


def _fit(decoder: Decoder, inputs: HeadTraining, config: DecoderConfig) -> None:
    """Train ``decoder`` on the images of the training split by mean squared error."""
    encoded, rng = inputs.encoded, np.random.default_rng(inputs.seed)
    rows = np.flatnonzero(encoded.frames_of(encoded.training))
    pixels = encoded.episodes.pixels
    mean = unify_hues(np.asarray(pixels[rng.permutation(rows)[:MEAN_FRAMES]]))
    mean = mean.mean(0, dtype=np.float64) / 255.0
    decoder.mean.copy_(torch.from_numpy(mean).permute(2, 0, 1).half())
    needed = config.steps * config.batch
    # every frame is used once before any is used again
    order = np.concatenate([rng.permutation(rows) for _ in range(-(-needed // len(rows)))])
    batches = order[:needed].reshape(config.steps, -1)

    def loss(step: int) -> Tensor:
        images = unify_hues(np.asarray(pixels[batches[step]]))
        target = torch.from_numpy(images).permute(0, 3, 1, 2)
        with mixed_precision():
            decoded = decoder(torch.from_numpy(encoded.z[batches[step]]))
        return (decoded.float() - target / 255.0).square().mean()

    optimizer = adamw_one_cycle(decoder, config.steps, config.learning_rate)
    fit(decoder, loss, optimizer, 'decoder')


class _DecoderEvaluation:
    """Decoded predictions of W held-out windows, compared with camera images.

    Attributes:
        latents: (W, HORIZON + 1, D), the first recorded, the others predicted open loop.
        error: (W,) mean squared error of the last latent.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        decoder: Decoder,
        encoded: EncodedEpisodes,
        windows: RolloutWindows,
    ) -> None:
        self._checkpoint, self._decoder = checkpoint, decoder
        self._episodes, self._frames = encoded.episodes, windows.frames
        self._proprio = encoded.episodes.proprioception()
        predicted = windows.rollout(checkpoint.model)
        self.latents = torch.cat([windows.z[:, None], predicted], 1)
        self.error = (predicted[:, -1] - windows.targets[:, -1]).square().mean(1).numpy()

    def report(self) -> dict[str, Any]:
        """Return the errors of the images decoded from recorded and predicted latents."""
        mean = self._decoder.mean.mul(255.0).round().to(torch.uint8).permute(1, 2, 0).numpy()
        steps: dict[str, Any] = {}
        for step in REPORTED_STEPS:
            rows = self._frames[:, step]
            real = unify_hues(self._images(rows))
            decoded = self._decoder.decode(self.latents[:, step])
            near = self._pixels_near_object(rows)
            means = np.broadcast_to(mean, real.shape)
            steps[str(step)] = {
                'psnr_db': psnr_db(decoded, real),
                'mean_image_psnr_db': psnr_db(mean, real),
                'object_psnr_db': psnr_db(decoded[near], real[near]),
                'object_mean_image_psnr_db': psnr_db(means[near], real[near]),
                'object_cm': self._object_error_cm(rows, decoded),
            }
        first = self._frames[:, 0]
        return {
            'windows': len(self._frames),
            'steps': steps,
            'real': {'object_cm': self._object_error_cm(first, self._images(first))},
        }

    def strips(self) -> tuple[str, str]:
        """Return HTML film strips of the windows with the largest errors, and of typical ones."""
        ranked = rank_windows(self.error, self._frames, self._episodes, STRIPS)
        worst, typical = ('\n'.join(self._strip(int(w)) for w in kind) for kind in ranked)
        return worst, typical

    def _strip(self, window: int) -> str:
        """Return the camera images of a window above the decoded ones, as an HTML figure."""
        rows = self._frames[window]
        frames = np.stack([self._images(rows), self._decoder.decode(self.latents[window])])
        gaps = [(0, 0), (0, 0), (0, GAP_PX), (0, GAP_PX), (0, 0)]
        frames = np.pad(frames, gaps, constant_values=255)
        image = np.vstack([np.hstack(list(row)) for row in frames])
        episode = int(self._episodes.episode_of_frames()[rows[0]])
        error = self.error[window]
        caption = f'episode {episode}, frame {int(rows[0])}: error {error:.4f} at the end'
        return html_figure(image, caption)

    def _images(self, rows: NDArray[np.int64]) -> Images:
        """Return the images (B, h, w, 3) of frames ``rows`` (B,)."""
        return np.asarray(self._episodes.pixels[rows])

    def _pixels_near_object(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Return the index of the pixels around the object, clipped to the image."""
        camera = self._episodes.contract.camera
        position = self._episodes.object_position[rows].astype(float)
        centre = np.rint(project(camera, position)).astype(np.int64)
        offsets = np.arange(-OBJECT_RADIUS_PX, OBJECT_RADIUS_PX + 1)
        x = (centre[:, :1] + offsets).clip(0, camera.width - 1)
        y = (centre[:, 1:] + offsets).clip(0, camera.height - 1)
        return np.arange(len(rows))[:, None, None], y[:, :, None], x[:, None, :]

    @torch.inference_mode()
    def _object_error_cm(self, rows: NDArray[np.int64], images: Images) -> float:
        """Return the object probe's median error (cm) on ``images`` and true proprioception."""
        latents, _ = encode_frames(self._checkpoint.model, images, self._proprio[rows])
        position = self._checkpoint.probes.read('object', torch.from_numpy(latents)).numpy()
        error = np.linalg.norm(position - self._episodes.object_position[rows], axis=-1)
        return float(np.median(error)) * 100.0


def psnr_db(decoded: Images, real: Images) -> float:
    """Return the peak signal-to-noise ratio of decoded images, dB, at most 100."""
    error = decoded.astype(np.float32) - real
    mse = float(np.square(error).mean(dtype=np.float64)) / 255.0**2
    return float(-10.0 * np.log10(max(mse, 1e-10)))


def format_decoder(report: dict[str, Any]) -> str:
    """Return the report of ``train_decoder`` as a table."""
    lines = [
        'PSNR, dB            whole image (mean image)   around the object (mean image)   '
        'error of the object'
    ]
    for step, row in report['steps'].items():
        name = 'recorded' if step == '0' else f'{step} model steps ahead'
        lines.append(
            f'{name:20s}{row["psnr_db"]:11.1f} ({row["mean_image_psnr_db"]:.1f})'
            f'{row["object_psnr_db"]:24.1f} ({row["object_mean_image_psnr_db"]:.1f})'
            f'{"":14s}{row["object_cm"]:.2f} cm'
        )
    lines.append(f'{"camera images":75s}{report["real"]["object_cm"]:.2f} cm')
    lines.append(f'held-out windows: {report["windows"]}')
    return '\n'.join(lines)
