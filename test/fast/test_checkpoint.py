"""Checkpoints: loading restores what was saved and refuses everything else."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import synthetic
from jepa_arm.model.checkpoint import check_contract, load_checkpoint, save_checkpoint
from jepa_arm.model.checkpoint_files import CheckpointError, load_module, save_module
from jepa_arm.model.heads.probes import Probes
from jepa_arm.model.world_model import Normaliser, WorldModel


def make_model(seed: int = 0) -> WorldModel:
    torch.manual_seed(seed)
    normaliser = Normaliser(0.4, 0.2, (0.1, -0.2) * 4, (0.6, 0.5) * 4)
    model = WorldModel(synthetic.MODEL, synthetic.CONTRACT, normaliser)
    one = synthetic.episode(np.random.default_rng(0), 20)
    model.encode(*synthetic.observations(one))  # batch statistics other than the initial ones
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = make_model()
    save_checkpoint(tmp_path / 'c', model, Probes(model.latent_dim), {'gates': {'mse': [0.5]}})
    return tmp_path / 'c'


def test_save_and_load_give_identical_outputs(tmp_path: Path) -> None:
    model, probes = make_model(), Probes(synthetic.MODEL.latent_dim)
    save_checkpoint(tmp_path / 'c', model, probes, {'training': {'seed': 4}})
    loaded = load_checkpoint(tmp_path / 'c')
    one = synthetic.episode(np.random.default_rng(1), 6)
    z = model.encode(*synthetic.observations(one))
    again = loaded.model.encode(*synthetic.observations(one))
    torch.testing.assert_close(again, z, rtol=0, atol=0)
    actions = torch.rand(6, 3, model.block_width)
    expected = model.rollout(z, z, actions)
    torch.testing.assert_close(loaded.model.rollout(z, z, actions), expected, rtol=0, atol=0)
    torch.testing.assert_close(loaded.probes.tip_target(z), probes.tip_target(z))
    assert loaded.contract == synthetic.CONTRACT
    assert loaded.info['training'] == {'seed': 4} and loaded.info['git']
    assert not any(p.requires_grad for p in loaded.model.parameters())


def test_saving_replaces_an_old_checkpoint_and_leaves_nothing_else(folder: Path) -> None:
    save_checkpoint(folder, make_model(1), Probes(synthetic.MODEL.latent_dim), {'gates': {}})
    assert load_checkpoint(folder).info['gates'] == {}
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors', 'probes.safetensors'])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f'no {name}'):
        load_checkpoint(folder)


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors', 'probes.safetensors'])
@pytest.mark.parametrize('share', [0.0, 0.5, 0.999])
def test_a_truncated_file_is_refused(folder: Path, name: str, share: float) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * (len(content) - 2))])
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


def edit_config(folder: Path, **values: object) -> None:
    info = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps(info | values))


def test_another_schema_is_refused(folder: Path) -> None:
    edit_config(folder, schema_version=99)
    with pytest.raises(CheckpointError, match='expected schema_version 2, got 99'):
        load_checkpoint(folder)


def test_a_config_of_another_size_is_refused(folder: Path) -> None:
    info = json.loads((folder / 'config.json').read_text())
    edit_config(folder, model=info['model'] | {'encoder_width': 32})
    with pytest.raises(CheckpointError, match='expected shape'):
        load_checkpoint(folder)


def test_unknown_and_missing_tensors_are_named(folder: Path) -> None:
    path = folder / 'model.safetensors'
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors['surprise'] = tensors.pop(name)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=rf"missing \['{name}'\], unknown \['surprise'\]"):
        load_checkpoint(folder)


def test_weights_that_are_not_finite_are_refused(folder: Path) -> None:
    path = folder / 'model.safetensors'
    tensors = load_file(path)
    tensors['predictor.input_projection.weight'][0, 0] = float('nan')
    save_file(tensors, path)
    with pytest.raises(
        CheckpointError, match='predictor.input_projection.weight: expected finite'
    ):
        load_checkpoint(folder)


def test_a_full_disk_is_reported_and_the_previous_file_is_kept(
    folder: Path, fill_disk: Callable[[int], None]
) -> None:
    before = load_checkpoint(folder).model.state_dict()
    fill_disk(10_000)
    with pytest.raises(OSError, match='could not be written'):
        save_module(folder, 'model', make_model(seed=1))
    after = load_checkpoint(folder).model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not list(folder.glob('*.partial'))


def test_any_module_can_be_added_to_a_checkpoint(folder: Path) -> None:
    saved, loaded = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    save_module(folder, 'extra', saved)
    load_module(folder, 'extra', loaded)
    torch.testing.assert_close(loaded.weight, saved.weight, rtol=0, atol=0)
    load_checkpoint(folder)


def test_physics_step_and_frame_names_may_differ_from_the_live_robot() -> None:
    live = replace(
        synthetic.CONTRACT,
        time=replace(synthetic.CONTRACT.time, physics_dt=0.005),
        camera=replace(synthetic.CONTRACT.camera, frame_id='other'),
    )
    check_contract(synthetic.CONTRACT, live)


def test_every_difference_to_the_live_robot_is_listed() -> None:
    contract = synthetic.CONTRACT
    live = replace(
        contract,
        arm='ur5e',
        joints=('y_joint', 'x_joint'),
        camera=replace(contract.camera, position=(1.0, 0.0, 1.1)),
        time=replace(contract.time, frame_skip=4),
    )
    with pytest.raises(CheckpointError) as caught:
        check_contract(contract, live)
    message = str(caught.value)
    for part in (
        'arm: trained with toy, here ur5e',
        'joints: trained with',
        'camera.position: trained with',
        'time.frame_skip: trained with 2, here 4',
        'jepa-arm train --arm ur5e',
        '--planner scripted --arm ur5e',
    ):
        assert part in message
    assert 'action_space' not in message
