"""Pictures: animations of episodes and the HTML page of a demo or an evaluation."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure

from jepa_arm.config import CameraConfig
from jepa_arm.core.types import ImageArray
from jepa_arm.training.report import Panel, figure_svg, html_page

from .episode import EpisodeRecord
from .report import format_report

GOAL, ACTUAL, PREDICTED = (60, 200, 60), (250, 170, 40), (60, 120, 255)
"""RGB colours of the drawings."""
LEGEND = """<b>{wins} of {count}</b> goals reached. Left: camera image with the true path of the
{subject} (<span style="color:rgb{actual}">actual</span>), the tip path that the plan of that
moment predicts (<span style="color:rgb{predicted}">predicted</span>), and the goal
(<span style="color:rgb{goal}">goal</span>). Right: the goal image for the planner; only its
{subject} counts."""


def write_report(
    folder: Path,
    title: str,
    report: dict[str, Any],
    results: Sequence[EpisodeRecord],
    camera: CameraConfig,
) -> Path:
    """Write ``index.html`` with an animation of each episode and return its path.

    Episodes without frames are listed without a picture. ``report.json`` is written beside it.
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
    wins, latencies = sum(r.success for r in results), [ms for r in results for ms in r.plan_ms]
    colours = {'actual': ACTUAL, 'predicted': PREDICTED, 'goal': GOAL}
    legend = LEGEND.format(wins=wins, count=len(results), subject=subject, **colours)
    grid = '<div class="episodes">\n' + '\n'.join(figures) + '\n</div>'
    sections = [
        ('Result', legend, f'<pre>{html.escape(format_report(report))}</pre>'),
        ('Plan latency', '', histogram(latencies, 'ms')),
        ('Episodes', '', grid),
    ]
    (folder / 'report.json').write_text(json.dumps(report, indent=1) + '\n')
    path = folder / 'index.html'
    path.write_text(html_page(title, sections))
    return path


def episode_pictures(
    result: EpisodeRecord, subject: str, camera: CameraConfig
) -> list[ImageArray]:
    """Return a picture (PANEL_HEIGHT, 2*w, 3) per frame: camera image left, goal image right.

    The actual path and the predicted path are drawn into the camera image.

    Args:
        result: episode whose frames were kept.
        subject: 'tip' or 'object', whose actual path is drawn.
        camera: camera that took the frames.
    """
    goal_panel = Panel(result.goal_image, camera)
    goal_panel.mark(result.read_goal, GOAL)
    goal_panel.write('goal')
    path = result.tip_path if subject == 'tip' else result.object_path
    pictures = []
    for i, frame in enumerate(result.frames):
        panel = Panel(frame, camera)
        panel.draw_path(path[: i + 1], ACTUAL)
        if i < len(result.predicted):
            panel.draw_path(result.predicted[i], PREDICTED)
        panel.mark(result.goal, GOAL)
        panel.write(f'{i / 10:.1f} s')
        pictures.append(np.hstack([panel.image, goal_panel.image]))
    return pictures


def write_animation(path: Path, pictures: Sequence[ImageArray], frame_ms: int = 100) -> None:
    """Write RGB ``pictures`` as a looping WebP, GIF or APNG, chosen by the extension of ``path``.

    Raises:
        OSError: the file cannot be written.
    """
    animation = cv2.Animation()
    animation.frames = [cv2.cvtColor(p, cv2.COLOR_RGB2BGRA) for p in pictures]
    animation.durations = [frame_ms] * (len(pictures) - 1) + [1000]
    if not cv2.imwriteanimation(str(path), animation):
        raise OSError(f'cannot write the animation {path}')


def histogram(values: Sequence[float], unit: str) -> str:
    """Return a histogram of ``values`` as inline SVG."""
    if not values:
        return '<p>no plans</p>'
    top = max(float(np.percentile(values, 99.5)), 1e-9)
    figure = Figure(figsize=(7.0, 2.0), layout='tight')
    axes = figure.subplots()
    axes.hist(np.minimum(values, top), bins=40, range=(0.0, top))
    axes.set_xlabel(unit)
    return figure_svg(figure)
