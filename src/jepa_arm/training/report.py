"""The page that a training run ends with: losses, gates, read-outs, imagined beside real."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..config import CameraConfig
from ..data.episodes import EpisodeFile
from ..model.architectures import AnyWorldModel
from ..model.gates import HeldOut, format_report, windows_of
from ..model.probes import Probes
from ..sim.camera import project
from ..types import FloatArray, ImageArray

STRIPS = 6
"""Film strips of the worst windows, and as many of ordinary ones."""
SHOWN = 3000
"""Points in a scatter plot, at most."""
SMOOTH = 50
"""Steps that a line of training is averaged over."""
ENLARGED = 192
"""Pixels of a picture's height."""
SUBJECTS = {'tip': (250, 170, 40), 'object': (60, 120, 255)}
"""RGB colour of what was imagined of each; the truth has the same in white."""
TRUTHS = {'tip': 'tip_target', 'object': 'object_position'}
CURVES = {
    'prediction error': ('train/pred_loss', 'val/pred_loss'),
    'rollout error': ('train/rollout_loss', 'val/rollout_loss'),
    'SIGReg': ('train/sigreg', 'val/sigreg'),
    'gradient norm': ('train/grad_norm',),
}
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; color: #222;
  padding: 0 1rem }}
pre {{ background: #f4f4f6; padding: 1rem; overflow-x: auto }}
figure {{ margin: 0 0 1rem }} figure img {{ max-width: 100% }}
svg {{ max-width: 100%; height: auto }}
</style></head><body>
<h1>{title}</h1>
<h2>Gates</h2>
<pre>{gates}</pre>
<h2>Losses</h2>
<p>Each step of the training averaged over {smooth} steps, and held-out windows.</p>
{losses}
<h2>Prediction, open loop</h2>
<p>Held-out windows; persistence takes the latent to stay as it is.</p>
{prediction}
<h2>Spectrum of the latent</h2>
<p>Eigenvalues of the covariance over held-out frames; SIGReg draws all of them towards 1.</p>
{spectrum}
<h2>Probes</h2>
<p>Read from latents of held-out frames, beside the truth.</p>
{probes}
<h2>Imagined and real</h2>
<p>What the camera saw a model step apart. Circles: where the model, from the first picture and the
actions alone, imagined {legend} to be; white crosses: where they were. First the windows with the
largest error at their end, one an episode, then ordinary ones (the middle of the ranking).</p>
{strips}
</body></html>
"""


@dataclass(frozen=True)
class Imagined:
    """Held-out windows rolled out by the model, with the truth; W windows, H model steps.

    Attributes:
        frames: (W, H + 1) rows of the episode file; the first is where the window starts.
        error: (W, H), mean squared error of the latent.
        read: by subject, (W, H, 3) m in the imagined latents.
        truth: by subject, (W, H, 3) m.
    """

    frames: NDArray[np.int64]
    error: FloatArray
    read: dict[str, FloatArray]
    truth: dict[str, FloatArray]

    def ranking(self) -> NDArray[np.int64]:
        """(W,) windows, the one with the largest error at its end first."""
        return np.argsort(-self.error[:, -1], kind='stable')


@torch.inference_mode()
def imagine(
    model: AnyWorldModel, probes: Probes, episodes: EpisodeFile, held_out: HeldOut, horizon: int
) -> Imagined:
    """Rolls the model out from every start of ``held_out``."""
    now, z_prev, actions, after = windows_of(model, held_out, horizon)
    predicted = model.rollout(now, z_prev, actions)
    skip = model.contract.time.frame_skip
    frames = np.add.outer(held_out.starts, (model.past + np.arange(horizon + 1)) * skip)
    truths = {subject: np.asarray(getattr(episodes, name)) for subject, name in TRUTHS.items()}
    return Imagined(
        frames,
        (predicted - after).square().mean(2).numpy(),
        {subject: probes.read(subject, predicted).numpy() for subject in TRUTHS},
        {subject: truth[frames[:, 1:]] for subject, truth in truths.items()},
    )


def write_training_report(
    path: Path,
    title: str,
    metrics: Path,
    gates: Mapping[str, Any],
    probes: Probes,
    episodes: EpisodeFile,
    latents: NDArray[np.float32],
    rows: NDArray[np.int64],
    imagined: Imagined,
) -> Path:
    """Writes the page, one file that needs no other; returns its path.

    Args:
        path: of the page. title: of the page.
        metrics: a JSON object a line, as the training writes them.
        gates: the gate report, of a model that passed or failed.
        probes: of the model.
        episodes: the data.
        latents: (N, D) of all frames.
        rows: of the held-out frames.
        imagined: held-out windows.
    """
    ranking = imagined.ranking()
    of_window = episodes.episode_of_frames()[imagined.frames[ranking, 0]]
    worst = ranking[np.sort(np.unique(of_window, return_index=True)[1])][:STRIPS]
    middle = len(ranking) // 2
    ordinary = ranking[middle : middle + STRIPS]
    strips = [_strip(imagined, episodes, int(w)) for w in (*worst, *ordinary)]
    colours = ', '.join(f'the {name} ({_css(rgb)})' for name, rgb in SUBJECTS.items())
    page = PAGE.format(
        title=html.escape(title),
        gates=html.escape(format_report(dict(gates))),
        smooth=SMOOTH,
        losses=_svg(_losses(_read(metrics))),
        prediction=_svg(_prediction(gates)),
        spectrum=_svg(_spectrum(latents[rows])),
        probes=_svg(_probes(probes, episodes, latents, rows)),
        legend=colours,
        strips='\n'.join(strips),
    )
    path.write_text(page)
    return path


def _read(metrics: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in metrics.read_text().splitlines()]


def _losses(rows: Sequence[Mapping[str, float]]) -> Figure:
    figure = Figure(figsize=(11, 6), layout='constrained')
    for axes, (name, keys) in zip(figure.subplots(2, 2).flat, CURVES.items(), strict=True):
        for key in keys:
            points = np.array([(r['step'], r[key]) for r in rows if key in r]).reshape(-1, 2)
            is_training = key.startswith('train')
            if is_training:
                points = _smooth(points)
            axes.plot(*points.T, '-' if is_training else 'o-', ms=3, label=key.split('/')[0])
        is_positive = any(np.any(line.get_ydata() > 0.0) for line in axes.lines)
        axes.set(xlabel='step', title=name, yscale='log' if is_positive else 'linear')
        axes.legend()
    return figure


def _smooth(points: FloatArray) -> FloatArray:
    """Means of ``SMOOTH`` points in a row, of a shorter rest too."""
    parts = [points[i : i + SMOOTH].mean(0) for i in range(0, len(points), SMOOTH)]
    return np.array(parts).reshape(-1, 2)


def _prediction(gates: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(6, 3.5), layout='constrained')
    axes = figure.subplots()
    steps = np.arange(1, len(gates['mse']) + 1)
    axes.plot(steps, gates['mse'], 'o-', label='model')
    axes.plot(steps, gates['persistence_mse'], 'o-', label='persistence')
    axes.plot([1], [gates['shuffled_mse']], 'x', label='shuffled actions')
    axes.set(xlabel='model steps', ylabel='mean squared error', yscale='log', xticks=steps)
    axes.legend()
    return figure


def _spectrum(latents: NDArray[np.float32]) -> Figure:
    figure = Figure(figsize=(6, 3.5), layout='constrained')
    axes = figure.subplots()
    spectrum = np.linalg.eigvalsh(np.cov(latents.astype(np.float64), rowvar=False))[::-1]
    axes.plot(np.arange(1, len(spectrum) + 1), np.maximum(spectrum, 1e-9), 'o-', ms=3)
    axes.axhline(1.0, color='grey', lw=0.8)
    axes.set(xlabel='direction', ylabel='variance', yscale='log')
    return figure


@torch.inference_mode()
def _probes(
    probes: Probes,
    episodes: EpisodeFile,
    latents: NDArray[np.float32],
    rows: NDArray[np.int64],
) -> Figure:
    rows = rows[:: max(1, len(rows) // SHOWN)]
    figure = Figure(figsize=(11, 7), layout='constrained')
    for line, (subject, name) in zip(figure.subplots(2, 3), TRUTHS.items(), strict=True):
        truth = np.asarray(getattr(episodes, name))[rows]
        read = probes.read(subject, torch.from_numpy(latents[rows])).numpy()
        for i, axes in enumerate(line):
            _scatter(axes, truth[:, i], read[:, i])
            axes.set(xlabel=f'true {"xyz"[i]} of the {subject}, m', ylabel='read, m')
    return figure


def _scatter(axes: Axes, truth: FloatArray, read: FloatArray) -> None:
    ends = [float(min(truth.min(), read.min())), float(max(truth.max(), read.max()))]
    axes.plot(ends, ends, color='grey', lw=0.8)
    axes.plot(truth, read, '.', ms=2, alpha=0.4, rasterized=True)


def _strip(imagined: Imagined, episodes: EpisodeFile, window: int) -> str:
    """A row of pictures as one image of HTML, with its caption."""
    camera, frames = episodes.contract.camera, imagined.frames[window]
    pictures = []
    for step, frame in enumerate(frames):
        picture = _enlarge(np.asarray(episodes.pixels[frame])[: camera.height], camera)
        for subject, colour in SUBJECTS.items():
            if step:
                _mark(picture, camera, imagined.truth[subject][window, step - 1], None)
                _mark(picture, camera, imagined.read[subject][window, step - 1], colour)
        pictures.append(picture)
    done, data = cv2.imencode('.png', cv2.cvtColor(np.hstack(pictures), cv2.COLOR_RGB2BGR))
    assert done
    source = base64.b64encode(data.tobytes()).decode()
    episode = int(episodes.episode_of_frames()[frames[0]])
    off = {
        subject: np.linalg.norm(
            imagined.read[subject][window, -1] - imagined.truth[subject][window, -1]
        )
        for subject in SUBJECTS
    }
    told = ', '.join(f'{subject} {m * 100:.1f} cm off' for subject, m in off.items())
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="film strip"><figcaption>'
        f'episode {episode}, frame {int(frames[0])}: error {imagined.error[window, -1]:.4f} '
        f'at the end; {told}</figcaption></figure>'
    )


def _enlarge(image: ImageArray, camera: CameraConfig) -> ImageArray:
    size = (round(ENLARGED * camera.width / camera.height), ENLARGED)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def _mark(
    picture: ImageArray,
    camera: CameraConfig,
    place: FloatArray,
    colour: tuple[int, int, int] | None,
) -> None:
    """Draws a circle in ``colour``, or a white cross, at ``place`` (3,) m."""
    x, y = project(camera, place[None])[0] * ENLARGED / camera.height
    if not (abs(x) < 10_000 and abs(y) < 10_000):
        return
    centre = (round(float(x)), round(float(y)))
    if colour is None:
        cv2.drawMarker(picture, centre, (255, 255, 255), cv2.MARKER_CROSS, 9, 1)
    else:
        cv2.circle(picture, centre, 6, colour, 2, cv2.LINE_AA)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format='svg')
    svg = text.getvalue()
    return svg[svg.index('<svg') :]


def _css(colour: tuple[int, int, int]) -> str:
    return f'<span style="color:rgb{colour}">&#9679;</span>'
