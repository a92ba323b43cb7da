"""Belief heads of a toy world: beliefs last without images, with calibrated errors."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import synthetic
from jepa_arm.belief.surprise import PredictedFrame, SurpriseDetector
from jepa_arm.config import BeliefConfig
from jepa_arm.core.files import checkpoint_path
from jepa_arm.datasets.episodes import DataError
from jepa_arm.model.checkpoint import (
    Checkpoint,
    build_world_model,
    load_belief_heads,
    load_checkpoint,
    save_checkpoint,
)
from jepa_arm.model.checkpoint_files import CheckpointError
from jepa_arm.model.heads.belief_heads import CHANNELS
from jepa_arm.model.heads.probes import Probes
from jepa_arm.model.world_model import Normaliser, WorldModel
from jepa_arm.training.belief.belief import train_belief
from jepa_arm.training.belief.latent_windows import (
    LatentEpisodes,
    LatentWindows,
    blind_beliefs,
    follow_object,
    predict_open_loop,
    predicted_frames,
)
from jepa_arm.training.belief.report import format_belief
from jepa_arm.training.encoding import HeadTraining, encode_for
from jepa_arm.training.fit import TrainingError

CONFIG = BeliefConfig(
    blind_steps=10,
    windows=512,
    expected_error_episodes=100,
    steps=150,
    batch=256,
    learning_rate=1e-3,  # push dynamics of the toy world may diverge at 2e-3
    push_steps=80,
    push_batch=32,
    state_encoder_steps=200,
    tip_motion_steps=150,
    camera_pose_steps=20,
)


pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory, toy_data: Path, toy_run: Path) -> Path:
    """Return a trained checkpoint with belief heads; copy it before changing it."""
    folder = tmp_path_factory.mktemp('belief') / 'checkpoint'
    shutil.copytree(toy_run / 'checkpoint', folder)
    train_belief(inputs(folder, toy_data), CONFIG)
    return folder


def inputs(folder: Path, data: Path, seed: int = 0) -> HeadTraining:
    return HeadTraining(folder, encode_for(load_checkpoint(folder), data), seed)


def held_out_windows(folder: Path, toy_data: Path) -> tuple[Checkpoint, LatentWindows]:
    """Return all windows of 10 steps without images of the held-out episodes."""
    checkpoint = load_checkpoint(folder)
    encoded = encode_for(checkpoint, toy_data)
    latents = LatentEpisodes(checkpoint, encoded)
    return checkpoint, latents.windows(latents.starts(encoded.held_out, 10), 10)


def test_joints_keep_the_tip_of_a_blind_belief_closer_than_open_loop_prediction(
    folder: Path, toy_data: Path
) -> None:
    checkpoint, windows = held_out_windows(folder, toy_data)
    model, heads = checkpoint.model, load_belief_heads(checkpoint)
    assert heads is not None and isinstance(model, WorldModel)
    errors = []
    for beliefs in (predict_open_loop(model, windows), blind_beliefs(heads, windows)):
        with torch.inference_mode():
            read = checkpoint.probes.read('tip', beliefs[:, -1])
        errors.append((read - windows.positions[:, -1, 0]).norm(dim=-1).median())
    open_loop, blind = errors
    assert blind < 0.9 * open_loop


def test_an_object_is_followed_by_the_path_of_the_tip(folder: Path, toy_data: Path) -> None:
    checkpoint, windows = held_out_windows(folder, toy_data)
    heads = load_belief_heads(checkpoint)
    assert heads is not None
    truth = windows.positions[:, -1, 1]
    followed = (follow_object(heads.push_dynamics, windows)[-1].position - truth).norm(dim=-1)
    moved = (windows.start.position - truth).norm(dim=-1)
    assert followed.median() < 0.5 * moved.median()


def test_predicted_errors_cover_those_of_episodes_not_used_for_training(folder: Path) -> None:
    report = load_checkpoint(folder).info['belief']
    for row in (*report['blind'].values(), *report['blind_unknown_yaw'].values()):
        assert row['tip_coverage_90'] > 0.75 and row['object_coverage_90'] > 0.75
    assert 'alarms' in format_belief(report)


def test_the_predicted_errors_of_the_shipped_belief_are_calibrated() -> None:
    report = load_checkpoint(checkpoint_path('compact')).info['belief']
    for case in ('blind', 'blind_unknown_yaw'):
        rows = report[case]
        for row in rows.values():
            assert 0.8 < row['tip_coverage_90'] < 0.96
            assert 0.8 < row['object_coverage_90'] < 0.96
        assert rows['2 s']['object_median_cm'] > 1.2 * rows['0.2 s']['object_median_cm']


@pytest.fixture(scope='module')
def held_out(folder: Path, toy_data: Path) -> tuple[SurpriseDetector, PredictedFrame]:
    """Return a surprise detector and all frames of the held-out episodes."""
    checkpoint = load_checkpoint(folder)
    heads, encoded = load_belief_heads(checkpoint), encode_for(checkpoint, toy_data)
    assert heads is not None and isinstance(checkpoint.model, WorldModel)
    latents = LatentEpisodes(checkpoint, encoded)
    frames = predicted_frames(checkpoint.model, latents, encoded.held_out)
    return SurpriseDetector(heads, 0.1), frames


def frame_of(frames: PredictedFrame, index: int) -> PredictedFrame:
    row = torch.tensor([index])
    values = {name: value for name, value in vars(frames).items() if value is not None}
    picked = {n: v[row] if isinstance(v, Tensor) else v.rows(row) for n, v in values.items()}
    return replace(frames, **picked)


def test_a_jump_of_the_latent_is_more_surprising_than_ordinary_frames(
    held_out: tuple[SurpriseDetector, PredictedFrame],
) -> None:
    surprise, frames = held_out
    others = np.random.default_rng(0).permutation(len(frames.z))
    usual, jumped, channels = [], [], set()
    for i, other in enumerate(others[:200].tolist()):
        one = frame_of(frames, i)
        usual.append(surprise.rate(one, 10.0 * i).value)
        found = surprise.rate(replace(one, z=frames.z[other : other + 1]), 10.0 * i + 5.0)
        jumped.append(found.value)
        channels.add(found.channel)
    assert np.mean(np.array(usual) > 1.0) < 0.03
    assert np.median(jumped) > 1.0 > np.quantile(usual, 0.95)
    assert channels >= {'latent', 'long_horizon'}


@pytest.mark.parametrize(
    ('channel', 'changed'),
    [
        ('background', {'cells': torch.full((1, 320), 0.3)}),
        ('palette', {'novelty': torch.tensor([5.0])}),
    ],
)
def test_an_unusual_change_of_the_image_is_surprising(
    held_out: tuple[SurpriseDetector, PredictedFrame], channel: str, changed: dict[str, Tensor]
) -> None:
    surprise, frames = held_out
    for i in range(20):
        one = frame_of(frames, i)
        assert one.change is not None
        found = surprise.rate(replace(one, change=one.change._replace(**changed)), 10.0 * i)
        assert found.value > 1.0 and found.channel == channel


def test_a_tip_far_from_its_setpoint_is_surprising(
    held_out: tuple[SurpriseDetector, PredictedFrame],
) -> None:
    surprise, frames = held_out
    for i in range(20):
        one = frame_of(frames, i)
        found = surprise.rate(replace(one, tip_setpoints=one.tip_setpoints + 0.2), 10.0 * i)
        assert found.value > 1.0 and found.channel == 'tip_motion'


def test_missing_history_is_not_surprising_and_nan_is(
    held_out: tuple[SurpriseDetector, PredictedFrame],
) -> None:
    surprise, frames = held_out
    one = frame_of(frames, 0)
    assert one.change is not None
    nothing = {
        field: getattr(one.change, field) * np.nan for field in ('cells', 'novelty', 'motion')
    }
    missing = replace(one, change=one.change._replace(**nothing))
    unseen = replace(one, change=None)
    assert surprise.rate(missing, 10.0).value == surprise.rate(unseen, 20.0).value < 1.0
    assert surprise.rate(replace(one, z=one.z * np.nan), 30.0).value == np.inf
    assert surprise.rate(unseen, 30.1).value < 1.0  # NaN does not affect the next frame


def test_an_anomaly_in_two_frames_is_more_surprising_than_in_one(
    held_out: tuple[SurpriseDetector, PredictedFrame],
) -> None:
    surprise, frames = held_out
    alone, again, late = [], [], []
    for i in range(40):
        one = frame_of(frames, i)
        odd = replace(one, z=one.z + 0.5 * (frames.z[i + 60 : i + 61] - one.z))
        alone.append(surprise.rate(odd, 10.0 * i).value)
        again.append(surprise.rate(odd, 10.0 * i + 0.1).value)
        late.append(surprise.rate(odd, 10.0 * i + 0.4).value)
    assert alone == late
    assert all(a <= b for a, b in zip(alone, again, strict=True))
    assert np.median(again) > 1.05 * np.median(alone)


def test_each_surprise_channel_has_a_description_for_people() -> None:
    pytest.importorskip('rclpy')
    from jepa_arm.ros.planner.planning_loop import SURPRISE_TEXTS

    assert set(SURPRISE_TEXTS) == set(CHANNELS)


@pytest.mark.extended
def test_the_same_seed_gives_the_same_report(tmp_path: Path, folder: Path, toy_data: Path) -> None:
    short = replace(
        CONFIG,
        **dict.fromkeys(('steps', 'push_steps', 'state_encoder_steps', 'tip_motion_steps'), 5),
        camera_pose_steps=5,
    )
    reports = []
    for name in ('first', 'second'):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        reports.append(train_belief(inputs(copy, toy_data, seed=3), short))
    first, second = ({**report, 'git': None} for report in reports)
    assert first == second


def test_a_model_without_proprioception_is_refused(tmp_path: Path, toy_data: Path) -> None:
    normaliser = Normaliser(0.5, 0.1, (0.0,) * 8, (1.0,) * 8)
    model = build_world_model(synthetic.LEWM, synthetic.CONTRACT, normaliser)
    about = {'training': {'seed': 0, 'config': {'held_out': 0.2}}}
    save_checkpoint(tmp_path / 'lewm', model, Probes(model.latent_dim), about)
    lewm = inputs(tmp_path / 'lewm', toy_data)
    encoded = lewm.encoded
    assert encoded.z.shape[1] == model.latent_dim and encoded.features.shape[1] == 0
    with pytest.raises(CheckpointError):
        train_belief(lewm, CONFIG)


def test_frames_are_encoded_in_batches_as_one_by_one(folder: Path, toy_data: Path) -> None:
    checkpoint, rows = load_checkpoint(folder), [0, 700, -1]
    encoded = encode_for(checkpoint, toy_data)
    episodes = encoded.episodes
    assert isinstance(checkpoint.model, WorldModel)
    with torch.inference_mode():
        observations = np.asarray(episodes.pixels[rows]), episodes.proprioception()[rows]
        z, features = checkpoint.model.encode_with_features(*observations)
    np.testing.assert_allclose(encoded.z[rows], z, atol=0.05)
    np.testing.assert_allclose(encoded.features[rows], features, atol=0.05)


@pytest.mark.extended
def test_a_loss_that_is_not_finite_ends_the_training_and_adds_nothing(
    tmp_path: Path, folder: Path, toy_data: Path
) -> None:
    shutil.copytree(folder, tmp_path / 'copy')
    before = (tmp_path / 'copy' / 'belief.safetensors').read_bytes()
    with pytest.raises(TrainingError, match='finite loss'):
        train_belief(inputs(tmp_path / 'copy', toy_data), replace(CONFIG, learning_rate=1e30))
    assert (tmp_path / 'copy' / 'belief.safetensors').read_bytes() == before


def test_episodes_too_short_for_a_window_are_refused(folder: Path, toy_data: Path) -> None:
    with pytest.raises(DataError, match='more than 82 frames'):
        train_belief(inputs(folder, toy_data), replace(CONFIG, blind_steps=40))


def test_a_broken_file_of_belief_heads_is_refused(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / 'copy')
    path = tmp_path / 'copy' / 'belief.safetensors'
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(
        CheckpointError, match='whole safetensors.*jepa-arm train --only belief makes'
    ):
        load_belief_heads(load_checkpoint(tmp_path / 'copy'))
