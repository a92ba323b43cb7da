"""The plane as an object sees it, from its middle, with the face that is nearest the tip ahead.

What holds for one face of a square then holds for all four, wherever the object lies.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Face:
    """The direction of the object's face that is nearest the tip."""

    def __init__(self, yaw: Tensor, way: Tensor) -> None:
        """``yaw`` (B,) rad of the object, ``way`` (B, 3) from its middle to the tip."""
        cos, sin = torch.cos(yaw), torch.sin(yaw)
        ahead = cos * way[:, 0] + sin * way[:, 1]
        left = cos * way[:, 1] - sin * way[:, 0]
        along = (ahead.abs() >= left.abs()).to(yaw.dtype)
        one = torch.ones_like(yaw)
        x = along * torch.where(ahead >= 0, one, -one)
        y = (1.0 - along) * torch.where(left >= 0, one, -one)
        self.cos = (cos * x - sin * y)[:, None]
        self.sin = (sin * x + cos * y)[:, None]

    def to(self, way: Tensor) -> Tensor:
        """``way`` (B, 3), or (B, T, 3), as seen from the object."""
        return self._turned(way, self.sin)

    def back(self, way: Tensor) -> Tensor:
        """What ``to`` makes of ``way``, undone."""
        return self._turned(way, -self.sin)

    def _turned(self, way: Tensor, sin: Tensor) -> Tensor:
        cos = self.cos
        if way.dim() == 3:
            cos, sin = cos[:, None], sin[:, None]
        x, y, z = way[..., 0:1], way[..., 1:2], way[..., 2:3]
        return torch.cat([cos * x + sin * y, cos * y - sin * x, z], dim=-1)
