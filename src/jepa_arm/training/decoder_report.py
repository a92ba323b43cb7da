"""The page of what a world model imagines: film strips of decoded latents under real images."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..types import ImageArray

GAP_PX = 1
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 112rem; color: #222;
  padding: 0 1rem }}
pre {{ background: #f4f4f6; padding: 1rem; overflow-x: auto }}
figure {{ margin: 0 0 1rem }} figure img {{ width: 100%; image-rendering: pixelated }}
</style></head><body>
<h1>{title}</h1>
<p>Above what the camera saw, one model step ({model_dt:g} s) apart; below what the decoder draws:
first of the latent of the first image, then of what the world model, from there and with the
actions alone, imagined (open loop). All hues are drawn as one, since the latent is not meant to
hold them. The decoder is a read-out for people: it had no part in the training of the model, and
nothing plans by it.</p>
<pre>{table}</pre>
<h2>The worst</h2>
<p>Windows with the largest error of the latent at their end, one an episode.</p>
{worst}
<h2>Ordinary ones</h2>
<p>From the middle of that ranking.</p>
{ordinary}
</body></html>
"""


@dataclass(frozen=True)
class Strip:
    """One window of N model steps.

    Attributes:
        real, imagined: (N, h, w, 3) uint8 RGB.
        caption: of the two rows.
    """

    real: ImageArray
    imagined: ImageArray
    caption: str


def write_decoder_report(
    path: Path,
    title: str,
    table: str,
    worst: Sequence[Strip],
    ordinary: Sequence[Strip],
    model_dt: float,
) -> None:
    """Writes the page, one file that needs no other.

    Args:
        path: of the page. title: of the page. table: of the held-out errors, plain text.
        worst, ordinary: film strips, in the order in which they are shown.
        model_dt: s, between two pictures of a strip.
    """
    page = PAGE.format(
        title=html.escape(title),
        model_dt=model_dt,
        table=html.escape(table),
        worst='\n'.join(map(_figure, worst)),
        ordinary='\n'.join(map(_figure, ordinary)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)


def strip_picture(strip: Strip) -> ImageArray:
    """Both rows of ``strip`` as one picture (h', w', 3) uint8 RGB."""
    frames = np.stack([strip.real, strip.imagined])
    gaps = [(0, 0), (0, 0), (0, GAP_PX), (0, GAP_PX), (0, 0)]
    rows, steps, height, width, _ = (framed := np.pad(frames, gaps, constant_values=255)).shape
    return framed.swapaxes(1, 2).reshape(rows * height, steps * width, 3)


def _figure(strip: Strip) -> str:
    bgr = cv2.cvtColor(strip_picture(strip), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode('.png', bgr)
    assert done
    source = base64.b64encode(data.tobytes()).decode()
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="film strip"><figcaption>'
        f'{html.escape(strip.caption)}</figcaption></figure>'
    )
