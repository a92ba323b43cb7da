"""Episodes on disk: one HDF5 file in the layout of LeWorldModel / stable-worldmodel.

Flat arrays over all frames of all episodes, contiguous and uncompressed, so that reading is a
memory map and costs no memory that grows with the data:

================== ============== ==========================================================
``pixels``         (N, h, w, 3)   uint8 RGB
``proprio``        (N, J)         float32, measured joint positions, rad
``action``         (N, A)         float32 in [-1, 1]; row t leads from frame t to t+1; the last
                                  row of an episode is NaN and never read
``tip_position``   (N, 3)         float32, m, base frame, from the measured joints
``tip_target``     (N, 3)         float32, m, where the tip was last told to go
``object_position``(N, 3)         float32, m, base frame
``object_yaw``     (N,)           float32, rad
``contact``        (N,)           bool, whether the arm touched the object
``ep_len``         (E,)           int64, frames of each episode: T+1 observations, T actions
``ep_offset``      (E,)           int64, first frame of each episode
================== ============== ==========================================================

In a file of stills (``stills``) frames of an episode have nothing to do with each other, and
actions are zero.

Attributes: ``schema_version``, ``contract`` (JSON of ``config.Contract``), ``seed``, ``config``
(JSON, how the data was made). Object positions, yaws and contacts are labels for probes and
reports; the world model never sees them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..config import Contract, from_dict, to_dict
from ..motion import proprioception

SCHEMA_VERSION = 2
PARTIAL_SUFFIX = '.partial'
MOST_EPISODES = 10_000_000
METADATA_BYTES = 100_000
"""More than HDF5 adds to the arrays."""

IntArray = NDArray[np.int64]


class DataError(RuntimeError):
    """Data that cannot be used; the message says what was expected, what came, what to do."""


class EpisodeWriter:
    """Writes episodes of known lengths; the file appears under its name when it is whole.

    Until then it is ``<path>.partial``. A partial file left by an interrupted run is taken up
    again if it was opened with the same arguments: ``missing`` says which episodes to make.
    """

    def __init__(
        self,
        path: Path,
        lengths: Sequence[int],
        contract: Contract,
        seed: int,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Opens or takes up the partial file.

        Args:
            path: where the whole file will appear.
            lengths: (E,) frames (actions + 1) of each episode.
            contract: what the data was recorded with; gives the widths of all arrays.
            seed: seed of the collection.
            config: plain values that say how the data was made.

        Raises:
            DataError: a length below 2.
            OSError: no room for the whole file, which is reserved here.
        """
        self.path = Path(path)
        self._partial = self.path.with_name(self.path.name + PARTIAL_SUFFIX)
        self._lengths = np.asarray(lengths, dtype=np.int64)
        if self._lengths.ndim != 1 or self._lengths.size == 0 or self._lengths.min() < 2:
            raise DataError('episode lengths: expected at least one, each of >= 2 frames')
        self._offsets = _offsets(self._lengths)
        self._attributes = {
            'schema_version': SCHEMA_VERSION,
            'contract': json.dumps(to_dict(contract)),
            'seed': int(seed),
            'config': json.dumps(dict(config or {})),
        }
        self._columns = _columns(contract)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._take_up() or self._create()

    @property
    def missing(self) -> list[int]:
        """Indices of the episodes that are not written yet."""
        return np.flatnonzero(self._file['ep_len'][:] == 0).tolist()

    def append(self, episode: Mapping[str, NDArray[Any]]) -> int:
        """Writes ``episode`` at the first missing index and returns that index."""
        index = self.missing[0]
        self.put(index, episode)
        return index

    def put(self, index: int, episode: Mapping[str, NDArray[Any]]) -> None:
        """Writes one episode: the flat arrays of the layout, cut to its own T+1 frames.

        ``action`` has T rows (or T+1, of which the last is ignored).

        Raises:
            DataError: arrays missing, of another shape, or not finite.
        """
        frames = int(self._lengths[index])
        if set(episode) != set(self._columns):
            raise DataError(
                f'episode {index}: expected arrays {sorted(self._columns)}, got {sorted(episode)}'
            )
        start = int(self._offsets[index])
        for name, (shape, dtype) in self._columns.items():
            values = np.asarray(episode[name])
            rows = frames - 1 if name == 'action' else frames
            if values.shape[1:] != shape or len(values) not in (rows, frames):
                raise DataError(
                    f'episode {index}, {name}: expected {(rows, *shape)}, got {values.shape}'
                )
            values = values[:rows].astype(dtype)
            if dtype == np.float32 and not np.isfinite(values).all():
                raise DataError(f'episode {index}, {name}: expected finite values')
            self._file[name][start : start + rows] = values
        self._file.flush()
        self._file['ep_len'][index] = frames
        self._file.flush()

    def close(self) -> None:
        """Gives the file its name if every episode is written; else leaves it partial."""
        if not self._file:
            return
        whole = not self.missing
        self._file.close()
        if whole:
            os.replace(self._partial, self.path)

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take_up(self) -> h5py.File | None:
        if not self._partial.exists():
            return None
        try:
            file = h5py.File(self._partial, 'r+')
        except OSError:
            return None
        same = all(file.attrs.get(k) == v for k, v in self._attributes.items())
        if same and 'ep_offset' in file and np.array_equal(file['ep_offset'][:], self._offsets):
            return file
        file.close()
        return None

    def _create(self) -> h5py.File:
        total = int(self._lengths.sum())
        size = sum(
            total * int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            for shape, dtype in self._columns.values()
        )
        self._partial.unlink(missing_ok=True)
        _reserve(self._partial, size + 16 * len(self._lengths) + METADATA_BYTES)
        file = h5py.File(self._partial, 'w')
        for name, (shape, dtype) in self._columns.items():
            layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            layout.set_layout(h5py.h5d.CONTIGUOUS)
            layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            space = h5py.h5s.create_simple((total, *shape))
            kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
            h5py.h5d.create(file.id, name.encode(), kind, space, layout)
        last = self._offsets + self._lengths - 1
        for row in last:
            file['action'][row] = np.nan
        file['ep_offset'] = self._offsets
        for key, value in self._attributes.items():
            file.attrs[key] = value
        file['ep_len'] = np.zeros_like(self._lengths)
        file.flush()
        _reserve(self._partial, self._partial.stat().st_size)
        return file


class EpisodeFile:
    """Reads an episode file by memory map; every flat array is an attribute by its name.

    Attributes:
        contract: what the data was recorded with.
        seed, config: how it was made.
    """

    pixels: NDArray[np.uint8]
    proprio: NDArray[np.float32]
    action: NDArray[np.float32]
    tip_position: NDArray[np.float32]
    tip_target: NDArray[np.float32]
    object_position: NDArray[np.float32]
    object_yaw: NDArray[np.float32]
    contact: NDArray[np.bool_]
    ep_len: IntArray
    ep_offset: IntArray

    def __init__(self, path: Path) -> None:
        """Opens and checks ``path``.

        Raises:
            DataError: missing, truncated, not HDF5, another schema, wrong widths, not finite.
        """
        self.path = Path(path)
        with _open(self.path) as file:
            self.contract, self.seed, self.config = _attributes(self.path, file)
            self.ep_len = _integers(self.path, file, 'ep_len')
            self.ep_offset = _integers(self.path, file, 'ep_offset')
            self._check_episodes()
            for name, (shape, dtype) in _columns(self.contract).items():
                dataset = _dataset(self.path, file, name)
                expected = (int(self.ep_len.sum()), *shape)
                if dataset.shape != expected or dataset.dtype != dtype:
                    raise DataError(
                        f'{self.path}, {name}: expected {expected} {np.dtype(dtype)}, '
                        f'got {dataset.shape} {dataset.dtype}; collect the data again'
                    )
                setattr(self, name, _map(self.path, dataset))
        self._check_finite()

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.ep_len)

    @property
    def is_stills(self) -> bool:
        """Whether the frames of an episode have nothing to do with each other, see ``stills``."""
        return 'stills' in self.config

    @property
    def frames(self) -> int:
        """Number of frames of all episodes."""
        return int(self.ep_len.sum())

    def episode_of_frames(self) -> IntArray:
        """(N,) index of the episode each frame belongs to."""
        return np.repeat(np.arange(len(self)), self.ep_len)

    def proprioception(self, with_velocity: bool = False) -> NDArray[np.float32]:
        """(N, P) of all frames, as the encoder takes it; see ``motion.proprioception``."""
        velocity = self._velocity() if with_velocity else None
        return proprioception(self.proprio, self.tip_position, self.tip_target, velocity)

    def _velocity(self) -> NDArray[np.float32]:
        """(N, J) rad/s, mean since the frame before; zero in stills and in first frames."""
        velocity = np.zeros_like(self.proprio)
        if self.is_stills:
            return velocity
        velocity[1:] = np.diff(self.proprio, axis=0) / np.float32(self.contract.time.control_dt)
        velocity[self.ep_offset] = 0.0
        return velocity

    def split(self, seed: int, held_out: float = 0.1) -> tuple[IntArray, IntArray]:
        """Sorted episode indices (training, held out); the same seed gives the same split."""
        if len(self) < 2:
            raise DataError(f'{self.path}: expected >= 2 episodes to split, got {len(self)}')
        order = np.random.default_rng(seed).permutation(len(self))
        count = min(max(1, round(held_out * len(self))), len(self) - 1)
        return np.sort(order[count:]), np.sort(order[:count])

    def _check_episodes(self) -> None:
        if (
            self.ep_len.shape != self.ep_offset.shape
            or self.ep_len.size == 0
            or self.ep_len.min() < 2
            or not np.array_equal(self.ep_offset, _offsets(self.ep_len))
        ):
            raise DataError(
                f'{self.path}: ep_len and ep_offset: expected episodes of >= 2 frames one after '
                f'the other, got {self.ep_len.size} lengths from {self.ep_len.min(initial=0)}; '
                'collect the data again'
            )

    def _check_finite(self) -> None:
        acts = np.ones(self.frames, dtype=bool)
        acts[self.ep_offset + self.ep_len - 1] = False
        action = np.asarray(self.action)[acts]
        if not np.isfinite(action).all() or np.abs(action).max() > 1.0 + 1e-6:
            raise DataError(f'{self.path}, action: expected finite values in [-1, 1]')
        for name in ('proprio', 'tip_position', 'tip_target', 'object_position', 'object_yaw'):
            if not np.isfinite(getattr(self, name)).all():
                raise DataError(f'{self.path}, {name}: expected finite values, got NaN or inf')


def _reserve(path: Path, size: int) -> None:
    """Gives the file ``path`` real room for ``size`` bytes, where the system can.

    A disk that fills up under an open HDF5 file ends the process; so it is asked first.

    Raises:
        OSError: there is no room; a file that was not there before is not left behind.
    """
    if not hasattr(os, 'posix_fallocate'):
        return
    is_new = not path.exists()
    with path.open('ab') as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if is_new:
                path.unlink()
            raise OSError(
                error.errno,
                f'{error.strerror}: expected room for {size / 1e6:.1f} MB; free some, or choose '
                'another folder',
                str(path),
            ) from None


def _columns(contract: Contract) -> dict[str, tuple[tuple[int, ...], type]]:
    """Row shape and dtype of each flat array."""
    return {
        'pixels': (contract.camera.shape, np.uint8),
        'proprio': ((len(contract.joints),), np.float32),
        'action': ((contract.action_width,), np.float32),
        'tip_position': ((3,), np.float32),
        'tip_target': ((3,), np.float32),
        'object_position': ((3,), np.float32),
        'object_yaw': ((), np.float32),
        'contact': ((), np.bool_),
    }


def _offsets(lengths: IntArray) -> IntArray:
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)


def _open(path: Path) -> h5py.File:
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    if not path.exists():
        hint = f'; {partial.name} is unfinished' if partial.exists() else ''
        raise DataError(f'no episode file {path}{hint}: run jepa-arm collect to make it')
    try:
        return h5py.File(path, 'r')
    except OSError as error:
        raise DataError(
            f'{path}: expected a whole HDF5 file, got {path.stat().st_size} bytes that are not '
            f'one ({error}); copy or collect it again'
        ) from error


def _attributes(path: Path, file: h5py.File) -> tuple[Contract, int, dict[str, Any]]:
    version = file.attrs.get('schema_version')
    if version != SCHEMA_VERSION:
        raise DataError(
            f'{path}: expected schema_version {SCHEMA_VERSION}, got {version}; '
            'collect it again with this version'
        )
    try:
        contract = from_dict(Contract, json.loads(file.attrs['contract']))
        return contract, int(file.attrs['seed']), json.loads(file.attrs['config'])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f'{path}: expected attributes contract, seed, config: {error}') from error


def _dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """The dataset ``name`` that lies in ``file`` itself: no link or storage leads elsewhere."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise DataError(f'{path}: expected a dataset {name} in this file, got {sorted(file)[:20]}')
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise DataError(f'{path}, {name}: expected an array stored in this file')
    return dataset


def _integers(path: Path, file: h5py.File, name: str) -> IntArray:
    """(E,) of a dataset with at most ``MOST_EPISODES`` whole numbers."""
    dataset = _dataset(path, file, name)
    if dataset.ndim != 1 or dataset.size > MOST_EPISODES or dataset.dtype.kind not in 'iu':
        raise DataError(
            f'{path}, {name}: expected at most {MOST_EPISODES} whole numbers, got '
            f'{dataset.shape} {dataset.dtype}'
        )
    return dataset[:].astype(np.int64)


def _map(path: Path, dataset: h5py.Dataset) -> NDArray[Any]:
    offset = dataset.id.get_offset()
    if offset is None:
        raise DataError(
            f'{path}, {dataset.name}: expected a contiguous, uncompressed array (memory-mapped), '
            'got a chunked one; collect it again'
        )
    if offset + dataset.nbytes > path.stat().st_size:
        raise DataError(
            f'{path}, {dataset.name}: the array reaches beyond the file; copy it again'
        )
    return np.memmap(path, dtype=dataset.dtype, mode='r', offset=offset, shape=dataset.shape)
