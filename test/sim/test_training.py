"""Training on a toy world: it learns, resumes exactly, and saves nothing that fails its gates."""

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

import synthetic
from jepa_arm.config import ModelFile, PredictorConfig, to_dict
from jepa_arm.datasets.episodes import DataError, EpisodeFile, EpisodeWriter
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.model.checkpoint_files import CheckpointError, fingerprint
from jepa_arm.model.networks import Predictor
from jepa_arm.model.world_model import WorldModel
from jepa_arm.training.encoding import encode_for
from jepa_arm.training.fit import TrainingError
from jepa_arm.training.gates import (
    HORIZON,
    GateError,
    format_probe_errors,
    format_report,
    held_out_windows,
    prediction_report,
)
from jepa_arm.training.probes import (
    SUBJECTS,
    draw_frames,
    fit_probes,
    train_probes,
)
from jepa_arm.training.training_run import TrainingRun
from jepa_arm.training.world_model import RunOptions, train_predictor, train_world_model

pytestmark = pytest.mark.usefixtures('one_thread')
QUIET = RunOptions(seed=0)


@pytest.fixture(scope='module')
def data(toy_data: Path) -> Path:
    return toy_data


@pytest.fixture(scope='module')
def little_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of few episodes, for runs that need not learn anything."""
    return synthetic.write(tmp_path_factory.mktemp('little') / 'toy.h5', [31] * 30)


def steps(config: ModelFile, count: int, **values: object) -> ModelFile:
    return replace(config, train=replace(config.train, steps=count, **values))


def rows(out: Path) -> list[dict]:
    lines = (out / 'metrics.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(out: Path) -> list[tuple[int, float]]:
    return [(row['step'], row['train/loss']) for row in rows(out)]


def test_a_short_run_passes_its_gates_and_saves_a_checkpoint(toy_run: Path) -> None:
    checkpoint = load_checkpoint(toy_run / 'checkpoint')
    gates = checkpoint.info['gates']
    assert gates['failures'] == []
    assert gates['mse'][0] < 0.2 * gates['persistence_mse'][0]
    assert gates['shuffled_mse'] > 2 * gates['mse'][0]
    assert gates['probes']['tip_target']['median_cm'] < 10.0  # the range is 200 cm
    assert 'all passed' in format_report(gates)
    assert checkpoint.info['training']['seed'] == 0
    assert {'val/pred_loss', 'train/frames_per_s'} <= set(rows(toy_run)[-1])


def test_a_predictor_learns_on_frozen_latents_while_the_encoder_stays(
    data: Path, toy_run: Path
) -> None:
    checkpoint = load_checkpoint(toy_run / 'checkpoint')
    assert checkpoint.info['training']['predictor'] == to_dict(synthetic.PREDICTOR)
    model, encoded = checkpoint.model, encode_for(checkpoint, data)
    assert isinstance(model, WorldModel)
    encoder = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    windows = held_out_windows(model, encoded, HORIZON, seed=0)
    model.predictor = Predictor(model.config, model.block_width)
    shares = []
    for count in (1, 150):
        config = PredictorConfig(count, batch=32, window=5, learning_rate=5e-3)
        train_predictor(model, encoded, config, seed=0)
        report = prediction_report(model, windows, seed=0)
        shares.append(np.divide(report['mse'], report['persistence_mse']))
    assert (shares[0] > 1.0).all() and (shares[1] < 0.4).all()
    assert all(value.equal(encoder[name]) for name, value in model.encoder.state_dict().items())
    assert not any(p.requires_grad for p in model.parameters())


def test_the_report_of_a_run_shows_the_worst_windows_first(toy_run: Path) -> None:
    page = (toy_run / 'report.html').read_text()
    assert page.count('<svg') == 4 and 'all passed' in page
    errors = [float(e) for e in re.findall(r': error ([0-9.]+) at the end', page)]
    assert len(errors) == page.count('<figure><img') == 12
    assert errors[0] == max(errors) and errors[:6] == sorted(errors[:6], reverse=True)
    assert errors[5] > errors[6]


def test_an_untrained_model_fails_its_gates_and_saves_no_checkpoint(
    tmp_path: Path, little_data: Path
) -> None:
    with pytest.raises(GateError, match='persistence'):
        train_world_model(little_data, tmp_path, steps(synthetic.TOY, 2), QUIET)
    assert 'FAILED' in (tmp_path / 'report.html').read_text()
    assert not (tmp_path / 'checkpoint').exists()
    assert json.loads((tmp_path / 'gates.json').read_text())['failures']


def test_a_missing_tensorboard_is_reported_before_the_first_step(
    tmp_path: Path, little_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    with pytest.raises(TrainingError, match=r'pip install -e "\.\[curves\]"'):
        train_world_model(little_data, tmp_path, synthetic.TOY, replace(QUIET, tensorboard=True))
    assert not (tmp_path / 'metrics.jsonl').exists()


@pytest.fixture
def stops_after_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run is interrupted as soon as it has saved its state, but for the last step's."""
    save = TrainingRun.save

    def save_and_stop(run: TrainingRun) -> None:
        save(run)
        if run.step < run.config.train.steps:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingRun, 'save', save_and_stop)


@pytest.mark.usefixtures('stops_after_saving')
@pytest.mark.parametrize('toy', [synthetic.TOY, synthetic.TOY_LEWM], ids=['compact', 'lewm'])
def test_an_interrupted_run_continues_with_the_same_losses(
    tmp_path: Path, little_data: Path, toy: ModelFile
) -> None:
    """This includes dropout, whose masks depend on the step alone."""
    config = steps(toy, 5)
    with pytest.raises(GateError):
        train_world_model(little_data, tmp_path / 'whole', config, QUIET)
    config = steps(toy, 5, save_every_s=0.0)
    for _ in range(5):
        with pytest.raises((KeyboardInterrupt, GateError)) as caught:  # one step a call
            train_world_model(little_data, tmp_path / 'pieces', config, QUIET)
    assert caught.type is GateError
    assert losses(tmp_path / 'pieces') == losses(tmp_path / 'whole')


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import synthetic, torch
from jepa_arm.training.world_model import RunOptions, train_world_model
torch.set_num_threads(1)
train = replace(synthetic.TRAIN, steps=25, save_every_s=0.0)
config = replace(synthetic.TOY, train=train)
train_world_model(Path(sys.argv[1]), Path(sys.argv[2]), config, RunOptions(0))
"""


def test_a_killed_run_continues_exactly(tmp_path: Path, little_data: Path) -> None:
    """The moments of channels-last weights must return in the same memory layout."""
    here = str(Path(synthetic.__file__).parent)
    command = [sys.executable, '-c', KILLED, str(little_data), str(tmp_path / 'killed'), here]
    process = subprocess.Popen(command)
    state = tmp_path / 'killed' / 'training_state.safetensors'
    deadline = time.monotonic() + 200
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len((tmp_path / 'killed' / 'metrics.jsonl').read_text().splitlines()) < 25
    config = steps(synthetic.TOY, 25, save_every_s=0.0)
    for name in ('killed', 'whole'):
        try:
            train_world_model(little_data, tmp_path / name, config, QUIET)
        except GateError:
            pass  # so few steps may not be enough
    assert [step for step, _ in losses(tmp_path / 'killed')] == list(range(25))
    assert losses(tmp_path / 'killed') == losses(tmp_path / 'whole')


@pytest.mark.usefixtures('stops_after_saving')
def test_the_state_of_another_run_is_refused(tmp_path: Path, little_data: Path) -> None:
    config = steps(synthetic.TOY, 12, save_every_s=0.0)
    with pytest.raises(KeyboardInterrupt):
        train_world_model(little_data, tmp_path, config, QUIET)
    other = replace(QUIET, seed=1)
    with pytest.raises(TrainingError, match='other configuration, seed or data'):
        train_world_model(little_data, tmp_path, config, other)
    with pytest.raises(KeyboardInterrupt):
        train_world_model(little_data, tmp_path, config, replace(other, resume=False))


def test_a_broken_state_is_refused(tmp_path: Path, little_data: Path) -> None:
    (tmp_path / 'training_state.safetensors').write_bytes(b'broken')
    with pytest.raises(CheckpointError, match='broken file'):
        train_world_model(little_data, tmp_path, synthetic.TOY, QUIET)


def test_new_probes_replace_the_old_ones_and_leave_the_model_as_it_is(
    tmp_path: Path, data: Path, toy_run: Path
) -> None:
    folder = shutil.copytree(toy_run / 'checkpoint', tmp_path / 'checkpoint')
    before = load_checkpoint(folder)
    train = replace(synthetic.TRAIN, probe_steps=150, tip_probe_steps=150)
    errors = train_probes(folder, data, train, seed=0)
    after = load_checkpoint(folder)
    assert fingerprint(after.model) == fingerprint(before.model)
    assert fingerprint(after.probes) != fingerprint(before.probes)
    assert after.info['gates'] == before.info['gates'] | {'probes': errors}
    assert errors['tip_target']['median_cm'] < 20.0  # of a range of 200 cm
    assert len(format_probe_errors(errors).splitlines()) == len(SUBJECTS)


def write_rendered_scenes(path: Path, play: Path, seed: int) -> Path:
    """Write frames of the toy world that are not in ``play``, as scenes rendered for it."""
    episodes, rng = EpisodeFile(play), np.random.default_rng(9)
    made = {'rendered_scenes': {}, 'play': {'seed': episodes.seed, 'config': episodes.config}}
    made['held_out'] = synthetic.TRAIN.held_out
    with EpisodeWriter(path, [31] * 20, synthetic.CONTRACT, seed, made) as writer:
        for _ in range(20):
            writer.append(synthetic.episode(rng, 31))
    return path


def test_rendered_scenes_train_the_probe_of_the_object_only(
    tmp_path: Path, data: Path, toy_run: Path
) -> None:
    folder = shutil.copytree(toy_run / 'checkpoint', tmp_path / 'checkpoint')
    scenes, probes = write_rendered_scenes(tmp_path / 'scenes.h5', data, seed=0), []
    for more in (None, scenes):
        train_probes(folder, data, synthetic.TRAIN, seed=0, rendered_scenes=more)
        probes.append(load_checkpoint(folder).probes)
    without, trained = probes
    assert fingerprint(without.tip_target) == fingerprint(trained.tip_target)
    assert fingerprint(without.object_position) != fingerprint(trained.object_position)
    with pytest.raises(DataError, match='expected play'):
        train_world_model(scenes, tmp_path / 'run', synthetic.TOY, QUIET)
    with pytest.raises(DataError, match='expected play'):
        train_probes(folder, scenes, synthetic.TRAIN, seed=0)


@pytest.mark.parametrize('made_for', ['another split', 'play itself'])
def test_scenes_rendered_for_other_episodes_are_refused(
    tmp_path: Path, data: Path, toy_run: Path, made_for: str
) -> None:
    scenes = data
    if made_for == 'another split':
        scenes = write_rendered_scenes(tmp_path / 'scenes.h5', data, seed=1)
    with pytest.raises(DataError, match='scenes rendered for'):
        train_probes(toy_run / 'checkpoint', data, synthetic.TRAIN, 0, rendered_scenes=scenes)
    options = replace(QUIET, rendered_scenes=scenes)
    with pytest.raises(DataError, match='scenes rendered for'):  # before the first step
        train_world_model(data, tmp_path / 'run', synthetic.TOY, options)
    assert not (tmp_path / 'run' / 'metrics.jsonl').exists()


class FewLabels:
    """Episode file in which the object's position is known in ``rows`` only."""

    def __init__(self, episodes: EpisodeFile, rows: np.ndarray) -> None:
        self._episodes, truth = episodes, np.asarray(episodes.object_position)
        self.object_position = np.where(rows[:, None], truth, np.nan).astype(np.float32)

    def __getattr__(self, name: str) -> object:
        return getattr(self._episodes, name)


def test_probes_trained_with_few_labels_use_no_other_ground_truth(
    data: Path, toy_run: Path
) -> None:
    encoded = encode_for(load_checkpoint(toy_run / 'checkpoint'), data)
    train = replace(synthetic.TRAIN, probe_steps=60, localiser_steps=20, probe_labels=200)
    is_training = encoded.frames_of(encoded.training)
    is_known = ~is_training  # by which it is measured
    is_known[draw_frames(np.flatnonzero(is_training), 160, seed=0)] = True
    few = cast('EpisodeFile', FewLabels(encoded.episodes, is_known))
    (probes, report), (same, again) = (
        fit_probes(replace(encoded, episodes=episodes), train, seed=0)
        for episodes in (encoded.episodes, few)
    )
    assert fingerprint(probes) == fingerprint(same)
    for name in SUBJECTS:
        assert report[name]['median_cm'] == again[name]['median_cm']
        assert 0.5 < report[name]['coverage_90'] <= 1.0
