"""A world model of the toy world, trained once for all tests."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import synthetic
from jepa_arm.training.loop import train_world_model


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """What ``make`` leaves under ``name``, made by the first of the processes that test."""
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
    """Episodes of the toy world."""
    return once(tmp_path_factory, 'toy.h5', lambda path: synthetic.write(path, [31] * 120))


@pytest.fixture(scope='session')
def toy_run(tmp_path_factory: pytest.TempPathFactory, toy_data: Path) -> Path:
    """What a short training leaves, with ``checkpoint`` in it; copy it before changing it."""
    return once(tmp_path_factory, 'toy_run', lambda out: train_toy(toy_data, out))


def train_toy(toy_data: Path, out: Path) -> None:
    train = replace(synthetic.TRAIN, steps=400, batch=64, probe_steps=120)
    config = replace(synthetic.TOY, train=train, predictor=synthetic.PREDICTOR)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the toy is too small for more
    train_world_model(toy_data, out, config, seed=0, progress=False)
    torch.set_num_threads(threads)
