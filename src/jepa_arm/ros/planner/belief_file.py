"""Belief file: keeps the planner's belief on disk, and restores it after a restart."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Condition, Thread
from time import monotonic

from rclpy.impl.rcutils_logger import RcutilsLogger

from jepa_arm.agent.agent import Agent
from jepa_arm.belief.belief import BlindError
from jepa_arm.belief.snapshot import (
    BeliefSnapshot,
    RestoreError,
    SnapshotOwner,
    load_snapshot,
    save_snapshot,
)
from jepa_arm.core.types import JointSample

REPORT_S = 60.0
"""Time for which a belief that was not restored is reported as a problem."""


class BeliefFile:
    """File with the belief of one planner.

    A thread of its own writes it, so that a slow disk delays no plan.

    Attributes:
        state: description of what happened to the belief found in the file.
    """

    def __init__(
        self, path: Path | None, agent: Agent, name: str, max_age: float, logger: RcutilsLogger
    ) -> None:
        """Read the file and start the thread that writes it.

        Args:
            path: path of the file; None: nothing is saved or restored.
            agent: agent whose belief is saved and restored.
            name: name of the planner, see ``SnapshotOwner``.
            max_age: s; an older belief is not restored.
            logger: logger of the node.
        """
        self._path, self._agent, self._max_age, self._logger = path, agent, max_age, logger
        self._found: BeliefSnapshot | None = None
        self._refused_at = -float('inf')
        self._write_error = ''
        self.state = 'off'
        self._changed = Condition()
        self._change: Callable[[], object] | None = None
        self._is_ending = False
        self._thread = Thread(target=self._write_all, name='belief', daemon=True)
        if path is not None:
            self._owner = SnapshotOwner.of(name, agent.checkpoint)
            self._load(path)
            self._thread.start()

    def close(self) -> None:
        """Write the newest belief and end the thread."""
        if self._path is not None:
            with self._changed:
                self._is_ending = True
                self._changed.notify()
            self._thread.join(timeout=2.0)

    @property
    def problems(self) -> list[str]:
        """Current problems, one sentence each."""
        found = [self._write_error] if self._write_error else []
        if monotonic() - self._refused_at < REPORT_S:
            found.append(f'the saved belief was {self.state}')
        return found

    def save(self) -> None:
        """Save the agent's current belief."""
        snapshot = None if self._path is None else self._agent.snapshot()
        if self._path is not None and snapshot is not None:
            self._request(partial(save_snapshot, self._path, snapshot, self._owner))

    def delete(self, reason: str) -> None:
        """Delete the file because, for ``reason``, the belief cannot be trusted."""
        if self._path is None:
            return
        if self._found is not None:
            self._refuse(reason)
        self._request(partial(self._path.unlink, missing_ok=True))

    def restore(self, now: JointSample) -> float | None:
        """Restore the belief found in the file if it fits the arm at ``now``; try this only once.

        Returns:
            s, stamp of the belief's newest image; None: nothing was restored.
        """
        found, self._found = self._found, None
        if found is None:
            return None
        try:
            found.check_age(now.stamp, self._max_age)
            self._agent.restore(found, now)
        except (RestoreError, BlindError) as error:
            self._refuse(str(error))
            return None
        self.state = f'restored, {now.stamp - found.stamp:.1f} s old'
        self._logger.info(f'the saved belief was {self.state}')
        return float(found.image_stamp)

    def _load(self, path: Path) -> None:
        try:
            self._found = load_snapshot(path, self._owner)
            self.state = 'read, waits for an image or a goal'
        except FileNotFoundError:
            self.state = 'not found'
        except RestoreError as error:
            self._refuse(str(error))

    def _refuse(self, reason: str) -> None:
        self._found, self._refused_at = None, monotonic()
        self.state = f'not restored: {reason}'
        self._logger.warning(f'{self._path}: the saved belief was {self.state}')

    def _request(self, change: Callable[[], object]) -> None:
        """Queue ``change`` to the file for the thread, replacing any change that still waits."""
        with self._changed:
            self._change = change
            self._changed.notify()

    def _write_all(self) -> None:
        """Apply requested changes to the file until ``close``."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._change is not None or self._is_ending)
                change, self._change = self._change, None
            if change is None:
                return
            try:
                change()
                self._write_error = ''
            except OSError as error:
                self._write_error = f'the belief is not saved: {error}'
