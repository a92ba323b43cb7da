"""The main job for a person to see: goals reached over ROS 2, and a page of pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2

from ..config import ArmConfig, load
from ..report import write_report
from ..resources import arm_path
from ..types import FloatArray, ImageArray
from .evaluate import evaluate_over_ros

WINDOW = 'jepa_arm'
ENLARGED = 8


def run_demo(
    task: str, episodes: int, seed: int, checkpoint: Path, arm: str, out: Path
) -> tuple[Path, int, int]:
    """Runs ``episodes`` goals of ``task`` through simulator, planner and guard.

    Where there is a display, a window shows what the camera sees.

    Returns:
        the page written to ``out``, goals reached, goals.

    Raises:
        GraphError: a process did not come up or ended.
    """
    report, results = evaluate_over_ros(
        task,
        episodes,
        seed,
        None,
        checkpoint,
        baselines=False,
        keep_frames=True,
        arm=arm,
        on_frame=live_view(),
    )
    camera = load(ArmConfig, arm_path(arm)).camera
    page = write_report(out, f'jepa_arm demo: {task} over ROS 2', report, results, camera)
    return page, sum(r.success for r in results), len(results)


def live_view() -> Callable[[ImageArray, FloatArray, FloatArray], None] | None:
    """A function that shows an image in a window; None where there is no display."""
    if not (os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')):
        return None
    try:
        cv2.namedWindow(WINDOW)
    except cv2.error:  # a headless build of OpenCV
        return None

    def show(image: ImageArray, tip: FloatArray, object_position: FloatArray) -> None:
        large = cv2.resize(image, None, fx=ENLARGED, fy=ENLARGED, interpolation=cv2.INTER_NEAREST)
        cv2.imshow(WINDOW, cv2.cvtColor(large, cv2.COLOR_RGB2BGR))
        cv2.waitKey(1)

    return show
