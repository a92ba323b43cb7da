"""What the shipped belief notices when the virtual world is not what it was."""

from collections.abc import Iterator

import numpy as np
import pytest

from jepa_arm.config import ArmConfig, CollectConfig, SimConfig, load
from jepa_arm.detection import FRAMES, WARM_UP, WINDOW, Detector
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.resources import CHECKPOINTS, config_path
from jepa_arm.sim.anomalies import ANOMALIES

pytestmark = [pytest.mark.sim, pytest.mark.usefixtures('one_thread')]
SEEDS = 1_070_000, 1_070_001
NAMED = {anomaly.name: anomaly for anomaly in ANOMALIES}


@pytest.fixture(scope='module')
def detector() -> Iterator[Detector]:
    detector = Detector(
        load_checkpoint(CHECKPOINTS / 'compact'),
        load(ArmConfig, config_path('arms/panda.yaml')),
        load(SimConfig, config_path('sim.yaml')),
        load(CollectConfig, config_path('collect.yaml')),
    )
    yield detector
    detector.close()


@pytest.mark.parametrize(
    'name',
    [
        'object_recoloured',
        'camera_frozen',
        'camera_bumped',
        'light_changed',
        'arm_blocked',
    ],
)
def test_what_changes_at_once_surprises_within_six_images(detector: Detector, name: str) -> None:
    for seed in SEEDS:
        watched = detector.watch(seed, NAMED[name])
        assert watched.onset + WINDOW <= FRAMES
        assert watched.surprise[watched.onset : watched.onset + WINDOW].max() > 1.0


def test_play_without_an_anomaly_surprises_seldom(detector: Detector) -> None:
    surprise = np.concatenate([detector.watch(seed, None).surprise[WARM_UP:] for seed in SEEDS])
    assert np.isfinite(surprise).all() and (surprise > 1.0).sum() <= 1
