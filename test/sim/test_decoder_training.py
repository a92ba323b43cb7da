"""Pictures of latents: they show the toy world, what is imagined too, and go with one model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import synthetic
from jepa_arm.config import DecoderConfig
from jepa_arm.data.augment import one_hue
from jepa_arm.data.episodes import DataError, EpisodeFile
from jepa_arm.model.checkpoint import CheckpointError, load_checkpoint
from jepa_arm.model.decoder import load_decoder
from jepa_arm.model.world_model import encode_all
from jepa_arm.training.decoder import format_decoder, train_decoder
from jepa_arm.training.read_outs import train_read_outs

CONFIG = DecoderConfig((32, 16, 8), steps=120, batch=128, learning_rate=1e-2)


pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def folder(toy_run: Path, toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy's checkpoint with a decoder, and the page beside it."""
    folder = tmp_path_factory.mktemp('decoder') / 'toy'
    shutil.copytree(toy_run / 'checkpoint', folder)
    page = folder.with_name('page.html')
    train_decoder(folder, toy_data, CONFIG, seed=0, progress=False, page=page)
    return folder


def test_a_decoder_taught_beside_other_read_outs_is_what_it_is_alone(
    folder: Path, toy_run: Path, toy_data: Path, tmp_path: Path
) -> None:
    together, page = tmp_path / 'toy', tmp_path / 'page.html'
    shutil.copytree(toy_run / 'checkpoint', together)
    heads = replace(synthetic.TOY.heads, actor_steps=3, value_steps=3)
    config = replace(synthetic.TOY, heads=heads, pose=None, belief=None, decoder=CONFIG)
    train_read_outs(together, toy_data, config, 0, False, page)
    assert page.read_text() == folder.with_name('page.html').read_text()
    assert load_checkpoint(together).info['heads']['value_steps'] == 3
    alone, same = (load_decoder(load_checkpoint(f)) for f in (folder, together))
    assert alone is not None and same is not None
    torch.testing.assert_close(same.state_dict(), alone.state_dict())


def test_what_fails_beside_the_others_is_told_and_they_are_kept(
    toy_run: Path, toy_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / 'toy'
    shutil.copytree(toy_run / 'checkpoint', folder)
    heads = replace(synthetic.TOY.heads, actor_steps=3, value_steps=3)
    config = replace(synthetic.TOY, heads=heads, belief=None, decoder=None)
    assert config.pose is not None, 'which the toy cannot have'
    with pytest.raises(CheckpointError, match='actions that move the tip'):
        train_read_outs(folder, toy_data, config, 0, False, tmp_path / 'page.html')
    assert 'heads' in load_checkpoint(folder).info


def test_pictures_are_nearer_to_held_out_images_than_the_mean_is(folder: Path) -> None:
    report = load_checkpoint(folder).info['decoder']
    for step in ('0', '1', '5', '10'):
        row = report['steps'][step]
        assert row['psnr_db'] > row['mean_image_psnr_db'] + 3.0
    assert report['steps']['0']['psnr_db'] > report['steps']['10']['psnr_db'] - 0.1
    assert '10 model steps on' in format_decoder(report)


def test_the_square_is_drawn_where_it_is(folder: Path, toy_data: Path) -> None:
    checkpoint, episodes = load_checkpoint(folder), EpisodeFile(toy_data)
    decoder = load_decoder(checkpoint)
    assert decoder is not None
    rows = slice(0, 300)
    z = encode_all(checkpoint.model, episodes.pixels[rows], episodes.proprioception()[rows])
    drawn = decoder.pictures(torch.from_numpy(z))
    real = one_hue(episodes.pixels[rows])
    assert drawn.shape == real.shape and drawn.dtype == np.uint8
    background = np.median(real, axis=(0, 1, 2))

    def centre(images: np.ndarray) -> np.ndarray:
        mass = np.abs(images - background).sum(-1)
        mass *= mass > 0.5 * mass.max((1, 2), keepdims=True)
        grid = np.stack(np.mgrid[: mass.shape[1], : mass.shape[2]], -1)
        return (mass[..., None] * grid).sum((1, 2)) / mass.sum((1, 2))[:, None]

    off = np.linalg.norm(centre(drawn) - centre(real), axis=1)
    assert np.median(off) < 1.0  # px, of 16


def test_the_page_shows_the_worst_windows_first(folder: Path) -> None:
    page = folder.with_name('page.html').read_text()
    errors = [float(part.split(' ')[0]) for part in page.split(': error ')[1:]]
    assert len(errors) == page.count('<img') == 16
    assert errors[:8] == sorted(errors[:8], reverse=True) and errors[7] > errors[8]


def test_the_world_model_is_left_as_it_was(folder: Path, toy_run: Path) -> None:
    for name in ('model', 'probes'):
        before = (toy_run / 'checkpoint' / f'{name}.safetensors').read_bytes()
        assert (folder / f'{name}.safetensors').read_bytes() == before
    assert load_decoder(load_checkpoint(toy_run / 'checkpoint')) is None


def test_the_same_seed_teaches_the_same(tmp_path: Path, folder: Path, toy_data: Path) -> None:
    short = replace(CONFIG, steps=3)
    files = []
    for name in ('first', 'second'):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        train_decoder(copy, toy_data, short, seed=3, progress=False)
        files.append((copy / 'decoder.safetensors').read_bytes())
    assert files[0] == files[1]


def test_data_of_another_robot_or_too_short_is_refused(
    tmp_path: Path, folder: Path, toy_data: Path
) -> None:
    import synthetic

    short = synthetic.write(tmp_path / 'short.h5', [21] * 10)
    with pytest.raises(DataError, match='more than 22 frames'):
        train_decoder(folder, short, CONFIG, seed=0, progress=False)
    copy = tmp_path / 'other'
    shutil.copytree(folder, copy)
    info = json.loads((copy / 'config.json').read_text())
    info['contract']['arm'] = 'other'
    (copy / 'config.json').write_text(json.dumps(info))
    with pytest.raises(CheckpointError, match='another robot'):
        train_decoder(copy, toy_data, CONFIG, seed=0, progress=False)
