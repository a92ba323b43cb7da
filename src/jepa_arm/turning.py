"""The object's yaw: read off images, remembered, and planned for beside its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from .angles import QUARTER, yaw_error
from .config import CameraConfig
from .goals import Goal
from .model.yaw import YawReader
from .planning.planner import Plan, Planner
from .planning.pose import SEEN, PoseDynamics
from .sim.camera import project
from .types import FloatArray, ImageArray

TURNS = 15.0
"""rad per m: how much a push may turn an object that moves (standard deviation)."""
DRIFTS = 0.01
"""rad from one image to the next, of an object at rest."""


class YawMemory:
    """Yaws that were read, weighed by how sure they were.

    Attributes:
        yaw: rad, in [-pi/4, pi/4]; None before the first was read.
        spread: rad, rms error to be expected of it.
    """

    def __init__(self) -> None:
        self.yaw: float | None = None
        self.spread = QUARTER / 2.0
        self._place: FloatArray | None = None

    def see(self, yaw: float, spread: float, place: FloatArray) -> None:
        """Takes in what was read (rad) of an object that was seen at ``place`` (3,) m."""
        if self.yaw is None or self._place is None:
            self.yaw, self.spread = yaw, spread
        else:
            moved = float(np.linalg.norm(place - self._place))
            before = self.spread**2 + (TURNS * moved) ** 2 + DRIFTS**2
            weight = before / (before + spread**2)
            turned = self.yaw + weight * float(yaw_error(self.yaw, yaw))
            self.yaw = float(yaw_error(0.0, turned))
            self.spread = ((1.0 - weight) * before) ** 0.5
        self._place = place


class Turning:
    """Plans for goals that ask for a yaw."""

    def __init__(
        self,
        reader: YawReader,
        camera: CameraConfig,
        poses: PoseDynamics,
        make_planner: Callable[[], Planner],
    ) -> None:
        """``make_planner``: of a search in ``poses``; called when first needed."""
        self._reader, self._camera = reader, camera
        self._poses, self._make_planner = poses, make_planner
        self._planner: Planner | None = None
        self.reset()

    def make_ready(self) -> Planner:
        """What plans for poses, which takes seconds the first time."""
        if self._planner is None:
            self._planner = self._make_planner()
        return self._planner

    def renew(self) -> None:
        """Makes what plans anew when it is next needed."""
        self._planner = None

    def reset(self) -> None:
        """Forgets the yaw."""
        self._memory = YawMemory()

    @property
    def yaw(self) -> float | None:
        """rad, what is believed; None before it was seen."""
        return self._memory.yaw

    def read(self, image: ImageArray, place: FloatArray) -> tuple[float, float]:
        """rad, the yaw of an object at ``place`` (3,) m in ``image``, and its rms error."""
        pixels = project(self._camera, place[None])
        yaw, spread = self._reader.read(image[None], pixels)
        return float(yaw[0]), float(spread[0])

    def see(self, image: ImageArray, place: FloatArray) -> None:
        """Takes in an image of an object at ``place`` (3,) m."""
        self._memory.see(*self.read(image, place), place)

    @property
    def has_warm_start(self) -> bool:
        """See ``Planner.has_warm_start``."""
        return self._planner is not None and self._planner.has_warm_start

    def forget_plans(self) -> None:
        """The next plan goes on from none before it."""
        if self._planner is not None:
            self._planner.reset()

    def plan(self, z: Tensor, z_prev: Tensor, goal: Goal, *others: Any) -> Plan:
        """See ``Planner.plan``: from ``z`` (1, D) and ``z_prev`` with the yaw beside them."""
        assert self.yaw is not None
        start = self._poses.joined(z, z_prev, self.yaw)
        found = self.make_ready().plan(*start, goal, *others)
        latents, rest = found.latents[..., :-SEEN], found.others[..., :-SEEN]
        return replace(found, latents=latents, others=rest)
