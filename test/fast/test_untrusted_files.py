"""Untrusted files: no code runs, no other file is read, memory stays bounded."""

import pickle
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from jepa_arm.config import ConfigError, GuardConfig, load
from jepa_arm.core import files as resources
from jepa_arm.datasets.episodes import DataError, EpisodeFile
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.model.checkpoint_files import CheckpointError
from jepa_arm.robot.arm import Arm, ArmError, read_urdf

SRC = Path(resources.__file__).parent
SHIPPED = resources.CHECKPOINTS / 'compact'
UNSAFE = (
    r'\bpickle\.(load|dump|Unpickler|Pickler)',
    r'torch\.load\((?!.*weights_only=True)',
    r'np\.(load|save)\(',
    r'allow_pickle',
    r'yaml\.(load|unsafe_load|full_load|load_all|Loader|UnsafeLoader|FullLoader)\b',
    r'(?<![.\w])(eval|exec)\(',
    r'shell=True',
    r'os\.(system|popen)\(',
    r'\b(marshal|shelve|joblib|dill)\b',
)


@pytest.mark.parametrize('pattern', UNSAFE)
def test_the_source_uses_no_loader_that_runs_code(pattern):
    found = [
        f'{path.name}:{number}: {line.strip()}'
        for path in sorted(SRC.rglob('*.py'))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(pattern, line)
    ]
    assert found == []


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, 'the code ran')


def test_a_pickle_in_a_checkpoint_is_refused_and_never_run(tmp_path):
    folder, evidence = tmp_path / 'checkpoint', tmp_path / 'evidence'
    pickle.loads(pickle.dumps(Attack(tmp_path / 'proof')))
    assert (tmp_path / 'proof').exists()  # the attack works where pickles are read
    for write in (
        lambda path: path.write_bytes(pickle.dumps(Attack(evidence))),
        lambda path: torch.save(Attack(evidence), path),
    ):
        shutil.copytree(SHIPPED, folder, dirs_exist_ok=True)
        write(folder / 'model.safetensors')
        with pytest.raises(CheckpointError, match='safetensors'):
            load_checkpoint(folder)
        assert not evidence.exists()


def test_a_checkpoint_of_a_giant_model_is_refused_before_it_is_built(tmp_path):
    folder = tmp_path / 'checkpoint'
    shutil.copytree(SHIPPED, folder)
    text = (folder / 'config.json').read_text()
    for key, value in (('encoder_width', 10**12), ('predictor_blocks', 10**9)):
        changed = re.sub(rf'"{key}": \d+', f'"{key}": {value}', text)
        assert changed != text
        (folder / 'config.json').write_text(changed)
        with pytest.raises(CheckpointError, match='expected'):
            load_checkpoint(folder)


@pytest.mark.parametrize('text', ['[' * 100_000, '{"a":' * 100_000, '1' * 11_000_000])
def test_a_checkpoint_with_an_abusive_config_is_refused(text, tmp_path):
    folder = tmp_path / 'checkpoint'
    shutil.copytree(SHIPPED, folder)
    (folder / 'config.json').write_text(text)
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)


LETTERS = 'abcdefghi'


def laughs(first, again):
    """Return nested references that expand to a billion items from a few hundred bytes."""
    pairs = zip(LETTERS, LETTERS[1:], strict=False)
    return first + ''.join(again.format(old=old, new=new) for old, new in pairs)


LAUGHS = laughs('a: &a [1, 1]\n', '{new}: &{new} [' + ', '.join(['*{old}'] * 10) + ']\n')


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        (LAUGHS, 'alias'),
        ('!!python/object/apply:os.system ["touch evidence"]', 'constructor'),
        ('[' * 50_000, 'YAML'),
        ('x' * 2_000_000, 'at most'),
        ('\x00', 'YAML'),
    ],
    ids=['billion laughs', 'object', 'deep', 'large', 'binary'],
)
def test_untrusted_yaml_is_refused(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'guard.yaml'
    path.write_text(text)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=expected):
        load(GuardConfig, path)
    assert time.monotonic() - began < 20.0 and not (tmp_path / 'evidence').exists()


def test_only_regular_files_are_read():
    with pytest.raises(ConfigError, match='plain file'):
        load(GuardConfig, Path('/dev/zero'))


@pytest.mark.parametrize('name', ['../setup.cfg', 'arms/../../setup.cfg', 'x' * 5000, 'a\0b'])
def test_names_cannot_leave_their_folder(name):
    with pytest.raises(FileNotFoundError):
        resources.config_path(name)


ENTITIES = """<?xml version="1.0"?>
<!DOCTYPE robot [{entities}]>
<robot name="r"><link name="base">{use}</link></robot>"""
URDFS = {
    'billion laughs': ENTITIES.format(
        entities=laughs('<!ENTITY a "ha">', '<!ENTITY {new} "' + '&{old};' * 10 + '">'), use='&i;'
    ),
    'external entity': ENTITIES.format(
        entities='<!ENTITY x SYSTEM "file:///etc/passwd">', use='&x;'
    ),
    'mesh outside': '<robot name="r"><link name="base"><collision><geometry>'
    '<mesh filename="package://arm/../../../etc/passwd"/></geometry></collision></link></robot>',
    'large': '<robot>' + ' ' * 11_000_000 + '</robot>',
}


@pytest.mark.parametrize('text', URDFS.values(), ids=URDFS.keys())
def test_untrusted_urdf_is_refused(text, tmp_path):
    path = tmp_path / 'arm.urdf'
    path.write_text(text)
    with pytest.raises(ArmError, match='expected'):
        read_urdf(str(path))


@pytest.mark.parametrize('content', [b'\xff\xfe<\x00r\x00', b'not xml', b''])
def test_a_file_that_is_not_urdf_is_refused(content, tmp_path, arm_config):
    path = tmp_path / 'arm.urdf'
    path.write_bytes(content)
    with pytest.raises(ArmError):
        Arm(replace(arm_config, urdf=str(path)))


def test_xacro_is_not_expanded(tmp_path):
    """Xacro reads other files and evaluates expressions."""
    path = tmp_path / 'arm.urdf.xacro'
    path.write_text(
        '<robot name="r" xmlns:xacro="http://www.ros.org/wiki/xacro">'
        '<xacro:include filename="/etc/passwd"/></robot>'
    )
    with pytest.raises(ArmError, match='programs'):
        read_urdf(str(path))
    link = tmp_path / 'linked.xacro'
    link.symlink_to(resources.urdf_path('panda.urdf.xacro'))
    (tmp_path / 'franka.xacro').write_text(path.read_text())  # beside the link: never included
    assert 'panda_joint7' in read_urdf(str(link))


@pytest.fixture
def episodes(tmp_path, arm_config, sim_config):
    """A complete episode file of two short episodes."""
    from jepa_arm.datasets.episodes import EpisodeWriter
    from jepa_arm.robot.action_space import make_contract

    contract, path = make_contract(arm_config, sim_config.time), tmp_path / 'play.h5'
    h, w = contract.camera.height, contract.camera.width
    with EpisodeWriter(path, [3, 3], contract, 0) as writer:
        for _ in range(2):
            writer.append(
                {
                    'pixels': np.zeros((3, h, w, 3), np.uint8),
                    'proprio': np.zeros((3, len(contract.joints))),
                    'action': np.zeros((2, contract.action_width)),
                    'tip_position': np.zeros((3, 3)),
                    'tip_target': np.zeros((3, 3)),
                    'object_position': np.zeros((3, 3)),
                    'object_yaw': np.zeros(3),
                    'contact': np.zeros(3, bool),
                }
            )
    assert len(EpisodeFile(path)) == 2
    return path


def external_link(file, path):
    del file['proprio']
    file['proprio'] = h5py.ExternalLink(str(path.with_name('other.h5')), '/proprio')


def soft_link(file, path):
    del file['proprio']
    file['proprio'] = h5py.SoftLink('/tip_position')


def external_storage(file, path):
    shape = file['proprio'].shape
    del file['proprio']
    secret = path.with_name('secret')
    secret.write_bytes(b'\0' * 4 * int(np.prod(shape)))
    file.create_dataset(
        'proprio', shape, np.float32, external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
    )


def virtual(file, path):
    shape = file['proprio'].shape
    del file['proprio']
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[:] = h5py.VirtualSource(str(path.with_name('other.h5')), 'proprio', shape)
    file.create_virtual_dataset('proprio', layout)


def bomb(file, path):
    """A few kB on disk, terabytes when read."""
    del file['ep_len']
    file.create_dataset('ep_len', (10**12,), np.int64, chunks=(10**6,), compression='gzip')


def texts(file, path):
    del file['ep_len']
    file['ep_len'] = ['three', 'three']


def deep_attribute(file, path):
    file.attrs['contract'] = '[' * 60_000


@pytest.mark.parametrize(
    'spoil',
    [external_link, soft_link, external_storage, virtual, bomb, texts, deep_attribute],
    ids=lambda f: f.__name__,
)
def test_an_episode_file_with_links_or_huge_arrays_is_refused(spoil, episodes):
    shutil.copy(episodes, episodes.with_name('other.h5'))
    with h5py.File(episodes, 'r+') as file:
        spoil(file, episodes)
    with pytest.raises(DataError, match='expected'):
        EpisodeFile(episodes)


def test_a_truncated_episode_file_is_refused(episodes):
    data = episodes.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        episodes.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(DataError):
            EpisodeFile(episodes)
