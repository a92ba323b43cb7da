"""A belief taught on a toy world lasts without images, and says how far off it may be."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import synthetic
from jepa_arm.config import BeliefConfig
from jepa_arm.data.episodes import DataError, EpisodeFile
from jepa_arm.model.architectures import build
from jepa_arm.model.belief_heads import CHANNELS, load_belief_heads
from jepa_arm.model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from jepa_arm.model.probes import Probes
from jepa_arm.model.world_model import Normaliser, WorldModel
from jepa_arm.resources import checkpoint_path
from jepa_arm.surprise import Frame, Surprise
from jepa_arm.training.belief import train_belief
from jepa_arm.training.belief_report import format_belief
from jepa_arm.training.chains import LatentEpisodes, blind, follow, frames_of, predict
from jepa_arm.training.encoding import encode_frames

CONFIG = BeliefConfig(
    chain_steps=10,
    push_batch=32,
    push_updates=150,
    chains=512,
    usual_episodes=200,
    steps=200,
    state_steps=300,
    body_steps=300,
    view_steps=20,
    batch=256,
    learning_rate=4e-3,
)


pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def data(toy_data: Path) -> Path:
    return toy_data


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory, data: Path, toy_run: Path) -> Path:
    """A trained checkpoint with belief heads; copy it before changing it."""
    folder = tmp_path_factory.mktemp('belief') / 'checkpoint'
    shutil.copytree(toy_run / 'checkpoint', folder)
    train_belief(folder, data, CONFIG, seed=0, progress=False)
    return folder


def test_joints_alone_keep_the_tip_nearer_to_the_truth_than_prediction_alone(
    folder: Path, data: Path
) -> None:
    checkpoint, episodes = load_checkpoint(folder), EpisodeFile(data)
    assert isinstance(checkpoint.model, WorldModel)
    latents = LatentEpisodes(checkpoint, episodes, encode_frames(checkpoint.model, episodes))
    _, held_out = episodes.split(0, synthetic.TRAIN.held_out)
    chains = latents.chains(latents.starts(held_out, 10), 10)
    model, heads = checkpoint.model, load_belief_heads(checkpoint)
    assert heads is not None
    errors = []
    for beliefs in (predict(model, chains), blind(heads, chains)):
        with torch.inference_mode():
            read = checkpoint.probes.read('tip', beliefs[:, -1])
        errors.append((read - chains.truth[:, -1, 0]).norm(dim=-1).median())
    alone, corrected = errors
    assert corrected < 0.9 * alone


def test_an_object_is_followed_by_the_way_of_the_tip(folder: Path, data: Path) -> None:
    checkpoint, episodes = load_checkpoint(folder), EpisodeFile(data)
    latents = LatentEpisodes(checkpoint, episodes, encode_frames(checkpoint.model, episodes))
    _, held_out = episodes.split(0, synthetic.TRAIN.held_out)
    chains, heads = latents.chains(latents.starts(held_out, 10), 10), load_belief_heads(checkpoint)
    assert heads is not None
    followed = (follow(heads.pushing, chains)[-1].place - chains.truth[:, -1, 1]).norm(dim=-1)
    stayed = (chains.start.place - chains.truth[:, -1, 1]).norm(dim=-1)
    assert followed.median() < 0.5 * stayed.median()


def test_what_it_says_of_its_error_holds_on_episodes_that_taught_nothing(folder: Path) -> None:
    report = load_checkpoint(folder).info['belief']
    for row in (*report['blind'].values(), *report['unread'].values()):
        assert row['tip_coverage_90'] > 0.75 and row['object_coverage_90'] > 0.75
    assert 'alarms' in format_belief(report)


def test_the_shipped_belief_knows_how_wrong_it_is_on_episodes_that_taught_nothing() -> None:
    report = load_checkpoint(checkpoint_path('compact')).info['belief']
    for case in ('blind', 'unread'):
        rows = report[case]
        for row in rows.values():
            assert 0.8 < row['tip_coverage_90'] < 0.96
            assert 0.8 < row['object_coverage_90'] < 0.96
        assert rows['2 s']['object_median_cm'] > 1.2 * rows['0.2 s']['object_median_cm']


@pytest.fixture(scope='module')
def held_out(folder: Path, data: Path) -> tuple[Surprise, Frame]:
    """What judges, and all frames of the held-out episodes."""
    checkpoint, episodes = load_checkpoint(folder), EpisodeFile(data)
    heads = load_belief_heads(checkpoint)
    assert heads is not None and isinstance(checkpoint.model, WorldModel)
    _, indices = episodes.split(0, synthetic.TRAIN.held_out)
    latents = LatentEpisodes(checkpoint, episodes, encode_frames(checkpoint.model, episodes))
    frames = frames_of(checkpoint.model, latents, indices)
    return Surprise(heads, 0.1), frames


def test_a_world_that_jumps_is_more_surprising_than_any_other_frame(
    held_out: tuple[Surprise, Frame],
) -> None:
    surprise, frames = held_out
    others = np.random.default_rng(0).permutation(len(frames.z))
    usual, jumped, channels = [], [], set()
    for i, other in enumerate(others[:200].tolist()):
        one = frames.rows(torch.tensor([i]))
        usual.append(surprise.of(one, 10.0 * i).value)
        found = surprise.of(replace(one, z=frames.z[other : other + 1]), 10.0 * i + 5.0)
        jumped.append(found.value)
        channels.add(found.channel)
    assert np.mean(np.array(usual) > 1.0) < 0.03
    assert np.median(jumped) > 1.0 > np.quantile(usual, 0.95)
    assert channels >= {'world', 'outlook'}


@pytest.mark.parametrize(
    ('channel', 'changed'),
    [
        ('background', {'cells': torch.full((1, 320), 0.3)}),
        ('palette', {'novelty': torch.tensor([5.0])}),
    ],
)
def test_images_that_change_as_never_before_surprise(
    held_out: tuple[Surprise, Frame], channel: str, changed: dict[str, Tensor]
) -> None:
    surprise, frames = held_out
    for i in range(20):
        one = frames.rows(torch.tensor([i]))
        assert one.change is not None
        found = surprise.of(replace(one, change=replace(one.change, **changed)), 10.0 * i)
        assert found.value > 1.0 and found.channel == channel


def test_a_tip_that_is_not_where_it_was_told_to_be_surprises(
    held_out: tuple[Surprise, Frame],
) -> None:
    surprise, frames = held_out
    for i in range(20):
        one = frames.rows(torch.tensor([i]))
        found = surprise.of(replace(one, told=one.told + 0.2), 10.0 * i)
        assert found.value > 1.0 and found.channel == 'body'


def test_what_is_compared_with_nothing_is_no_surprise_and_what_is_broken_is_one(
    held_out: tuple[Surprise, Frame],
) -> None:
    surprise, frames = held_out
    one = frames.rows(torch.tensor([0]))
    assert one.change is not None
    nothing = {
        field: getattr(one.change, field) * np.nan for field in ('cells', 'novelty', 'motion')
    }
    missing = replace(one, change=replace(one.change, **nothing))
    unseen = replace(one, change=None)
    assert surprise.of(missing, 10.0).value == surprise.of(unseen, 20.0).value < 1.0
    assert surprise.of(replace(one, z=one.z * np.nan), 30.0).value == np.inf
    assert surprise.of(unseen, 30.1).value < 1.0  # nor does it last


def test_what_goes_on_is_more_surprising_than_what_comes_once(
    held_out: tuple[Surprise, Frame],
) -> None:
    surprise, frames = held_out
    alone, again, late = [], [], []
    for i in range(40):
        one = frames.rows(torch.tensor([i]))
        odd = replace(one, z=one.z + 0.5 * (frames.z[i + 60 : i + 61] - one.z))
        alone.append(surprise.of(odd, 10.0 * i).value)
        again.append(surprise.of(odd, 10.0 * i + 0.1).value)
        late.append(surprise.of(odd, 10.0 * i + 0.4).value)
    assert alone == late
    assert all(a <= b for a, b in zip(alone, again, strict=True))
    assert np.median(again) > 1.05 * np.median(alone)


def test_each_channel_has_words_for_people() -> None:
    pytest.importorskip('rclpy')
    from jepa_arm.nodes.telling import SURPRISES

    assert set(SURPRISES) == set(CHANNELS)


def test_the_same_seed_teaches_the_same(tmp_path: Path, folder: Path, data: Path) -> None:
    short = replace(CONFIG, push_updates=5, state_steps=5, steps=5, body_steps=5, view_steps=5)
    reports = []
    for name in ('first', 'second'):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        reports.append(train_belief(copy, data, short, seed=3, progress=False))
    assert reports[0] == reports[1]


def test_a_model_that_feels_no_joints_is_refused(tmp_path: Path, data: Path) -> None:
    normaliser = Normaliser(0.5, 0.1, (0.0,) * 8, (1.0,) * 8)
    model = build(synthetic.LEWM, EpisodeFile(data).contract, normaliser)
    about = {'training': {'seed': 0, 'config': {'held_out': 0.2}}}
    save_checkpoint(tmp_path / 'lewm', model, Probes(model.latent), about)
    with pytest.raises(CheckpointError, match='told of the joints'):
        train_belief(tmp_path / 'lewm', data, CONFIG, seed=0, progress=False)
    encoded = encode_frames(model.eval(), EpisodeFile(data))
    assert encoded.z.shape[1] == model.latent and encoded.features.shape[1] == 0


def test_all_frames_are_encoded_as_each_is(folder: Path, data: Path) -> None:
    checkpoint, episodes, rows = load_checkpoint(folder), EpisodeFile(data), [0, 700, -1]
    encoded = encode_frames(checkpoint.model, episodes)
    assert isinstance(checkpoint.model, WorldModel)
    with torch.inference_mode():
        seen = np.asarray(episodes.pixels[rows]), episodes.proprioception()[rows]
        z, features = checkpoint.model.encode_parts(*seen)
    np.testing.assert_allclose(encoded.z[rows], z, atol=0.05)
    np.testing.assert_allclose(encoded.features[rows], features, atol=0.05)


def test_a_loss_that_is_not_finite_ends_it_and_nothing_is_added(
    tmp_path: Path, folder: Path, data: Path
) -> None:
    shutil.copytree(folder, tmp_path / 'copy')
    before = (tmp_path / 'copy' / 'belief.safetensors').read_bytes()
    with pytest.raises(RuntimeError, match='expected a finite loss.*lower learning_rate'):
        train_belief(tmp_path / 'copy', data, replace(CONFIG, learning_rate=1e30), 0, False)
    assert (tmp_path / 'copy' / 'belief.safetensors').read_bytes() == before


def test_episodes_too_short_for_a_chain_are_refused(folder: Path, data: Path) -> None:
    with pytest.raises(DataError, match='more than 82 frames'):
        train_belief(folder, data, replace(CONFIG, chain_steps=40), seed=0, progress=False)


def test_a_broken_file_of_belief_heads_is_refused(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / 'copy')
    path = tmp_path / 'copy' / 'belief.safetensors'
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match='whole safetensors.*jepa-arm belief makes'):
        load_belief_heads(load_checkpoint(tmp_path / 'copy'))
