"""Windows: within one episode, at every phase of the frame skip, determined by seed and step."""

from pathlib import Path

import numpy as np
import pytest

import synthetic
from jepa_arm.datasets.episodes import DataError, EpisodeFile
from jepa_arm.datasets.windows import WindowSampler

LENGTHS = [9, 12, 7, 30]


@pytest.fixture
def file(tmp_path: Path) -> EpisodeFile:
    return EpisodeFile(synthetic.write(tmp_path / 'play.h5', LENGTHS))


def test_windows_hold_the_frames_and_the_actions_between_them(file: EpisodeFile) -> None:
    sampler = WindowSampler(file, np.arange(4), length=3, seed=0)
    windows = sampler.at(np.array([2, 10]))
    for row, start in enumerate((2, 10)):
        for k in range(3):
            frame = start + 2 * k
            np.testing.assert_array_equal(windows.pixels[row, k], file.pixels[frame])
            np.testing.assert_array_equal(windows.proprio[row, k], file.proprioception()[frame])
        for k in range(2):
            frame = start + 2 * k
            expected = np.concatenate([file.action[frame], file.action[frame + 1]])
            np.testing.assert_array_equal(windows.actions[row, k], expected)


def test_no_window_crosses_an_episode(file: EpisodeFile) -> None:
    sampler = WindowSampler(file, np.arange(4), length=4, seed=0)
    of_frame = file.episode_of_frames()
    np.testing.assert_array_equal(of_frame[sampler.starts], of_frame[sampler.starts + 6])
    assert np.isfinite(sampler.at(sampler.starts).actions.numpy()).all()


def test_every_start_that_fits_is_used_once(file: EpisodeFile) -> None:
    sampler = WindowSampler(file, np.array([0, 3]), length=4, seed=0)
    expected = [*range(0, 9 - 6), *range(28, 28 + 30 - 6)]
    np.testing.assert_array_equal(sampler.starts, expected)


def test_a_batch_depends_on_seed_and_step_alone(file: EpisodeFile) -> None:
    def proprio(seed: int, step: int) -> np.ndarray:
        return WindowSampler(file, np.arange(4), 3, seed).batch(step, 16).proprio.numpy()

    np.testing.assert_array_equal(proprio(0, 5), proprio(0, 5))
    assert not np.array_equal(proprio(0, 5), proprio(0, 6))
    assert not np.array_equal(proprio(0, 5), proprio(1, 5))


def test_episodes_too_short_for_a_window_are_refused(file: EpisodeFile) -> None:
    with pytest.raises(DataError, match='more than 16 frames, got at most 12'):
        WindowSampler(file, np.arange(3), length=9, seed=0)
