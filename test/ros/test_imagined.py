"""What the present plan ends in, drawn for whoever looks at it."""

import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from planner_bench import save_untrained
from sensor_msgs.msg import Image

from jepa_arm.config import DecoderConfig, to_dict
from jepa_arm.messages import image_from_msg
from jepa_arm.model.checkpoint import add_module, fingerprint, load_checkpoint
from jepa_arm.model.decoder import WEIGHTS, new_decoder
from jepa_arm.nodes import conversions as convert
from jepa_arm.nodes.imagined_view import PERIOD_S, ImaginedView
from jepa_arm.nodes.parameters import SENSOR, STATUS
from jepa_arm.nodes.plan_view import PlanEnd

pytestmark = pytest.mark.ros
CONFIG = DecoderConfig((8, 4), steps=1, batch=1, learning_rate=1e-3)


@dataclass
class View:
    """Of a planner: where its plan ends."""

    plan_end: PlanEnd | None = None


@pytest.fixture
def folder(tmp_path, arm_config, sim_config):
    """A checkpoint without a decoder."""
    return save_untrained(tmp_path / 'untrained', arm_config, sim_config)


def add_decoder(folder):
    checkpoint = load_checkpoint(folder)
    metadata = {WEIGHTS: fingerprint(checkpoint.model)}
    about = {'config': to_dict(CONFIG)}
    add_module(folder, 'decoder', new_decoder(checkpoint, CONFIG), about, metadata)


@pytest.mark.parametrize('qos', [STATUS, SENSOR], ids=['reliable', 'best effort'])
def test_the_end_of_each_plan_is_drawn_at_most_twice_a_second(harness, folder, arm_config, qos):
    add_decoder(folder)
    view, checkpoint = View(), load_checkpoint(folder)
    harness.make(lambda: ImaginedView(harness.node, checkpoint, view))
    shown = harness.record(Image, 'planner/imagined', qos)
    began, stamps, latent = time.monotonic(), [], torch.zeros(checkpoint.model.latent)
    while len(shown) < 3 and time.monotonic() < began + 8.0:
        stamps.append(10.0 + time.monotonic() - began)
        view.plan_end = PlanEnd(latent + len(stamps), stamps[-1])
        time.sleep(0.05)
    passed = time.monotonic() - began
    assert 3 <= len(shown) <= passed / PERIOD_S + 1.0
    message = shown[-1][1]
    image = image_from_msg(message)
    camera = arm_config.camera
    assert image.shape == (camera.height, camera.width, 3) and image.std() > 0.0
    assert message.header.frame_id == camera.frame_id
    seen = convert.to_seconds(message.header.stamp)
    assert np.abs(np.array(stamps) - seen).min() < 1e-6
    time.sleep(2.5 * PERIOD_S)  # the plan is the same, or gone: nothing new to see
    count = len(shown)
    time.sleep(1.5 * PERIOD_S)
    view.plan_end = None
    time.sleep(1.5 * PERIOD_S)
    assert len(shown) == count


def test_who_looks_is_told_once_how_to_get_a_decoder(harness, folder, capfd):
    view = View(PlanEnd(torch.zeros(64), 1.0))
    checkpoint = load_checkpoint(folder)
    harness.make(lambda: ImaginedView(harness.node, checkpoint, view))
    time.sleep(1.5 * PERIOD_S)
    assert 'decoder' not in capfd.readouterr().err
    shown = harness.record(Image, 'planner/imagined', STATUS)
    time.sleep(4.0 * PERIOD_S)
    told = capfd.readouterr().err
    assert told.count('jepa-arm decoder --data') == 1 and 'untrained' in told
    assert not shown
