"""Predicted image: the decoded latent at the end of the plan."""

import time
from dataclasses import dataclass

import pytest
import torch
from planner_bench import save_untrained
from sensor_msgs.msg import Image

from jepa_arm.config import DecoderConfig, to_dict
from jepa_arm.core.messages import image_from_msg
from jepa_arm.model.checkpoint import FINGERPRINT_KEY, load_checkpoint, new_decoder
from jepa_arm.model.checkpoint_files import add_module, fingerprint
from jepa_arm.ros.planner import plan_publisher
from jepa_arm.ros.planner.plan_publisher import PlanEnd, PredictedImagePublisher
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.qos import SENSOR_QOS, STATUS_QOS

pytestmark = pytest.mark.ros
PERIOD_S = 0.1
CONFIG = DecoderConfig((8, 4), steps=1, batch=1, learning_rate=1e-3)


@dataclass
class Plans:
    """Stand-in for the plan publisher: knows the end of the current plan."""

    plan_end: PlanEnd | None = None


@pytest.fixture
def folder(tmp_path, arm_config, sim_config):
    """Return the folder of a checkpoint without a decoder."""
    return save_untrained(tmp_path / 'untrained', arm_config, sim_config)


def add_decoder(folder):
    checkpoint = load_checkpoint(folder)
    metadata = {FINGERPRINT_KEY: fingerprint(checkpoint.model)}
    about = {'config': to_dict(CONFIG)}
    add_module(folder, 'decoder', new_decoder(checkpoint, CONFIG), about, metadata)


@pytest.fixture(autouse=True)
def period(monkeypatch):
    monkeypatch.setattr(plan_publisher, 'PREDICTED_IMAGE_PERIOD_S', PERIOD_S)


def passed_periods(harness, count):
    """Return a condition that is true after ``count`` periods of another timer."""
    ticks = []
    harness.execute(lambda: harness.node.create_timer(PERIOD_S, lambda: ticks.append(None)))
    return lambda: len(ticks) >= count


@pytest.mark.parametrize('qos', [STATUS_QOS, SENSOR_QOS], ids=['reliable', 'best effort'])
def test_end_of_each_plan_is_decoded_once_and_at_the_period(harness, folder, arm_config, qos):
    add_decoder(folder)
    plans, checkpoint = Plans(), load_checkpoint(folder)
    harness.execute(lambda: PredictedImagePublisher(harness.node, checkpoint, plans))
    shown = harness.record(Image, 'planner/imagined', qos)
    began, latent = time.monotonic(), torch.zeros(checkpoint.model.latent_dim)

    def replan():
        plans.plan_end = PlanEnd(latent, 10.0 + time.monotonic() - began)
        return len(shown) >= 3

    harness.wait(replan, 'predicted images')
    assert len(shown) <= (time.monotonic() - began) / PERIOD_S + 1.0
    message, camera = shown[-1][1], arm_config.camera
    image = image_from_msg(message)
    assert image.shape == (camera.height, camera.width, 3) and image.std() > 0.0
    assert message.header.frame_id == camera.frame_id
    last = convert.to_time(plans.plan_end.stamp)
    harness.wait(lambda: shown[-1][1].header.stamp == last, 'the last plan')
    count = len(shown)
    harness.wait(passed_periods(harness, 3), 'periods without a new plan')
    plans.plan_end = None
    harness.wait(passed_periods(harness, 2), 'periods without a plan')
    assert len(shown) == count


def test_subscriber_gets_one_warning_if_there_is_no_decoder(harness, folder, capfd):
    checkpoint, plans = load_checkpoint(folder), Plans(PlanEnd(torch.zeros(64), 1.0))
    harness.execute(lambda: PredictedImagePublisher(harness.node, checkpoint, plans))
    harness.wait(passed_periods(harness, 2), 'periods without a subscriber')
    assert 'decoder' not in capfd.readouterr().err
    shown = harness.record(Image, 'planner/imagined', STATUS_QOS)
    count = harness.node.count_subscribers
    harness.wait(lambda: count('planner/imagined') == 1, 'the subscription')
    harness.wait(passed_periods(harness, 4), 'periods with a subscriber')
    assert capfd.readouterr().err.count('has no decoder') == 1
    assert not shown
