"""Demonstration: pursues goals over ROS 2, shown in a window and on an HTML page."""

from __future__ import annotations

import os
from pathlib import Path

import cv2

from jepa_arm.config import ArmConfig, load
from jepa_arm.core.files import arm_path
from jepa_arm.core.types import ImageArray
from jepa_arm.evaluation.pictures import write_report
from jepa_arm.evaluation.protocol import EvaluationSettings

from .episode_runner import FrameCallback
from .evaluate import evaluate_over_ros

WINDOW = 'jepa_arm'
WINDOW_SCALE = 8


def run_demo(
    settings: EvaluationSettings, checkpoint: Path, arm: str, out: Path
) -> tuple[Path, int]:
    """Run goals through simulator, planner and guard.

    Where there is a display, a window shows the camera image.

    Args:
        settings: task and scenes.
        checkpoint: folder of the world model.
        arm: name or path of the arm.
        out: folder of the HTML page.

    Returns:
        path of the page in ``out``, and the number of goals reached.

    Raises:
        GraphError: a process did not start or ended.
    """
    report, results = evaluate_over_ros(settings, checkpoint, arm, on_frame=open_window())
    camera = load(ArmConfig, arm_path(arm)).camera
    page = write_report(out, f'jepa_arm demo: {settings.task} over ROS 2', report, results, camera)
    return page, sum(r.success for r in results)


def open_window() -> FrameCallback | None:
    """Open a window and return the function that shows an image in it; None without a display."""
    if not (os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')):
        return None
    try:
        cv2.namedWindow(WINDOW)
    except cv2.error:  # a headless build of OpenCV
        return None
    return _show


def _show(image: ImageArray) -> None:
    large = image.repeat(WINDOW_SCALE, axis=0).repeat(WINDOW_SCALE, axis=1)
    cv2.imshow(WINDOW, cv2.cvtColor(large, cv2.COLOR_RGB2BGR))
    cv2.waitKey(1)
