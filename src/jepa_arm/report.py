"""Pictures of episodes, and the page that a demo or an evaluation ends with."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .config import CameraConfig
from .episode_result import EpisodeResult
from .evaluation_report import format_report
from .sim.camera import project
from .types import FloatArray, ImageArray

PANEL_HEIGHT = 256
"""Pixels of one picture; the width follows from the camera's."""
GOAL, ACTUAL, PREDICTED, TEXT = (60, 200, 60), (250, 170, 40), (60, 120, 255), (255, 255, 255)
"""RGB colours of what is drawn."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; color: #222;
  padding: 0 1rem }}
pre {{ background: #f4f4f6; padding: 1rem; overflow-x: auto }}
.episodes {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(32rem, 1fr));
  gap: 1rem }}
figure {{ margin: 0; border: 1px solid #ddd; padding: .5rem }}
figure img {{ width: 100%; image-rendering: pixelated }}
.won {{ border-left: 6px solid #3a3 }} .lost {{ border-left: 6px solid #c33 }}
.key span {{ padding: 0 .5rem; color: #fff }}
</style></head><body>
<h1>{title}</h1>
<p><b>{wins} of {count}</b> goals reached. Left: what the camera sees, with the true path of the
{subject} (<span class="key"><span style="background:{actual}">actual</span></span>), where the
plan of that moment takes the tip
(<span class="key"><span style="background:{predicted}">predicted</span></span>), and the goal
(<span class="key"><span style="background:{goal}">goal</span></span>). Right: the goal image
that the planner was shown; only the {subject} in it counts.</p>
<pre>{table}</pre>
<h2>Plan latency</h2>
{histogram}
<h2>Episodes</h2>
<div class="episodes">
{episodes}
</div></body></html>
"""


def write_report(
    folder: Path,
    title: str,
    report: dict[str, Any],
    results: Sequence[EpisodeResult],
    camera: CameraConfig,
) -> Path:
    """Writes ``index.html`` with an animation per episode; returns its path.

    Episodes without frames are listed without a picture. ``report.json`` lies beside the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    subject = 'tip' if report['task'].endswith('reach') else 'object'
    figures = []
    for i, result in enumerate(results):
        picture = ''
        if result.frames:
            name = f'episode_{i:03d}.webp'
            write_animation(folder / name, episode_pictures(result, subject, camera))
            picture = f'<img src="{name}" alt="episode {i}">'
        verdict = 'reached' if result.success else 'not reached'
        figures.append(
            f'<figure class="{"won" if result.success else "lost"}">{picture}<figcaption>'
            f'seed {result.seed}: {verdict} after {result.time_s:.1f} s, '
            f'{result.distance * 100:.1f} cm from the goal</figcaption></figure>'
        )
    page = PAGE.format(
        title=html.escape(title),
        wins=sum(r.success for r in results),
        count=len(results),
        subject=subject,
        actual=_css(ACTUAL),
        predicted=_css(PREDICTED),
        goal=_css(GOAL),
        table=html.escape(format_report(report)),
        histogram=histogram_svg([ms for r in results for ms in r.plan_ms], 'ms'),
        episodes='\n'.join(figures),
    )
    (folder / 'report.json').write_text(json.dumps(report, indent=1) + '\n')
    path = folder / 'index.html'
    path.write_text(page)
    return path


def episode_pictures(
    result: EpisodeResult, subject: str, camera: CameraConfig
) -> list[ImageArray]:
    """One picture (PANEL_HEIGHT, 2 * w, 3) a frame: camera with paths, and the goal image."""
    goal_image = _enlarge(result.goal_image)
    _mark(goal_image, camera, result.read_goal, GOAL)
    _write(goal_image, 'goal')
    path = result.tip_path if subject == 'tip' else result.object_path
    pictures = []
    for i, frame in enumerate(result.frames):
        picture = _enlarge(frame)
        _draw_path(picture, camera, path[: i + 1], ACTUAL)
        if i < len(result.predicted):
            _draw_path(picture, camera, result.predicted[i], PREDICTED)
        _mark(picture, camera, result.goal, GOAL)
        _write(picture, f'{i / 10:.1f} s')
        pictures.append(np.hstack([picture, goal_image]))
    return pictures


def write_animation(path: Path, pictures: Sequence[ImageArray], frame_ms: int = 100) -> None:
    """Writes RGB ``pictures`` as an endless WebP, GIF or APNG, by the name's ending.

    Raises:
        OSError: the file cannot be written.
    """
    animation = cv2.Animation()
    animation.frames = [cv2.cvtColor(p, cv2.COLOR_RGB2BGRA) for p in pictures]
    animation.durations = [frame_ms] * (len(pictures) - 1) + [1000]
    if not cv2.imwriteanimation(str(path), animation):
        raise OSError(f'cannot write the animation {path}')


def histogram_svg(values: Sequence[float], unit: str, bins: int = 40) -> str:
    """A histogram of ``values`` as inline SVG."""
    if not values:
        return '<p>no plans</p>'
    top = max(float(np.percentile(values, 99.5)), 1e-9)
    counts, edges = np.histogram(np.minimum(values, top), bins=bins, range=(0.0, top))
    width, height = 640, 160
    bar = width / bins
    bars = ''.join(
        f'<rect x="{i * bar:.1f}" y="{height - height * c / counts.max():.1f}" '
        f'width="{bar - 1:.1f}" height="{height * c / counts.max():.1f}" fill="#4a7ebb"/>'
        for i, c in enumerate(counts)
    )
    labels = ''.join(
        f'<text x="{x:.0f}" y="{height + 18}" font-size="12" text-anchor="middle">'
        f'{edges[-1] * x / width:.0f} {unit}</text>'
        for x in np.linspace(20, width - 20, 5)
    )
    return f'<svg width="{width}" height="{height + 24}">{bars}{labels}</svg>'


def _enlarge(image: ImageArray) -> ImageArray:
    size = round(PANEL_HEIGHT * image.shape[1] / image.shape[0]), PANEL_HEIGHT
    large = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
    return large.astype(np.uint8, copy=False)


def _pixels(picture: ImageArray, camera: CameraConfig, points: FloatArray) -> FloatArray:
    """(N, 2) pixels of the enlarged picture."""
    return project(camera, np.atleast_2d(points)) * (picture.shape[1] / camera.width)


def _draw_path(
    picture: ImageArray, camera: CameraConfig, points: FloatArray, colour: tuple[int, int, int]
) -> None:
    line = np.round(_pixels(picture, camera, points)).astype(np.int32)
    cv2.polylines(picture, [line.reshape(-1, 1, 2)], False, colour, 2, cv2.LINE_AA)


def _mark(
    picture: ImageArray, camera: CameraConfig, point: FloatArray, colour: tuple[int, int, int]
) -> None:
    x, y = (int(v) for v in np.round(_pixels(picture, camera, point)[0]))
    cv2.circle(picture, (x, y), 9, colour, 2, cv2.LINE_AA)


def _write(picture: ImageArray, text: str) -> None:
    cv2.putText(picture, text, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, TEXT, 1, cv2.LINE_AA)


def _css(colour: tuple[int, int, int]) -> str:
    return 'rgb({}, {}, {})'.format(*colour)
