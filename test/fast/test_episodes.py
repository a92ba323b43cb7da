"""Episode files: written atomically, memory-mapped, checked when opened."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import synthetic
from jepa_arm.datasets.episodes import SCHEMA_VERSION, DataError, EpisodeFile, EpisodeWriter


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return synthetic.write(tmp_path / 'play.h5', [9, 12, 7])


def test_written_episodes_are_read_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [synthetic.episode(rng, n) for n in (9, 12)]
    with EpisodeWriter(tmp_path / 'a.h5', [9, 12], synthetic.CONTRACT, 3, {'k': 1}) as writer:
        for one in episodes:
            writer.append(one)
    file = EpisodeFile(tmp_path / 'a.h5')
    assert (file.contract, file.seed, file.config) == (synthetic.CONTRACT, 3, {'k': 1})
    for index, one in enumerate(episodes):
        rows = slice(file.ep_offset[index], file.ep_offset[index] + file.ep_len[index])
        for name in ('pixels', 'proprio', 'object_position', 'contact'):
            np.testing.assert_array_equal(
                getattr(file, name)[rows], one[name].astype(getattr(file, name).dtype)
            )
        np.testing.assert_array_equal(file.action[rows][:-1], one['action'].astype(np.float32))


def test_an_episode_has_one_action_less_than_observations(path: Path) -> None:
    file = EpisodeFile(path)
    missing = np.flatnonzero(np.isnan(file.action).all(axis=1))
    np.testing.assert_array_equal(missing, file.ep_offset + file.ep_len - 1)


def test_arrays_are_memory_maps(path: Path) -> None:
    file = EpisodeFile(path)
    assert isinstance(file.pixels, np.memmap) and isinstance(file.action, np.memmap)


def test_the_file_appears_only_when_complete(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with EpisodeWriter(tmp_path / 'a.h5', [9, 9], synthetic.CONTRACT, 0) as writer:
        writer.append(synthetic.episode(rng, 9))
    assert not (tmp_path / 'a.h5').exists()
    with pytest.raises(DataError, match='unfinished'):
        EpisodeFile(tmp_path / 'a.h5')


def test_missing_disk_space_is_reported_before_collection(
    tmp_path: Path, fill_disk: Callable[[int], None]
) -> None:
    """HDF5 crashes the process if the disk is full at a flush."""
    fill_disk(100_000)
    with pytest.raises(OSError, match='MB; free some'):
        EpisodeWriter(tmp_path / 'a.h5', [90] * 90, synthetic.CONTRACT, 0)
    assert list(tmp_path.iterdir()) == []


def test_disk_space_is_reserved_when_the_file_is_created(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / 'a.h5', [90] * 9, synthetic.CONTRACT, 0):
        status = (tmp_path / 'a.h5.partial').stat()
        assert status.st_blocks * 512 >= status.st_size > 0


def test_an_interrupted_file_is_continued(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [synthetic.episode(rng, 9) for _ in range(3)]
    with EpisodeWriter(tmp_path / 'a.h5', [9] * 3, synthetic.CONTRACT, 0) as writer:
        writer.put(1, episodes[1])
    with EpisodeWriter(tmp_path / 'a.h5', [9] * 3, synthetic.CONTRACT, 0) as writer:
        assert writer.missing == [0, 2]
        writer.put(0, episodes[0])
        writer.put(2, episodes[2])
    np.testing.assert_array_equal(
        EpisodeFile(tmp_path / 'a.h5').pixels, np.concatenate([e['pixels'] for e in episodes])
    )


def test_a_partial_file_of_another_run_is_not_continued(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with EpisodeWriter(tmp_path / 'a.h5', [9] * 2, synthetic.CONTRACT, 0) as writer:
        writer.append(synthetic.episode(rng, 9))
    with EpisodeWriter(tmp_path / 'a.h5', [9] * 2, synthetic.CONTRACT, 1) as writer:
        assert writer.missing == [0, 1]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda e: e.pop('contact'), 'expected arrays'),
        (lambda e: e.update(proprio=e['proprio'][:, :1]), 'proprio'),
        (lambda e: e.update(pixels=e['pixels'][:-1]), 'pixels'),
        (lambda e: e['action'].__setitem__((2, 0), np.nan), 'finite'),
    ],
)
def test_an_invalid_episode_is_refused_and_stays_missing(
    tmp_path: Path, change, message: str
) -> None:
    one = synthetic.episode(np.random.default_rng(0), 9)
    change(one)
    with EpisodeWriter(tmp_path / 'a.h5', [9], synthetic.CONTRACT, 0) as writer:
        with pytest.raises(DataError, match=message):
            writer.append(one)
        assert writer.missing == [0]


def test_the_split_is_by_episode_and_repeatable(tmp_path: Path) -> None:
    file = EpisodeFile(synthetic.write(tmp_path / 'a.h5', [5] * 20))
    training, held_out = file.split(seed=1)
    assert len(held_out) == 2
    assert sorted([*training, *held_out]) == list(range(20))
    np.testing.assert_array_equal(held_out, file.split(seed=1)[1])
    assert any(not np.array_equal(held_out, file.split(seed=s)[1]) for s in (2, 3, 4))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'no episode file .*none\.h5'):
        EpisodeFile(tmp_path / 'none.h5')


@pytest.mark.parametrize('keep', [0, 100, 0.5])
def test_a_truncated_file_is_refused(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match='complete HDF5 file'):
        EpisodeFile(path)


def test_a_file_that_is_not_hdf5_is_refused(path: Path) -> None:
    path.write_text('not episodes\n' * 100)
    with pytest.raises(DataError, match='complete HDF5 file'):
        EpisodeFile(path)


def _edit(path: Path, change) -> None:
    with h5py.File(path, 'r+') as file:
        change(file)


def _shrink(file: h5py.File, name: str, shape: tuple[int, ...]) -> None:
    del file[name]
    file.create_dataset(name, shape=shape, dtype='f4')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda f: f.attrs.__setitem__('schema_version', 9),
            f'schema_version {SCHEMA_VERSION}, got 9',
        ),
        (lambda f: f.attrs.__delitem__('contract'), 'contract'),
        (lambda f: f.__delitem__('pixels'), 'expected a dataset pixels'),
        (lambda f: _shrink(f, 'proprio', (28, 3)), r'proprio: expected \(28, 2\)'),
        (lambda f: f['proprio'].__setitem__((4, 0), np.nan), 'proprio: expected finite'),
        (lambda f: f['action'].__setitem__((4, 0), 3.0), r'action: expected .*\[-1, 1\]'),
        (lambda f: f['ep_len'].__setitem__(0, 8), 'consecutive'),
    ],
)
def test_invalid_content_is_refused(path: Path, change, message: str) -> None:
    _edit(path, change)
    with pytest.raises(DataError, match=message):
        EpisodeFile(path)


def test_a_compressed_array_is_refused(path: Path) -> None:
    def compress(file: h5py.File) -> None:
        pixels = file['pixels'][:]
        del file['pixels']
        file.create_dataset('pixels', data=pixels, chunks=True, compression='gzip')

    _edit(path, compress)
    with pytest.raises(DataError, match='contiguous'):
        EpisodeFile(path)
