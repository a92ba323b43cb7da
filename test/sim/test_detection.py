"""The shipped belief is surprised by anomalies in the simulated world."""

from collections.abc import Iterator

import numpy as np
import pytest

from jepa_arm.config import ArmConfig, CollectConfig, SimConfig, load
from jepa_arm.core.files import CHECKPOINTS, config_path
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm_validation.surprise.anomalies import ANOMALIES
from jepa_arm_validation.surprise.benchmark import FRAMES, WARM_UP, WINDOW, SurpriseBenchmark

pytestmark = [pytest.mark.sim, pytest.mark.usefixtures('one_thread')]
SEEDS = 1_070_000, 1_070_001
BY_NAME = {anomaly.name: anomaly for anomaly in ANOMALIES}


@pytest.fixture(scope='module')
def benchmark() -> Iterator[SurpriseBenchmark]:
    benchmark = SurpriseBenchmark(
        load_checkpoint(CHECKPOINTS / 'compact'),
        load(ArmConfig, config_path('arms/panda.yaml')),
        load(SimConfig, config_path('sim.yaml')),
        load(CollectConfig, config_path('collect.yaml')),
    )
    yield benchmark
    benchmark.close()


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
def test_an_abrupt_anomaly_raises_an_alarm_within_six_images(
    benchmark: SurpriseBenchmark, name: str
) -> None:
    trace = benchmark.run_episode(SEEDS[0], BY_NAME[name])
    assert trace.onset + WINDOW <= FRAMES
    assert trace.surprise[trace.onset : trace.onset + WINDOW].max() > 1.0


def test_play_without_an_anomaly_rarely_raises_an_alarm(benchmark: SurpriseBenchmark) -> None:
    surprise = np.concatenate([benchmark.run_episode(seed).surprise[WARM_UP:] for seed in SEEDS])
    assert np.isfinite(surprise).all() and (surprise > 1.0).sum() <= 1
