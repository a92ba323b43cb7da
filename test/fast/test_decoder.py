"""Decoder: image size and range; loading from a checkpoint, only with its own world model."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import synthetic
from jepa_arm.cli.main import main
from jepa_arm.config import ConfigError, DecoderConfig, to_dict
from jepa_arm.core.files import CHECKPOINTS
from jepa_arm.datasets.augmentation import jitter_hues, unify_hues
from jepa_arm.model.checkpoint import (
    FINGERPRINT_KEY,
    load_checkpoint,
    load_decoder,
    new_decoder,
    save_checkpoint,
)
from jepa_arm.model.checkpoint_files import CheckpointError, add_module, fingerprint, save_module
from jepa_arm.model.heads.decoder import Decoder
from jepa_arm.model.heads.probes import Probes
from jepa_arm.model.world_model import Normaliser, WorldModel

CONFIG = DecoderConfig((8, 4), steps=1, batch=1, learning_rate=1e-3)


def save(folder: Path, seed: int) -> Path:
    """An untrained checkpoint with an untrained decoder."""
    torch.manual_seed(seed)
    normaliser = Normaliser(0.4, 0.2, (0.0,) * 8, (1.0,) * 8)
    model = WorldModel(synthetic.MODEL, synthetic.CONTRACT, normaliser)
    save_checkpoint(folder, model, Probes(model.latent_dim), {})
    checkpoint = load_checkpoint(folder)
    metadata = {FINGERPRINT_KEY: fingerprint(checkpoint.model)}
    about = {'config': to_dict(CONFIG)}
    add_module(folder, 'decoder', new_decoder(checkpoint, CONFIG), about, metadata)
    return folder


@pytest.mark.parametrize('size', [(64, 80), (16, 16), (45, 33)])
def test_decoded_images_have_the_size_and_range_of_images(size: tuple[int, int]) -> None:
    decoder = Decoder(8, size, (8, 4)).eval()
    images = decoder.decode(100.0 * torch.randn(3, 8))
    assert images.shape == (3, *size, 3) and images.dtype == np.uint8
    assert images.min() == 0 and images.max() == 255  # clamped, not wrapped


def test_a_decoder_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    folder = save(tmp_path / 'c', 0)
    first, second = (load_decoder(load_checkpoint(folder)) for _ in range(2))
    assert first is not None and second is not None and not first.training
    z = torch.randn(2, synthetic.MODEL.latent_dim)
    np.testing.assert_array_equal(first.decode(z), second.decode(z))
    assert not any(p.requires_grad for p in first.parameters())


def test_modules_added_concurrently_are_all_kept(tmp_path: Path) -> None:
    folder, names = save(tmp_path / 'c', 0), [f'part{i}' for i in range(16)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: add_module(folder, name, torch.nn.Linear(1, 1), {}), names))
    assert set(names) < set(load_checkpoint(folder).info)


def test_a_checkpoint_without_a_decoder_loads(tmp_path: Path) -> None:
    model = WorldModel(
        synthetic.MODEL, synthetic.CONTRACT, Normaliser(0.5, 0.1, (0.0,) * 8, (1.0,) * 8)
    )
    save_checkpoint(tmp_path / 'c', model, Probes(model.latent_dim), {})
    assert load_decoder(load_checkpoint(tmp_path / 'c')) is None


def test_the_decoder_of_another_world_model_is_refused(tmp_path: Path) -> None:
    one, other = save(tmp_path / 'one', 0), save(tmp_path / 'other', 1)
    shutil.copy(other / 'decoder.safetensors', one)
    with pytest.raises(
        CheckpointError, match='got one of another.*jepa-arm train --only decoder --data'
    ):
        load_decoder(load_checkpoint(one))


def test_a_decoder_without_a_fingerprint_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / 'c', 0)
    save_module(folder, 'decoder', new_decoder(load_checkpoint(folder), CONFIG))
    with pytest.raises(CheckpointError, match=r'another \(unknown\)'):
        load_decoder(load_checkpoint(folder))


@pytest.mark.parametrize('about', [{}, {'config': {'channels': [8]}}, {'config': None}, 3])
def test_a_broken_config_entry_is_refused(tmp_path: Path, about: object) -> None:
    folder = save(tmp_path / 'c', 0)
    checkpoint = load_checkpoint(folder)
    checkpoint.info['decoder'] = about
    with pytest.raises(
        CheckpointError, match=r'config.json, decoder.*jepa-arm train --only decoder'
    ):
        load_decoder(checkpoint)


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / 'c', 0) / 'decoder.safetensors'
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match='whole safetensors'):
        load_decoder(load_checkpoint(tmp_path / 'c'))


def test_a_fingerprint_changes_with_any_value() -> None:
    module = torch.nn.Linear(3, 2)
    before = fingerprint(module)
    assert before == fingerprint(module) and len(before) == 16
    with torch.no_grad():
        module.bias[1] += 1e-6
    assert fingerprint(module) != before


def test_the_shipped_decoder_belongs_to_the_shipped_model() -> None:
    folder = CHECKPOINTS / 'compact'
    assert load_decoder(load_checkpoint(folder)) is not None, 'run jepa-arm train --only decoder'
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10_000_000


@pytest.mark.parametrize('channels', [(), (0,), (16,) * 9, (9000,)])
def test_impossible_sizes_are_refused(channels: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match='channels'):
        DecoderConfig(channels, steps=1, batch=1, learning_rate=1e-3)


def test_hue_jitter_disappears_when_hues_are_unified() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(90, 160, (1, 16, 16, 3)).repeat(20, 0).astype(np.uint8)
    jittered = unify_hues(jitter_hues(images, rng, gain=0.0)).astype(int)
    assert np.abs(jittered - unify_hues(images)).max() <= 2
    grey = np.full((2, 2, 3), 77, dtype=np.uint8)
    np.testing.assert_array_equal(unify_hues(grey), grey)


def test_bad_arguments_are_reported_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    missing = str(tmp_path / 'missing.h5')
    assert main(['train', '--only', 'decoder', '--data', missing, '--checkpoint', 'compact']) == 1
    assert 'missing.h5' in capsys.readouterr().err
    assert main(['train', '--only', 'decoder', '--data', missing, '--model', 'lewm']) == 1
    assert 'expected a section decoder' in capsys.readouterr().err
