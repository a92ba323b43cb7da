"""A world model of the toy world, trained once for all tests."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import synthetic
from jepa_arm.training.world_model import RunOptions, train_world_model


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return the path ``name``, which the first of the test processes makes with ``make``."""
    base = factory.getbasetemp()
    shared = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base
    path = shared / name
    with FileLock(f'{path}.lock'):
        if not path.exists():
            made = shared / f'unfinished-{name}'
            make(made)
            made.rename(path)
    return path


@pytest.fixture(scope='session')
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of episodes of the toy world."""
    return once(tmp_path_factory, 'toy.h5', lambda path: synthetic.write(path, [31] * 140))


@pytest.fixture(scope='session')
def toy_run(tmp_path_factory: pytest.TempPathFactory, toy_data: Path) -> Path:
    """Return the output folder of a short training; copy its ``checkpoint`` before changing it."""
    return once(tmp_path_factory, 'toy_run', lambda out: train_toy(toy_data, out))


def train_toy(toy_data: Path, out: Path) -> None:
    train = replace(synthetic.TRAIN, steps=320, batch=64, probe_steps=80, tip_probe_steps=80)
    config = replace(synthetic.TOY, train=train, predictor=synthetic.PREDICTOR)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the toy is too small for more
    train_world_model(toy_data, out, config, RunOptions(seed=0))
    torch.set_num_threads(threads)
