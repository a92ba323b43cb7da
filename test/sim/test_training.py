"""Training on a toy world: it learns, resumes exactly, and ships nothing that fails its gates."""

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import synthetic
from jepa_arm.config import ModelFile, PredictorConfig, to_dict
from jepa_arm.data.episodes import DataError, EpisodeFile, EpisodeWriter
from jepa_arm.model.checkpoint import CheckpointError, fingerprint, load_checkpoint
from jepa_arm.model.gates import GateError, format_report, prediction_report
from jepa_arm.model.networks import Predictor
from jepa_arm.model.world_model import WorldModel, encode_all
from jepa_arm.training.loop import train_world_model
from jepa_arm.training.predictor import teach_predictor
from jepa_arm.training.readout import (
    SUBJECTS,
    drawn,
    fit_probes,
    format_probes,
    held_out_windows,
    train_probes,
)
from jepa_arm.training.run import TrainingError

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def data(toy_data: Path) -> Path:
    return toy_data


def steps(config: ModelFile, count: int, **values: object) -> ModelFile:
    return replace(config, train=replace(config.train, steps=count, **values))


def rows(out: Path) -> list[dict]:
    lines = (out / 'metrics.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(out: Path) -> list[tuple[int, float]]:
    return [(row['step'], row['train/loss']) for row in rows(out)]


def test_a_short_run_passes_its_gates_and_ships_a_checkpoint(toy_run: Path) -> None:
    checkpoint = load_checkpoint(toy_run / 'checkpoint')
    gates = checkpoint.info['gates']
    assert gates['failures'] == []
    assert gates['mse'][0] < 0.2 * gates['persistence_mse'][0]
    assert gates['shuffled_mse'] > 2 * gates['mse'][0]
    assert gates['probes']['tip_target']['median_cm'] < 10.0  # the range is 200 cm
    assert 'all passed' in format_report(gates)
    assert checkpoint.info['training']['seed'] == 0
    assert {'val/pred_loss', 'train/frames_per_s'} <= set(rows(toy_run)[-1])


def test_a_predictor_learns_on_frozen_latents_alone(data: Path, toy_run: Path) -> None:
    checkpoint, episodes = load_checkpoint(toy_run / 'checkpoint'), EpisodeFile(data)
    assert checkpoint.info['training']['predictor'] == to_dict(synthetic.PREDICTOR)
    model, (training, held_out) = checkpoint.model, episodes.split(0, 0.2)
    assert isinstance(model, WorldModel)
    latents = encode_all(model, episodes.pixels, episodes.proprioception())
    encoder = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    windows = held_out_windows(model, episodes, latents, held_out, seed=0)
    model.predictor = Predictor(model.config, model.block_width)
    shares = []
    for count in (1, 150):
        config = PredictorConfig(count, batch=32, window=5, learning_rate=5e-3)
        teach_predictor(model, episodes, latents, training, config, seed=0, progress=False)
        report = prediction_report(model, windows, 3, seed=0)
        shares.append(np.divide(report['mse'], report['persistence_mse']))
    assert (shares[0] > 1.0).all() and (shares[1] < 0.4).all()
    assert all(value.equal(encoder[name]) for name, value in model.encoder.state_dict().items())
    assert not any(p.requires_grad for p in model.parameters())


def test_a_run_ends_with_a_page_whose_worst_windows_come_first(toy_run: Path) -> None:
    page = (toy_run / 'report.html').read_text()
    assert page.count('<svg') == 4 and 'all passed' in page
    errors = [float(e) for e in re.findall(r': error ([0-9.]+) at the end', page)]
    assert len(errors) == page.count('<figure><img') == 12
    assert errors[0] == max(errors) and errors[:6] == sorted(errors[:6], reverse=True)
    assert errors[5] > errors[6]


def test_an_untrained_model_fails_its_gates_and_ships_nothing(tmp_path: Path, data: Path) -> None:
    with pytest.raises(GateError, match='persistence'):
        train_world_model(data, tmp_path, steps(synthetic.TOY, 2), seed=0, progress=False)
    assert 'FAILED' in (tmp_path / 'report.html').read_text()
    assert not (tmp_path / 'checkpoint').exists()
    assert json.loads((tmp_path / 'gates.json').read_text())['failures']


def test_curves_without_their_package_are_refused_before_the_first_step(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    with pytest.raises(TrainingError, match=r'pip install -e "\.\[curves\]"'):
        train_world_model(data, tmp_path, synthetic.TOY, seed=0, progress=False, curves=True)
    assert not (tmp_path / 'metrics.jsonl').exists()


@pytest.mark.parametrize('toy', [synthetic.TOY, synthetic.TOY_LEWM], ids=['compact', 'lewm'])
def test_an_interrupted_run_goes_on_with_the_same_losses(
    tmp_path: Path, data: Path, toy: ModelFile
) -> None:
    """With dropout, too: a resumed run drops what the whole one drops."""
    config = steps(toy, 8)
    with pytest.raises(GateError):
        train_world_model(data, tmp_path / 'whole', config, seed=0, progress=False)
    for _ in range(8):
        with pytest.raises((TrainingError, GateError)) as caught:  # one step a call
            train_world_model(
                data, tmp_path / 'pieces', config, seed=0, progress=False, max_minutes=0.0
            )
    assert caught.type is GateError
    assert losses(tmp_path / 'pieces') == losses(tmp_path / 'whole')


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import synthetic, torch
from jepa_arm.training.loop import train_world_model
torch.set_num_threads(1)
train = replace(synthetic.TRAIN, steps=40, save_every_s=0.0)
config = replace(synthetic.TOY, train=train)
train_world_model(Path(sys.argv[1]), Path(sys.argv[2]), config, seed=0, progress=False)
"""


def test_a_killed_run_goes_on_exactly(tmp_path: Path, data: Path) -> None:
    """The moments of channels-last weights once came back in another memory layout."""
    here = str(Path(synthetic.__file__).parent)
    command = [sys.executable, '-c', KILLED, str(data), str(tmp_path / 'killed'), here]
    process = subprocess.Popen(command)
    state = tmp_path / 'killed' / 'training_state.safetensors'
    deadline = time.monotonic() + 60
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len((tmp_path / 'killed' / 'metrics.jsonl').read_text().splitlines()) < 40
    config = steps(synthetic.TOY, 40, save_every_s=0.0)
    for name in ('killed', 'whole'):
        try:
            train_world_model(data, tmp_path / name, config, seed=0, progress=False)
        except GateError:
            pass  # so few steps need not suffice
    assert [step for step, _ in losses(tmp_path / 'killed')] == list(range(40))
    assert losses(tmp_path / 'killed') == losses(tmp_path / 'whole')


def test_the_state_of_another_run_is_refused(tmp_path: Path, data: Path) -> None:
    config = steps(synthetic.TOY, 12)
    with pytest.raises(TrainingError, match='out of time'):
        train_world_model(data, tmp_path, config, seed=0, progress=False, max_minutes=0.0)
    with pytest.raises(TrainingError, match='other configuration, seed or data'):
        train_world_model(data, tmp_path, config, seed=1, progress=False)
    with pytest.raises(TrainingError, match='out of time'):
        train_world_model(
            data, tmp_path, config, seed=1, resume=False, progress=False, max_minutes=0.0
        )


def test_a_broken_state_is_refused(tmp_path: Path, data: Path) -> None:
    (tmp_path / 'training_state.safetensors').write_bytes(b'broken')
    with pytest.raises(CheckpointError, match='broken file'):
        train_world_model(data, tmp_path, synthetic.TOY, seed=0, progress=False)


def test_probes_are_taught_anew_alone_and_say_what_labels_are_worth(
    tmp_path: Path, data: Path, toy_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {'tip_target': (20, 1000), 'object_position': (20,)}
    monkeypatch.setattr('jepa_arm.training.readout.LABELS', labels)
    folder = shutil.copytree(toy_run / 'checkpoint', tmp_path / 'checkpoint')
    before = load_checkpoint(folder)
    train = replace(synthetic.TRAIN, probe_steps=150, pointer_steps=20)
    found = train_probes(folder, data, train, seed=0)
    after = load_checkpoint(folder)
    assert fingerprint(after.model) == fingerprint(before.model)
    assert fingerprint(after.probes) != fingerprint(before.probes)
    assert after.info['gates'] == before.info['gates'] | found
    few, more = (found['labels']['tip_target'][n]['median_cm'] for n in ('20', '1000'))
    assert found['probes']['tip_target']['median_cm'] < more < few
    lines = format_probes(found).splitlines()
    assert [line.split()[0] for line in lines] == ['labels', '20', '1000', 'as']
    assert found['labels']['object_position'].keys() == {'20'}


def write_stills(path: Path, play: Path, seed: int) -> Path:
    """Frames of the toy world that play has not, as stills of ``play``."""
    episodes, rng = EpisodeFile(play), np.random.default_rng(9)
    made = {'stills': {}, 'play': {'seed': episodes.seed, 'config': episodes.config}}
    made['held_out'] = synthetic.TRAIN.held_out
    with EpisodeWriter(path, [31] * 20, synthetic.CONTRACT, seed, made) as writer:
        for _ in range(20):
            writer.append(synthetic.episode(rng, 31))
    return path


def test_stills_go_into_the_probe_of_the_object_alone(
    tmp_path: Path, data: Path, toy_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('jepa_arm.training.readout.LABELS', dict.fromkeys(SUBJECTS, ()))
    folder = shutil.copytree(toy_run / 'checkpoint', tmp_path / 'checkpoint')
    stills, probes = write_stills(tmp_path / 'stills.h5', data, seed=0), []
    for more in (None, stills):
        train_probes(folder, data, synthetic.TRAIN, seed=0, stills=more)
        probes.append(load_checkpoint(folder).probes)
    without, taught = probes
    assert fingerprint(without.tip_target) == fingerprint(taught.tip_target)
    assert fingerprint(without.object_position) != fingerprint(taught.object_position)
    with pytest.raises(DataError, match='expected play, got stills'):
        train_world_model(stills, tmp_path / 'run', synthetic.TOY, seed=0, progress=False)
    with pytest.raises(DataError, match='expected play, got stills'):
        train_probes(folder, stills, synthetic.TRAIN, seed=0)


@pytest.mark.parametrize('made_for', ['another split', 'play itself'])
def test_stills_of_other_episodes_are_refused(
    tmp_path: Path, data: Path, toy_run: Path, made_for: str
) -> None:
    stills = data
    if made_for == 'another split':
        stills = write_stills(tmp_path / 'stills.h5', data, seed=1)
    with pytest.raises(DataError, match='expected stills of'):
        train_probes(toy_run / 'checkpoint', data, synthetic.TRAIN, seed=0, stills=stills)
    with pytest.raises(DataError, match='expected stills of'):  # before it has trained
        train_world_model(data, tmp_path / 'run', synthetic.TOY, seed=0, stills=stills)
    assert not (tmp_path / 'run' / 'metrics.jsonl').exists()


class FewLabels:
    """An episode file in which nobody knows where the object is but in ``rows``."""

    def __init__(self, episodes: EpisodeFile, rows: np.ndarray) -> None:
        self._episodes, truth = episodes, np.asarray(episodes.object_position)
        self.object_position = np.where(rows[:, None], truth, np.nan).astype(np.float32)

    def __getattr__(self, name: str) -> object:
        return getattr(self._episodes, name)


def test_where_few_labels_may_be_used_no_other_truth_teaches(data: Path, toy_run: Path) -> None:
    model, episodes = load_checkpoint(toy_run / 'checkpoint').model, EpisodeFile(data)
    latents = encode_all(model, episodes.pixels, episodes.proprioception(model.sees_velocity))
    train = replace(synthetic.TRAIN, probe_steps=60, pointer_steps=20, probe_labels=200)
    split, of_frame = episodes.split(0, train.held_out), episodes.episode_of_frames()
    training = np.isin(of_frame, split[0])
    known = ~training  # by which it is measured
    known[drawn(np.flatnonzero(training), 160, seed=0)] = True
    few = FewLabels(episodes, known)
    found = [fit_probes(e, latents, split, train, seed=0) for e in (episodes, few)]
    assert fingerprint(found[0][0]) == fingerprint(found[1][0])
    for name in SUBJECTS:
        told = [report[name] for _, report in found]
        assert told[0]['median_cm'] == told[1]['median_cm']
        assert 0.5 < told[0]['coverage_90'] <= 1.0
