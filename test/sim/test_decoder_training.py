"""Decoder: its images show the toy world and predictions of it, and belong to one model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import synthetic
from jepa_arm.config import DecoderConfig
from jepa_arm.datasets.augmentation import unify_hues
from jepa_arm.datasets.episodes import DataError, EpisodeFile
from jepa_arm.model.checkpoint import load_checkpoint, load_decoder
from jepa_arm.model.checkpoint_files import CheckpointError
from jepa_arm.training.decoder import format_decoder, train_decoder
from jepa_arm.training.encoding import HeadTraining, encode_for, encode_frames
from jepa_arm.training.fit import TrainingError
from jepa_arm.training.heads import train_heads

CONFIG = DecoderConfig((32, 16, 8), steps=120, batch=128, learning_rate=1e-2)
TOY = replace(
    synthetic.TOY,
    actor_critic=replace(synthetic.TOY.actor_critic, actor_steps=3, value_steps=3),
)


pytestmark = pytest.mark.usefixtures('one_thread')


def inputs(folder: Path, data: Path, seed: int = 0) -> HeadTraining:
    return HeadTraining(folder, encode_for(load_checkpoint(folder), data), seed)


@pytest.fixture(scope='module')
def folder(toy_run: Path, toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the toy checkpoint with a decoder, and its report beside the folder."""
    folder = tmp_path_factory.mktemp('decoder') / 'toy'
    shutil.copytree(toy_run / 'checkpoint', folder)
    train_decoder(inputs(folder, toy_data), CONFIG, folder.with_name('page.html'))
    return folder


@pytest.mark.extended
def test_a_decoder_trained_beside_other_heads_is_the_same_as_alone(
    folder: Path, toy_run: Path, toy_data: Path, tmp_path: Path
) -> None:
    together, page = tmp_path / 'toy', tmp_path / 'page.html'
    shutil.copytree(toy_run / 'checkpoint', together)
    config = replace(TOY, pose=None, belief=None, decoder=CONFIG)
    train_heads(inputs(together, toy_data), config, page)
    assert page.read_text() == folder.with_name('page.html').read_text()
    assert load_checkpoint(together).info['actor_critic']['value_steps'] == 3
    alone, same = (load_decoder(load_checkpoint(f)) for f in (folder, together))
    assert alone is not None and same is not None
    torch.testing.assert_close(same.state_dict(), alone.state_dict())


def test_if_one_head_fails_the_error_is_raised_and_the_others_are_saved(
    toy_run: Path, toy_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / 'toy'
    shutil.copytree(toy_run / 'checkpoint', folder)
    config = replace(TOY, belief=None, decoder=None)
    assert config.pose is not None, 'which needs actions in three directions'
    with pytest.raises(CheckpointError, match='actions that move the tip'):
        train_heads(inputs(folder, toy_data), config, tmp_path / 'page.html')
    assert 'actor_critic' in load_checkpoint(folder).info


def test_decoded_images_are_closer_to_held_out_images_than_the_mean_image(folder: Path) -> None:
    report = load_checkpoint(folder).info['decoder']
    for step in ('0', '1', '5', '10'):
        row = report['steps'][step]
        assert row['psnr_db'] > row['mean_image_psnr_db'] + 3.0
    assert report['steps']['0']['psnr_db'] > report['steps']['10']['psnr_db'] - 0.1
    assert '10 model steps ahead' in format_decoder(report)


def test_the_square_is_decoded_where_it_is(folder: Path, toy_data: Path) -> None:
    checkpoint, episodes = load_checkpoint(folder), EpisodeFile(toy_data)
    decoder = load_decoder(checkpoint)
    assert decoder is not None
    rows = slice(0, 300)
    z, _ = encode_frames(checkpoint.model, episodes.pixels[rows], episodes.proprioception()[rows])
    drawn = decoder.decode(torch.from_numpy(z))
    real = unify_hues(episodes.pixels[rows])
    assert drawn.shape == real.shape and drawn.dtype == np.uint8
    background = np.median(real, axis=(0, 1, 2))

    def centre(images: np.ndarray) -> np.ndarray:
        mass = np.abs(images - background).sum(-1)
        mass *= mass > 0.5 * mass.max((1, 2), keepdims=True)
        grid = np.stack(np.mgrid[: mass.shape[1], : mass.shape[2]], -1)
        return (mass[..., None] * grid).sum((1, 2)) / mass.sum((1, 2))[:, None]

    off = np.linalg.norm(centre(drawn) - centre(real), axis=1)
    assert np.median(off) < 1.0  # px, of 16


def test_the_report_shows_the_worst_windows_first(folder: Path) -> None:
    page = folder.with_name('page.html').read_text()
    errors = [float(part.split(' ')[0]) for part in page.split(': error ')[1:]]
    assert len(errors) == page.count('<img') == 16
    assert errors[:8] == sorted(errors[:8], reverse=True) and errors[7] > errors[8]


def test_the_world_model_is_not_changed(folder: Path, toy_run: Path) -> None:
    for name in ('model', 'probes'):
        before = (toy_run / 'checkpoint' / f'{name}.safetensors').read_bytes()
        assert (folder / f'{name}.safetensors').read_bytes() == before
    assert load_decoder(load_checkpoint(toy_run / 'checkpoint')) is None


def test_the_same_seed_gives_the_same_decoder(
    tmp_path: Path, folder: Path, toy_data: Path
) -> None:
    short = replace(CONFIG, steps=3)
    files = []
    for name in ('first', 'second'):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        train_decoder(inputs(copy, toy_data, seed=3), short)
        files.append((copy / 'decoder.safetensors').read_bytes())
    assert files[0] == files[1]


def test_a_loss_that_is_not_finite_ends_the_training_and_adds_nothing(
    tmp_path: Path, toy_run: Path, toy_data: Path
) -> None:
    folder = shutil.copytree(toy_run / 'checkpoint', tmp_path / 'toy')
    toy = inputs(folder, toy_data)
    broken = replace(toy.encoded, z=np.full_like(toy.encoded.z, np.nan))
    with pytest.raises(TrainingError, match='decoder, step 0'):
        train_decoder(replace(toy, encoded=broken), CONFIG)
    assert not (folder / 'decoder.safetensors').exists()


def test_episodes_too_short_for_the_horizon_are_refused(tmp_path: Path, folder: Path) -> None:
    short = synthetic.write(tmp_path / 'short.h5', [21] * 10)
    with pytest.raises(DataError, match='more than 22 frames'):
        train_decoder(inputs(folder, short), CONFIG)


def test_episodes_of_another_robot_are_refused(
    tmp_path: Path, folder: Path, toy_data: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / 'other')
    info = json.loads((copy / 'config.json').read_text())
    info['contract']['arm'] = 'other'
    (copy / 'config.json').write_text(json.dumps(info))
    with pytest.raises(CheckpointError, match='another robot'):
        encode_for(load_checkpoint(copy), toy_data)
