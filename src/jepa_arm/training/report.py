"""Report of a training run as an HTML page: losses, gates, probes, predicted positions."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from jepa_arm.config import CameraConfig
from jepa_arm.core.types import FloatArray, ImageArray
from jepa_arm.datasets.episodes import EpisodeFile
from jepa_arm.model.checkpoint import AnyWorldModel
from jepa_arm.model.heads.probes import Probes
from jepa_arm.robot.camera import project

from .encoding import EncodedEpisodes
from .gates import HORIZON, format_report, held_out_windows

STRIPS = 6
"""Number of film strips of windows with the largest errors, and of typical windows."""
MAX_POINTS = 3000
"""Largest number of points in a scatter plot."""
SMOOTHING_STEPS = 50
"""Training steps averaged into each point of a curve; the last point may average fewer."""
PANEL_HEIGHT = 256
"""Height of an enlarged image, pixels; the width follows from the camera."""
MAX_PIXEL = 10_000
"""Largest pixel coordinate that is drawn; for points near the camera plane it has no bound."""
Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
COLOURS = {'tip': (250, 170, 40), 'object': (60, 120, 255)}
"""RGB colour of each subject's predicted position; true positions are white."""
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
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: {width}rem;
  padding: 0 1rem; color: #222 }}
pre {{ background: #f4f4f6; padding: 1rem; overflow-x: auto }}
figure {{ margin: 0 0 1rem }} figure img {{ width: 100%; image-rendering: pixelated }}
svg {{ max-width: 100%; height: auto }}
.episodes {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(32rem, 1fr));
  gap: 1rem }}
.won {{ border-left: 6px solid #3a3 }} .lost {{ border-left: 6px solid #c33 }}
</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""
LOSSES_TEXT = f'Training losses averaged over {SMOOTHING_STEPS} steps; losses of held-out windows.'
PREDICTION_TEXT = 'Held-out windows; persistence predicts that the latent does not change.'
SPECTRUM_TEXT = """Eigenvalues of the covariance over held-out frames; SIGReg drives all of them
towards 1."""
PROBES_TEXT = 'Positions read from latents of held-out frames against the true positions.'
STRIPS_TEXT = """Camera images one model step apart. Circles: position of {legend} as predicted
from the first image and the actions alone; white crosses: true positions. The windows with the
largest error at their end come first, one per episode, then typical ones (the middle of the
ranking)."""


def rank_windows(
    error: FloatArray, frames: NDArray[np.int64], episodes: EpisodeFile, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the windows with the largest errors, one per episode, and typical ones.

    Args:
        error: (W,) error at the end of each window.
        frames: (W, H + 1) rows of the episode file.
        episodes: the episode file.
        count: largest number of windows of each kind.
    """
    ranking = np.argsort(-error, kind='stable')
    of_window = episodes.episode_of_frames()[frames[ranking, 0]]
    worst = ranking[np.sort(np.unique(of_window, return_index=True)[1])][:count]
    return worst, ranking[len(ranking) // 2 :][:count]


def training_report(
    title: str,
    metrics: Path,
    gates: Mapping[str, Any],
    probes: Probes,
    encoded: EncodedEpisodes,
    strips: str,
) -> str:
    """Return the report as an HTML page that needs no other files.

    Args:
        title: title of the page.
        metrics: file with a JSON object per training step.
        gates: report of ``gate_report``, whether the model passed or failed.
        probes: probes of the model.
        encoded: episodes with the model's latents.
        strips: see ``film_strips``.
    """
    legend = ', '.join(
        f'the {name} (<span style="color:rgb{rgb}">&#9679;</span>)'
        for name, rgb in COLOURS.items()
    )
    rows = np.flatnonzero(encoded.frames_of(encoded.held_out))
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    sections = [
        ('Gates', '', f'<pre>{html.escape(format_report(dict(gates)))}</pre>'),
        ('Losses', LOSSES_TEXT, figure_svg(_losses(steps))),
        ('Prediction, open loop', PREDICTION_TEXT, figure_svg(_prediction(gates))),
        ('Spectrum of the latent', SPECTRUM_TEXT, figure_svg(_spectrum(encoded.z[rows]))),
        ('Probes', PROBES_TEXT, figure_svg(_probes(probes, encoded, rows))),
        ('Predicted and true positions', STRIPS_TEXT.format(legend=legend), strips),
    ]
    return html_page(title, sections)


def html_page(title: str, sections: Sequence[tuple[str, str, str]], width_rem: int = 72) -> str:
    """Return an HTML page of ``sections``, each a heading, a paragraph and content in HTML."""
    body = '\n'.join(f'<h2>{h}</h2>\n<p>{text}</p>\n{content}' for h, text, content in sections)
    return PAGE.format(title=html.escape(title), width=width_rem, body=body)


def _losses(rows: Sequence[Mapping[str, float]]) -> Figure:
    figure = Figure(figsize=(11, 6), layout='constrained')
    for axes, (name, keys) in zip(figure.subplots(2, 2).flat, CURVES.items(), strict=True):
        for key in keys:
            points = np.array([(r['step'], r[key]) for r in rows if key in r]).reshape(-1, 2)
            is_training = key.startswith('train')
            if is_training and len(points):
                ends = range(SMOOTHING_STEPS, len(points), SMOOTHING_STEPS)
                points = np.array([part.mean(0) for part in np.array_split(points, ends)])
            axes.plot(*points.T, '-' if is_training else 'o-', ms=3, label=key.split('/')[0])
        is_positive = any(np.any(line.get_ydata() > 0.0) for line in axes.lines)
        axes.set(xlabel='step', title=name, yscale='log' if is_positive else 'linear')
        axes.legend()
    return figure


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
def _probes(probes: Probes, encoded: EncodedEpisodes, rows: NDArray[np.int64]) -> Figure:
    rows = rows[:: max(1, len(rows) // MAX_POINTS)]
    figure, z = Figure(figsize=(11, 7), layout='constrained'), torch.from_numpy(encoded.z[rows])
    for line, (subject, name) in zip(figure.subplots(2, 3), TRUTHS.items(), strict=True):
        truth = np.asarray(getattr(encoded.episodes, name))[rows]
        read = probes.read(subject, z).numpy()
        for i, axes in enumerate(line):
            both = np.stack([truth[:, i], read[:, i]])
            ends = [both.min(), both.max()]
            axes.plot(ends, ends, color='grey', lw=0.8)
            axes.plot(truth[:, i], read[:, i], '.', ms=2, alpha=0.4, rasterized=True)
            axes.set(xlabel=f'true {"xyz"[i]} of the {subject}, m', ylabel='read, m')
    return figure


@torch.inference_mode()
def film_strips(model: AnyWorldModel, probes: Probes, encoded: EncodedEpisodes, seed: int) -> str:
    """Return film strips of held-out windows, with predicted positions, as HTML figures."""
    windows, episodes = held_out_windows(model, encoded, HORIZON, seed), encoded.episodes
    predicted, camera = windows.rollout(model), episodes.contract.camera
    error = (predicted[:, -1] - windows.targets[:, -1]).square().mean(1)
    figures = []
    for window in np.concatenate(rank_windows(error.numpy(), windows.frames, episodes, STRIPS)):
        frames = windows.frames[window]
        images = np.asarray(episodes.pixels[frames])[:, : camera.height]
        panels = [Panel(image, camera) for image in images]
        errors = []
        for subject, name in TRUTHS.items():
            truth = np.asarray(getattr(episodes, name))[frames[1:]]
            read = probes.read(subject, predicted[window]).numpy()
            for panel, true, guess in zip(panels[1:], truth, read, strict=True):
                panel.cross(true)
                panel.mark(guess, COLOURS[subject])
            errors.append(f'{subject} {np.linalg.norm(read[-1] - truth[-1]) * 100:.1f} cm off')
        episode = int(episodes.episode_of_frames()[frames[0]])
        caption = (
            f'episode {episode}, frame {int(frames[0])}: error {error[window]:.4f} at the end; '
            f'{", ".join(errors)}'
        )
        figures.append(html_figure(np.hstack([panel.image for panel in panels]), caption))
    return '\n'.join(figures)


def html_figure(image: ImageArray, caption: str) -> str:
    """Return an RGB image (h, w, 3) embedded in an HTML figure with a caption."""
    done, data = cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    source = base64.b64encode(data.tobytes()).decode()
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="film strip"><figcaption>'
        f'{html.escape(caption)}</figcaption></figure>'
    )


class Panel:
    """An enlarged camera image on which world points are drawn.

    Attributes:
        image: (PANEL_HEIGHT, w, 3) RGB.
    """

    def __init__(self, image: ImageArray, camera: CameraConfig) -> None:
        size = round(PANEL_HEIGHT * image.shape[1] / image.shape[0]), PANEL_HEIGHT
        large = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
        self.image, self._camera = large.astype(np.uint8, copy=False), camera

    def draw_path(self, points: FloatArray, colour: Colour) -> None:
        """Draw a line through ``points`` (N, 3) m."""
        line = self._pixels(points)
        cv2.polylines(self.image, [line.reshape(-1, 1, 2)], False, colour, 2, cv2.LINE_AA)

    def mark(self, point: FloatArray, colour: Colour) -> None:
        """Draw a circle around ``point`` (3,) m."""
        x, y = self._pixels(point)[0].tolist()
        cv2.circle(self.image, (x, y), 9, colour, 2, cv2.LINE_AA)

    def cross(self, point: FloatArray) -> None:
        """Draw a white cross at ``point`` (3,) m."""
        x, y = self._pixels(point)[0].tolist()
        cv2.drawMarker(self.image, (x, y), WHITE, cv2.MARKER_CROSS, 12, 1)

    def write(self, text: str) -> None:
        """Write ``text`` in the upper left corner."""
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(self.image, text, (6, 18), font, 0.5, WHITE, 1, cv2.LINE_AA)

    def _pixels(self, points: FloatArray) -> NDArray[np.int32]:
        """Return pixels (N, 2) of ``points`` (N, 3) or (3,) m, clipped to +/- ``MAX_PIXEL``."""
        pixels = project(self._camera, np.atleast_2d(points))
        pixels = pixels * (self.image.shape[1] / self._camera.width)
        pixels = np.nan_to_num(np.round(pixels), nan=MAX_PIXEL)
        return pixels.clip(-MAX_PIXEL, MAX_PIXEL).astype(np.int32)


def figure_svg(figure: Figure) -> str:
    """Return ``figure`` as inline SVG."""
    text = io.StringIO()
    figure.savefig(text, format='svg')
    svg = text.getvalue()
    return svg[svg.index('<svg') :]
