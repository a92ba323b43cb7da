"""Episode files: episodes in one HDF5 file, in the layout of LeWorldModel / stable-worldmodel.

Each dataset is a flat array over the N frames of all E episodes, contiguous and uncompressed, so
that it can be memory-mapped and memory use does not grow with the data:

================== ============== ==========================================================
``pixels``         (N, h, w, 3)   uint8 RGB
``proprio``        (N, J)         float32, measured positions of the J joints, rad
``action``         (N, A)         float32 in [-1, 1]; row t is applied between frames t and t+1;
                                  the last row of an episode is NaN and never read
``tip_position``   (N, 3)         float32, m, base frame, from the measured joints
``tip_target``     (N, 3)         float32, m, base frame, commanded tip position
``object_position``(N, 3)         float32, m, base frame
``object_yaw``     (N,)           float32, rad
``contact``        (N,)           bool, contact between arm and object
``ep_len``         (E,)           int64, frames of each episode: T+1 observations, T actions
``ep_offset``      (E,)           int64, first frame of each episode
================== ============== ==========================================================

In a file of rendered scenes (``rendered_scenes``) the frames of an episode are independent, and
actions are zero.

Attributes: ``schema_version``, ``contract`` (JSON of ``config.Contract``), ``seed``, ``config``
(JSON, how the data was made). Object positions, yaws and contacts are labels for probes and
reports; the world model never receives them.
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

from jepa_arm.config import Contract, from_dict, to_dict
from jepa_arm.core.errors import JepaArmError
from jepa_arm.robot.action_space import proprioception

SCHEMA_VERSION = 2
PARTIAL_SUFFIX = '.partial'
MAX_EPISODES = 10_000_000
METADATA_BYTES = 100_000
"""Upper bound on the bytes that HDF5 adds to the arrays."""
RENDERED_SCENES = 'rendered_scenes'
"""Key of ``config`` that marks a file of rendered scenes."""

IntArray = NDArray[np.int64]


class DataError(JepaArmError, RuntimeError):
    """Error for unusable data; says what was expected, what was found and what to do."""


class EpisodeWriter:
    """Writer of a file of episodes of known lengths, which appears only when it is complete.

    Until then it is named ``<path>.partial``. A partial file left by an interrupted run is
    continued if it was created with the same arguments.

    Attributes:
        path: path of the complete file.
    """

    def __init__(
        self,
        path: Path,
        lengths: Sequence[int],
        contract: Contract,
        seed: int,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Create the partial file or continue an existing one.

        Args:
            path: path of the complete file.
            lengths: (E,) number of frames (actions + 1) of each episode.
            contract: contract of the robot; gives the shapes of all arrays.
            seed: random seed of the collection.
            config: plain values that describe how the data was made.

        Raises:
            DataError: a length is below 2.
            OSError: the space for the complete file, which is reserved here, is not available.
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
        self._file = self._continue() or self._create()

    def __len__(self) -> int:
        """Return the number of episodes of the complete file."""
        return len(self._lengths)

    @property
    def missing(self) -> list[int]:
        """Return the indices of episodes that are not written yet."""
        return np.flatnonzero(self._file['ep_len'][:] == 0).tolist()

    def append(self, episode: Mapping[str, NDArray[Any]]) -> int:
        """Write ``episode`` at the first missing index and return that index."""
        index = self.missing[0]
        self.put(index, episode)
        return index

    def put(self, index: int, episode: Mapping[str, NDArray[Any]]) -> None:
        """Write one episode.

        Args:
            index: index of the episode.
            episode: arrays by dataset name, each with T+1 rows. ``action`` may have T rows
                instead; if it has T+1, the last is ignored.

        Raises:
            DataError: an array is missing, has another shape, or is not finite.
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
        """Close the file, and rename it to ``path`` if every episode is written."""
        if not self._file:
            return
        is_complete = not self.missing
        self._file.close()
        if is_complete:
            os.replace(self._partial, self.path)

    def __enter__(self) -> EpisodeWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _continue(self) -> h5py.File | None:
        """Return the partial file if it was created with the same arguments, else None."""
        if not self._partial.exists():
            return None
        try:
            file = h5py.File(self._partial, 'r+')
        except OSError:
            return None
        is_same = all(file.attrs.get(k) == v for k, v in self._attributes.items())
        if is_same and 'ep_offset' in file and np.array_equal(file['ep_offset'][:], self._offsets):
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
            layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            file.create_dataset(name, (total, *shape), dtype, dcpl=layout)
        for last in self._offsets + self._lengths - 1:
            file['action'][last] = np.nan
        file['ep_offset'] = self._offsets
        for key, value in self._attributes.items():
            file.attrs[key] = value
        file['ep_len'] = np.zeros_like(self._lengths)
        file.flush()
        _reserve(self._partial, self._partial.stat().st_size)
        return file


class EpisodeFile:
    """Reader of an episode file whose datasets are memory-mapped attributes.

    Pickling stores the path alone: another process opens the file again.

    Attributes:
        path: path of the file.
        contract: contract of the robot that the data was recorded with.
        seed, config: how the data was made.
    """

    pixels: NDArray[np.uint8]
    proprio: NDArray[np.float32]
    action: NDArray[np.float32]
    tip_position: NDArray[np.float32]
    tip_target: NDArray[np.float32]
    object_position: NDArray[np.float32]
    object_yaw: NDArray[np.float32]
    contact: NDArray[np.bool_]

    def __init__(self, path: Path) -> None:
        """Open and check ``path``.

        Raises:
            DataError: the file is missing, truncated or not HDF5, or has another schema, other
                shapes, or values that are not finite.
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
        """Return the number of episodes."""
        return len(self.ep_len)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return the constructor call with which unpickling opens the file again."""
        return EpisodeFile, (self.path,)

    @property
    def has_rendered_scenes(self) -> bool:
        """Return whether the frames are independent rendered scenes instead of play."""
        return RENDERED_SCENES in self.config

    @property
    def frames(self) -> int:
        """Return the number of frames of all episodes."""
        return int(self.ep_len.sum())

    def episode_of_frames(self) -> IntArray:
        """Return the episode index (N,) of every frame."""
        return np.repeat(np.arange(len(self)), self.ep_len)

    def proprioception(self) -> NDArray[np.float32]:
        """Return the proprioception (N, P) of all frames, as the encoder takes it."""
        return proprioception(self.proprio, self.tip_position, self.tip_target)

    def starts(self, indices: IntArray, span: int) -> list[IntArray]:
        """Return, for each episode in ``indices``, the frames followed by ``span`` or more."""
        firsts, lengths = self.ep_offset[indices], self.ep_len[indices]
        return [np.arange(o, o + n - span) for o, n in zip(firsts, lengths, strict=True)]

    def split(self, seed: int, held_out: float = 0.1) -> tuple[IntArray, IntArray]:
        """Return sorted indices of training and held-out episodes, split at random by ``seed``."""
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
                f'{self.path}: ep_len and ep_offset: expected consecutive episodes of >= 2 '
                f'frames, got {self.ep_len.size} lengths from {self.ep_len.min(initial=0)}; '
                'collect the data again'
            )

    def _check_finite(self) -> None:
        has_action = np.ones(self.frames, dtype=bool)
        has_action[self.ep_offset + self.ep_len - 1] = False
        action = np.asarray(self.action)[has_action]
        if not np.isfinite(action).all() or np.abs(action).max() > 1.0 + 1e-6:
            raise DataError(f'{self.path}, action: expected finite values in [-1, 1]')
        for name in ('proprio', 'tip_position', 'tip_target', 'object_position', 'object_yaw'):
            if not np.isfinite(getattr(self, name)).all():
                raise DataError(f'{self.path}, {name}: expected finite values, got NaN or inf')


def _reserve(path: Path, size: int) -> None:
    """Allocate ``size`` bytes for the file ``path`` if the system supports it.

    HDF5 kills the process if the disk fills up while a file is open, so space is reserved first.

    Raises:
        OSError: there is not enough space; a file that did not exist before is removed.
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
                f'{error.strerror}: expected space for {size / 1e6:.1f} MB; free some, or choose '
                'another folder',
                str(path),
            ) from None


def _columns(contract: Contract) -> dict[str, tuple[tuple[int, ...], type]]:
    """Return the row shape and dtype of each per-frame dataset."""
    return {
        'pixels': (contract.camera.image_shape, np.uint8),
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
        raise DataError(f'no episode file {path}{hint}: run jepa-arm data collect to make it')
    try:
        return h5py.File(path, 'r')
    except OSError as error:
        raise DataError(
            f'{path}: expected a complete HDF5 file, got {path.stat().st_size} bytes that are not '
            f'one ({error}); copy or collect it again'
        ) from error


def _attributes(path: Path, file: h5py.File) -> tuple[Contract, int, dict[str, Any]]:
    """Return contract, seed and config from the attributes of ``file``."""
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
    """Return the dataset ``name``, which must be stored in ``file`` itself, without links."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise DataError(f'{path}: expected a dataset {name} in this file, got {sorted(file)[:20]}')
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise DataError(f'{path}, {name}: expected an array stored in this file')
    return dataset


def _integers(path: Path, file: h5py.File, name: str) -> IntArray:
    """Return the dataset ``name``, which must hold at most ``MAX_EPISODES`` integers (E,)."""
    dataset = _dataset(path, file, name)
    if dataset.ndim != 1 or dataset.size > MAX_EPISODES or dataset.dtype.kind not in 'iu':
        raise DataError(
            f'{path}, {name}: expected at most {MAX_EPISODES} whole numbers, got '
            f'{dataset.shape} {dataset.dtype}'
        )
    return dataset[:].astype(np.int64)


def _map(path: Path, dataset: h5py.Dataset) -> NDArray[Any]:
    """Return a contiguous dataset as a memory map."""
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
