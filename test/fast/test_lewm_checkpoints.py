"""Released checkpoints of LeWorldModel: import and export; everything else is refused."""

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa_arm.cli.main import main
from jepa_arm.config import LewmConfig
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.model.checkpoint_files import CheckpointError
from jepa_arm.model.lewm.networks import LeWM
from jepa_arm.model.lewm.released_checkpoint import (
    import_released,
    load_lewm,
    read_released,
    transformers_5_name,
    write_released,
)

SMALL = LewmConfig('lewm', 224, 112, 12, 3, 192, 8, 1, 1, 8, 8, 0.1, 3, 4)
"""The smallest network that the layout can express: ViT-Tiny on four patches."""


pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def network() -> LeWM:
    torch.manual_seed(0)
    return LeWM(SMALL, 10).eval().requires_grad_(False)


@pytest.fixture(scope='module')
def original(network: LeWM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('published') / 'lewm'
    write_released(folder, network)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / 'lewm'))


def assert_equal(model: LeWM, expected: LeWM) -> None:
    assert (model.config, model.block_width) == (expected.config, expected.block_width)
    state = model.state_dict()
    assert list(state) == list(expected.state_dict())
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(state[name], tensor, atol=0, rtol=0)


def test_import_and_export_leave_the_network_unchanged(
    network: LeWM, original: Path, tmp_path: Path
) -> None:
    assert main(['import', str(original), '--out', str(tmp_path / 'ours')]) == 0
    assert_equal(load_lewm(tmp_path / 'ours'), network)
    assert main(['export', str(tmp_path / 'ours'), '--out', str(tmp_path / 'again')]) == 0
    assert_equal(read_released(tmp_path / 'again' / 'weights.pt'), network)
    config = (tmp_path / 'again' / 'config.json').read_text()
    assert config == (original / 'config.json').read_text()


def test_tensor_names_of_transformers_5_are_written_and_read(
    network: LeWM, original: Path, tmp_path: Path
) -> None:
    import_released(original, tmp_path / 'ours')
    out = tmp_path / 'new'
    command = ['export', str(tmp_path / 'ours'), '--out', str(out), '--transformers', '5']
    assert main(command) == 0
    names = set(torch.load(out / 'weights.pt', weights_only=True))
    assert names == {transformers_5_name(name) for name in network.state_dict()}
    assert {'encoder.layers.11.attention.o_proj.bias', 'encoder.layers.0.mlp.fc2.weight'} <= names
    assert_equal(read_released(out), network)


def test_half_precision_files_are_read(folder: Path, network: LeWM) -> None:
    tensors = {k: v.bfloat16() if v.is_floating_point() else v for k, v in read(folder).items()}
    torch.save(tensors, folder / 'weights.pt')
    name = 'predictor.pos_embedding'
    value = read_released(folder).state_dict()[name]
    torch.testing.assert_close(value, network.state_dict()[name].bfloat16().float())


def test_released_files_without_class_names_are_read(folder: Path, network: LeWM) -> None:
    """Some released ``config.json`` omit ``_target_`` and repeat defaults."""
    config = json.loads((folder / 'config.json').read_text())
    del config['predictor']['_target_'], config['action_encoder']['_target_']
    config |= {'_target_': 'jepa.JEPA', 'embed_dim': 192, 'history_size': 3}
    (folder / 'config.json').write_text(json.dumps(config))
    assert_equal(read_released(folder), network)


class Harm:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('protocol', [None, 2, 4], ids=['torch.save', 'pickle-2', 'pickle-4'])
def test_a_pickle_with_code_is_refused_and_not_run(folder: Path, protocol: int | None) -> None:
    mark, path = folder / 'mark', folder / 'weights.pt'
    if protocol is None:
        torch.save({'weight': torch.zeros(1), 'harm': Harm(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({'harm': Harm(mark)}, protocol))
    expected = 'not one of tensors' if protocol == 4 else r'calls for \w+\.mkdir; nothing of it'
    with pytest.raises(CheckpointError, match=expected) as caught:
        read_released(folder)
    assert 'weights_only' not in str(caught.value)  # torch advises to turn it off
    assert not mark.exists()


@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.99999])
def test_truncated_weights_are_refused(folder: Path, share: float) -> None:
    content = (folder / 'weights.pt').read_bytes()
    (folder / 'weights.pt').write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r'weights\.pt: expected a whole file .* copy it'):
        read_released(folder)


def read(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / 'weights.pt', weights_only=True)


def without_one(tensors: dict) -> dict:
    del tensors['predictor.pos_embedding']
    return tensors


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (without_one, r"missing \['predictor.pos_embedding'\], unknown \[\]"),
        (lambda t: t | {'more': torch.zeros(1)}, r"missing \[\], unknown \['more'\]"),
        (
            lambda t: t | {'predictor.pos_embedding': torch.zeros(1, 4, 192)},
            r'pos_embedding: expected shape \(1, 3, 192\), got \(1, 4, 192\)',
        ),
        (
            lambda t: t | {'predictor.pos_embedding': torch.full((1, 3, 192), torch.nan)},
            'pos_embedding: expected finite',
        ),
        (lambda t: {'state_dict': t}, r"expected a state_dict .* none: \['state_dict'\]"),
        (lambda t: list(t.values()), 'expected a state_dict .* got a list'),
    ],
)
def test_other_tensors_are_refused(
    folder: Path, change: Callable[[dict], Any], message: str
) -> None:
    torch.save(change(read(folder)), folder / 'weights.pt')
    with pytest.raises(CheckpointError, match=message):
        read_released(folder)


@pytest.mark.parametrize(
    ('where', 'key', 'value', 'message'),
    [
        ('encoder', 'size', 'giant', r'encoder\.size: expected one of .*tiny.*giant'),
        ('encoder', 'pretrained', True, r'encoder\.pretrained'),
        ('encoder', '_target_', 'timm.create_model', r'encoder\._target_: .*vit_hf.*timm'),
        ('predictor', 'depth', 'six', r'predictor\.depth: expected a number'),
        ('predictor', 'input_dim', 96, r'predictor\.input_dim: expected 192, got 96'),
        ('predictor', 'rotary', True, r"unknown keys \['predictor.rotary'\]"),
        ('projector', 'hidden_dim', 9, r'pred_proj\.hidden_dim: expected 9, got 8'),
        ('projector', 'norm_fn', None, r'projector\.norm_fn: expected a mapping'),
    ],
)
def test_another_architecture_is_refused(
    folder: Path, where: str, key: str, value: object, message: str
) -> None:
    config = json.loads((folder / 'config.json').read_text())
    config[where][key] = value
    (folder / 'config.json').write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf'config\.json: .*{message}'):
        read_released(folder)


def test_missing_and_broken_files_are_named(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / 'weights.pt', folder / 'weights_epoch_2.pt')
    with pytest.raises(CheckpointError, match=r'weights\.pt.*weights_epoch_2\.pt.*name the file'):
        read_released(folder)
    (folder / 'config.json').write_text('{"_target_": ')
    with pytest.raises(CheckpointError, match=r'config\.json: not JSON'):
        read_released(folder / 'weights.pt')
    (folder / 'config.json').unlink()
    with pytest.raises(CheckpointError, match=r'no config\.json in'):
        read_released(folder / 'weights.pt')
    with pytest.raises(CheckpointError, match=r'nowhere: expected a \.pt file'):
        read_released(tmp_path / 'nowhere')


def test_an_imported_network_cannot_control_an_arm(original: Path, tmp_path: Path) -> None:
    import_released(original, tmp_path / 'ours')
    with pytest.raises(CheckpointError, match='imported network without arm'):
        load_checkpoint(tmp_path / 'ours')


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['import', 'nowhere', '--out', 'new'], 'expected a .pt file'),
        (['export', 'compact', '--out', 'new'], "expected a LeWorldModel .*'compact'"),
        (['export', 'nowhere', '--out', 'new'], 'nowhere'),
    ],
)
def test_failures_are_reported_in_one_line_and_write_nothing(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(expected, line)
    assert list(tmp_path.iterdir()) == []


def test_existing_folders_are_not_overwritten(original: Path, tmp_path: Path) -> None:
    (tmp_path / 'ours').mkdir()
    with pytest.raises(CheckpointError, match='expected a new folder'):
        import_released(original, tmp_path / 'ours')
    assert list((tmp_path / 'ours').iterdir()) == []
