"""A world model of the toy world, trained once for all tests."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import synthetic
from jepa_arm.training.loop import train_world_model


@pytest.fixture(scope='session')
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes of the toy world."""
    return synthetic.write(tmp_path_factory.mktemp('toy') / 'play.h5', [31] * 120)


@pytest.fixture(scope='session')
def toy_run(tmp_path_factory: pytest.TempPathFactory, toy_data: Path) -> Path:
    """What a short training leaves, with ``checkpoint`` in it; copy it before changing it."""
    train = replace(synthetic.TRAIN, steps=500, batch=64, probe_steps=300)
    config = replace(synthetic.TOY, train=train)
    out = tmp_path_factory.mktemp('run')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the toy is too small for more
    train_world_model(toy_data, out, config, seed=0, progress=False)
    torch.set_num_threads(threads)
    return out
