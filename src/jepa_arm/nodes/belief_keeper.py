"""Keeps the planner's belief in a file, and gives it back after a restart. No ROS."""

from __future__ import annotations

from pathlib import Path
from threading import Condition, Thread
from time import monotonic

from rclpy.impl.rcutils_logger import RcutilsLogger

from ..agent import Agent
from ..belief import BlindError
from ..memory import Kept, RecallError, Widths, fingerprint, load_memory, save_memory, widths
from ..model.checkpoint import Checkpoint
from ..types import JointSample

TOLD_S = 60.0
"""How long a belief that was not taken up is a problem; the reason is told as long as it runs."""


class BeliefKeeper:
    """The file of one planner. Another thread writes it: the newest belief wins.

    Attributes:
        state: what became of the belief that was kept.
    """

    def __init__(
        self,
        path: Path | None,
        agent: Agent,
        checkpoint: Checkpoint,
        max_age: float,
        owner: str,
        logger: RcutilsLogger,
    ) -> None:
        """Reads what was kept.

        Args:
            path: of the file; None: nothing is kept.
            agent: whose belief it is. checkpoint: of the agent.
            max_age: s, older ones are not taken up.
            owner: the planner, see ``load_memory``.
            logger: of the node.
        """
        self._path, self._agent, self._max_age = path, agent, max_age
        self._owner, self._logger = owner, logger
        self._kept: Kept | None = None
        self._refused_at = -float('inf')
        self._fault = ''
        self.state = 'off'
        self._changed = Condition()
        self._newest: Kept | None = None
        self._is_unwanted = self._is_ending = False
        self._thread: Thread | None = None
        if path is None:
            return
        self._fingerprint = fingerprint(checkpoint)
        self._load(path, widths(checkpoint))
        self._thread = Thread(target=self._write_all, args=(path,), name='belief', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Writes what is to be written, and ends."""
        if self._thread is None:
            return
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        self._thread.join(timeout=2.0)

    @property
    def problems(self) -> list[str]:
        """What is wrong, in words."""
        found = [self._fault] if self._fault else []
        if monotonic() - self._refused_at < TOLD_S:
            found.append(f'the belief kept was {self.state}')
        return found

    def keep(self) -> None:
        """Keeps what the agent believes now."""
        if self._path is None:
            return
        memory = self._agent.memory()
        if memory is not None:
            with self._changed:
                self._newest, self._is_unwanted = Kept(memory, monotonic()), False
                self._changed.notify()

    def forget(self, reason: str) -> None:
        """Keeps nothing of what was believed: what was seen last is not to be trusted."""
        if self._path is None:
            return
        if self._kept is not None:
            self._refuse(reason)
        with self._changed:
            self._newest, self._is_unwanted = None, True
            self._changed.notify()

    def recall(self, now: JointSample) -> float | None:
        """Gives the agent what was kept, if it may be taken up with the arm at ``now``; once.

        Returns:
            s, stamp of the last image of what is believed by now; None: nothing was taken up.
        """
        kept, self._kept = self._kept, None
        if kept is None:
            return None
        try:
            kept.check_age(now.stamp, self._max_age)
            self._agent.recall(kept.memory, now)
        except (RecallError, BlindError) as error:
            self._refuse(str(error))
            return None
        self.state = f'taken up, {now.stamp - kept.memory.stamp:.1f} s old'
        self._logger.info(f'the belief kept was {self.state}')
        return float(kept.memory.seen_at)

    def _load(self, path: Path, widths: Widths) -> None:
        try:
            self._kept = load_memory(path, widths, self._fingerprint, self._owner)
            self.state = 'read, waits for an image or a goal'
        except FileNotFoundError:
            self.state = 'none was kept'
        except RecallError as error:
            self._refuse(str(error))

    def _refuse(self, reason: str) -> None:
        self._kept, self._refused_at = None, monotonic()
        self.state = f'not taken up: {reason}'
        self._logger.warning(f'{self._path}: the belief kept was {self.state}')

    def _write_all(self, path: Path) -> None:
        """On a thread of its own: a slow disk delays no plan."""
        while True:
            with self._changed:
                while self._newest is None and not self._is_unwanted and not self._is_ending:
                    self._changed.wait()
                kept, is_unwanted = self._newest, self._is_unwanted
                self._newest, self._is_unwanted = None, False
            try:
                if kept is not None:
                    save_memory(path, kept, self._fingerprint, self._owner)
                elif is_unwanted:
                    path.unlink(missing_ok=True)
                else:
                    return
                self._fault = ''
            except OSError as error:
                self._fault = f'the belief is not kept: {error}'
