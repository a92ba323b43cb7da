"""Command line: clear failures, refused options, examples that parse."""

import argparse
import json
import os
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from jepa_arm.cli.main import CommandLine, main
from jepa_arm.config import ConfigError
from jepa_arm.core.files import config_path
from jepa_arm.ros.runtime.environment import LOCAL_PROFILE, choose_network, limit_discovery

pytest.importorskip('pybullet', reason='PyBullet has no wheel for this Python')


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (['eval', '--task', 'push', '--checkpoint', 'nowhere'], 'nowhere'),
        (['bench', 'sim', '--arm', 'pandora'], 'panda.yaml'),
        (['eval', '--task', 'push', '--blackout', '100%', '1'], '1% to 99%'),
        (['eval', '--task', 'push', '--blackout', 'soon', '1'], 'BEGIN > 0 s'),
        (['eval', '--task', 'push', '--delay', '-5'], '0 to 300 ms'),
        (['eval', '--task', 'push', '--delay', '310'], '0 to 300 ms'),
        (['train', '--data', 'missing.h5', '--out', 'run'], 'missing.h5'),
        (['train', '--only', 'probes', '--data', 'missing.h5'], 'missing.h5'),
        ('train --only probes --data x.h5 --labels 500 --scenes y.h5'.split(), 'both'),
        (['train', '--only', 'actor-critic', '--data', 'missing.h5'], 'missing.h5'),
        (['train', '--only', 'pose', '--data', 'missing.h5'], 'missing.h5'),
        (['train', '--data', 'x.h5', '--out', 'run', '--model', 'huge'], 'compact.yaml'),
        (['data', 'render', '--data', 'missing.h5', '--out', 'scenes.h5'], 'missing.h5'),
        (['up', '--arm', 'pandora'], 'panda.yaml'),
        (['up', '--task', 'juggle'], 'push.yaml'),
        (['up', '--checkpoint', 'nowhere'], 'nowhere'),
        (['up', '--controller', 'effort'], 'forward_velocity'),
        (['up', '--domain-id', '233'], '0 to 232'),
        (['up', '--params-file', 'nowhere.yaml'], 'no nowhere.yaml'),
        (['up', '--discovery-range', 'PLANET'], 'SUBNET'),
        (['up', '--discovery-range', 'OFF'], 'would not find each other'),
        (['record', '--domain-id', '233'], '0 to 232'),
    ],
)
def test_bad_names_are_one_clear_line(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip()
    assert expected in error
    assert 'Traceback' not in error
    assert not list(tmp_path.rglob('*.safetensors'))


def test_help_names_what_there_is_and_no_empty_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(['up', '--help'])
    output = ' '.join(capsys.readouterr().out.split())
    for empty in ('(default: )', '(default: None)', '(default: False)'):
        assert empty not in output
    for name in ('xarm6', 'avoid_push', 'forward_velocity', '(default: push)'):
        assert name in output


def test_the_graph_leaves_the_machine_only_when_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('ROS_DOMAIN_ID', '3')
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    choose_network(None, None)
    assert os.environ['ROS_DOMAIN_ID'] == '3'
    assert os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
    choose_network(7, 'SUBNET')
    assert os.environ['ROS_DOMAIN_ID'] == '7'
    assert os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'SUBNET'
    monkeypatch.setenv('ROS_LOCALHOST_ONLY', '1')
    with pytest.raises(ConfigError, match='ROS_LOCALHOST_ONLY'):
        choose_network(None, 'SUBNET')


@pytest.mark.parametrize(
    ('rclpy', 'set_before', 'localhost_only'),
    [
        ('3.3.15', {}, '1'),
        ('3.3.15', {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'}, None),
        ('3.3.15', {'ROS_LOCALHOST_ONLY': '0'}, '0'),
        ('7.1.6', {}, None),
    ],
)
def test_humble_is_kept_on_this_machine_by_the_variable_that_it_knows(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    rclpy: str,
    set_before: dict[str, str],
    localhost_only: str | None,
) -> None:
    (tmp_path / 'rclpy').mkdir()
    (tmp_path / 'rclpy/__init__.py').touch()
    about = tmp_path / f'rclpy-{rclpy}-py3.10.egg-info'
    about.mkdir()
    (about / 'PKG-INFO').write_text(f'Name: rclpy\nVersion: {rclpy}\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, 'rclpy', raising=False)
    for name in ('ROS_AUTOMATIC_DISCOVERY_RANGE', 'ROS_LOCALHOST_ONLY'):
        monkeypatch.setenv(name, '')  # so that it is put back afterwards
        monkeypatch.delenv(name)
    for name, value in set_before.items():
        monkeypatch.setenv(name, value)
    limit_discovery()
    assert os.environ.get('ROS_LOCALHOST_ONLY') == localhost_only


def test_the_two_profiles_of_fast_dds_find_and_remember_alike() -> None:
    local, wide = (ElementTree.parse(config_path(n)) for n in (LOCAL_PROFILE, 'fastdds.xml'))
    for part in ('library_settings', 'discovery_config', 'data_writer', 'data_reader'):
        ours, theirs = (profile.find(f'.//{{*}}{part}') for profile in (local, wide))
        assert ours is not None and theirs is not None
        assert ElementTree.tostring(ours) == ElementTree.tostring(theirs)


def test_the_scripted_planner_needs_no_checkpoint_and_takes_an_arm_of_ones_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = config_path('arms/ur5e.yaml').read_text()
    (tmp_path / 'mine.yaml').write_text(text.replace('name: ur5e', 'name: mine'))
    monkeypatch.chdir(tmp_path)
    words = 'eval --task reach --planner scripted --episodes 1 --seed 50000 --arm'.split()
    assert main([*words, 'mine.yaml', '--json', 'report.json', '--html', 'page']) == 0
    assert list(Path('page').glob('*.webp'))
    assert '100.0%' in capsys.readouterr().out
    report = json.loads(Path('report.json').read_text())
    assert report['planner'] == 'scripted' and report['distance_cm']['p99'] < 1.0
    assert main([*words, 'yours.yaml']) == 1
    assert 'yours.yaml' in capsys.readouterr().err


def test_the_model_of_another_arm_is_refused_with_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main('eval --task reach --episodes 1 --seed 50000 --arm ur5e'.split()) == 1
    error = capsys.readouterr().err
    assert 'arm: trained with panda, here ur5e' in error
    assert 'jepa-arm train --arm ur5e' in error


def test_a_data_file_that_is_no_hdf5_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / 'play.h5'
    path.write_bytes(b'not HDF5')
    assert main(['train', '--data', str(path), '--out', str(tmp_path / 'run')]) == 1
    assert 'play.h5' in capsys.readouterr().err


def test_collecting_does_not_overwrite(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / 'play.h5'
    path.write_bytes(b'precious')
    assert main(['data', 'collect', '--out', str(path), '--episodes', '2']) == 1
    assert path.read_bytes() == b'precious'


@pytest.mark.parametrize(
    ('arguments', 'option'),
    [
        ('eval --task push --ros --planner cem', '--planner'),
        ('eval --task push --ros --blackout 1 1', '--blackout'),
        ('eval --task push --planner random --blackout 1 1', '--blackout'),
        ('eval --task push --planner scripted --checkpoint compact', '--checkpoint'),
        ('eval --task push --unknown-delay', '--unknown-delay'),
        ('up --no-planner --dry-run', '--dry-run'),
        ('train --labels 100', '--labels'),
        ('train --scenes scenes.h5', '--scenes'),
        ('train --only belief --data play.h5 --steps 10', '--steps'),
        ('train --only belief --data play.h5 --page page.html', '--page'),
        ('train --only belief', '--only'),
    ],
)
def test_an_option_without_effect_is_refused_by_name(
    arguments: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 1
    assert f'{option}:' in capsys.readouterr().err


def test_a_verb_takes_no_option_that_it_does_not_use() -> None:
    with pytest.raises(SystemExit):
        main('bench ros --arm ur5e'.split())


def test_every_example_parses_and_every_verb_has_one() -> None:
    command_line = CommandLine()
    assert len(command_line.examples) > 20
    for example in command_line.examples:
        assert command_line.parser.parse_args(example.split()[1:]).run


def test_a_bug_keeps_its_traceback_and_an_error_of_the_user_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: Exception) -> None:
        def load_simulation(args: argparse.Namespace) -> None:
            raise error

        monkeypatch.setattr('jepa_arm.cli.options.simulation', load_simulation)

    fail(ValueError('a bug'))
    with pytest.raises(ValueError, match='a bug'):
        main(['bench', 'sim'])
    fail(ConfigError('expected another value'))
    assert main(['bench', 'sim']) == 1
    assert capsys.readouterr().err == 'jepa-arm bench: expected another value\n'
    with pytest.raises(ConfigError):
        main(['--traceback', 'bench', 'sim'])


@pytest.mark.parametrize('arguments', [['eval', '--task', 'push', '--episodes', '0'], ['juggle']])
def test_bad_arguments_end_with_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert 'usage' in capsys.readouterr().err
