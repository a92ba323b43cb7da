"""Recordings: written atomically, recovered, read, and replayed to the same decisions."""

import json
from dataclasses import replace

import numpy as np
import pytest
import zstandard
from mcap.records import Channel, Chunk, Message, Schema
from mcap.writer import CompressionType
from mcap_ros2.writer import Writer

from jepa_arm.agent.agent import Agent
from jepa_arm.cli.main import main
from jepa_arm.config import PlannerConfig, WristCameraConfig, load
from jepa_arm.core.files import checkpoint_path, config_path
from jepa_arm.datasets.mcap_file import (
    DEFAULT_TOPIC_KEY,
    McapWriter,
    RecordingError,
    read_records,
    recover,
)
from jepa_arm.datasets.recording import PlannerState
from jepa_arm.datasets.recording_reader import read_recording
from jepa_arm.evaluation.replay import DEADLINE_CAUSE, Replay, compare, format_replay
from jepa_arm.model.checkpoint import load_checkpoint
from recorded import LATE_STEP, POSITION, STEPS, WRIST_ROWS, SessionOptions, write_session

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def checkpoint():
    return load_checkpoint(checkpoint_path('compact'))


@pytest.fixture(scope='module')
def shipped():
    return load(PlannerConfig, config_path('planner.yaml'))


@pytest.fixture(scope='module')
def config(shipped):
    """In torch: what is compiled takes seconds for each agent, and decides no other way."""
    return replace(shipped, backend='torch')


@pytest.fixture(scope='module')
def session(tmp_path_factory, arm, checkpoint, config, one_thread):
    """A recorded file and the observations and proposals in it."""
    path = tmp_path_factory.mktemp('recording') / 'a.mcap'
    return path, write_session(path, (arm, checkpoint, config))


def test_a_recording_contains_the_observations_and_proposals_of_each_step(
    session, arm, arm_config
):
    path, seen = session
    recording = read_recording(path, arm.joint_names, arm_config.camera)
    assert len(recording.steps) == STEPS and not recording.unplanned_images
    for step, (observation, sent) in zip(recording.steps, seen, strict=True):
        assert np.array_equal(step.observation.image, observation.image)
        assert np.allclose(step.observation.joints, observation.joints, atol=1e-9)
        assert np.array_equal(step.proposal.positions, sent.positions)
        assert step.state is PlannerState.PLANNING
    assert np.array_equal(recording.goals[0].position, POSITION)


def test_the_wrist_image_is_appended_below_each_image(
    session, tmp_path, arm, arm_config, checkpoint, config
):
    path, seen = session
    wrist = WristCameraConfig(WRIST_ROWS, 50.0, (-0.1, 0.0, -0.1), (0.0, 0.0, 0.0), 'wrist')
    camera = replace(arm_config.camera, wrist=wrist)
    recording = read_recording(path, arm.joint_names, camera)
    for step, (observation, _) in zip(recording.steps, seen, strict=True):
        image = observation.image
        assert np.array_equal(step.observation.image, np.concatenate([image, image[:WRIST_ROWS]]))
    large = replace(camera, wrist=replace(wrist, height=2 * WRIST_ROWS))
    with pytest.raises(RecordingError, match='another arm or camera'):
        read_recording(path, arm.joint_names, large)
    without = tmp_path / 'without.mcap'
    write_session(without, (arm, checkpoint, config), leave_out=('wrist_camera/image_raw',))
    steps = read_recording(without, arm.joint_names, camera).steps
    assert {step.missing for step in steps} == {'its image'}


def test_remapped_topics_are_read_in_place_of_the_default_ones(session, tmp_path, arm, arm_config):
    other = {'/camera/image_raw': '/cam/rgb', '/joint_states': '/robot/joint_states'}
    path, schemas, channels = tmp_path / 'remapped.mcap', {}, {}
    out = McapWriter(path)
    with session[0].open('rb') as stream:
        for record in read_records(stream):
            if isinstance(record, Schema):
                schemas[record.id] = record.name, record.data.decode()
            elif isinstance(record, Channel) and record.id not in channels:
                usual, schema = record.topic, schemas[record.schema_id]
                known = {DEFAULT_TOPIC_KEY: usual} if usual in other else {}
                channels[record.id] = out.add_topic(other.get(usual, usual), *schema, known)
                other_node = out.add_topic(usual, *schema, {}) if known else None
            elif isinstance(record, Message):
                if other_node is not None:  # of another node, on a default name
                    out.write(other_node, record.data, record.log_time, record.publish_time + 10)
                number = channels[record.channel_id]
                out.write(number, record.data, record.log_time, record.publish_time)
                other_node = None
    out.finish()
    here, there = (
        read_recording(p, arm.joint_names, arm_config.camera) for p in (session[0], path)
    )
    assert len(there.steps) == STEPS and not there.unplanned_images
    for a, b in zip(here.steps, there.steps, strict=True):
        assert np.array_equal(a.observation.image, b.observation.image)
        assert np.array_equal(a.observation.joints, b.observation.joints)


def test_only_an_unchanged_planner_makes_the_recorded_decisions(
    session, arm, arm_config, checkpoint, config
):
    recording = read_recording(session[0], arm.joint_names, arm_config.camera)
    reports = []
    for planner, seed in ((config, 0), (replace(config, noise_std=0.1), 0), (config, 1)):
        run = Replay(recording, Agent(checkpoint, arm, planner, seed), arm)
        reports.append(compare(recording, run.run(), run.goals, arm))
    same, other, reseeded = reports
    assert same['passed'] and same['equal'] == same['compared'] == STEPS
    assert same['tip_cm']['max'] < 0.01
    for changed in (other, reseeded):
        assert not changed['passed'] and changed['equal_share'] < 0.5
        assert changed['tip_cm']['max'] > 0.1


def test_a_goal_older_than_the_recording_is_not_compared(
    tmp_path, arm, arm_config, checkpoint, config
):
    path = tmp_path / 'late.mcap'
    write_session(path, (arm, checkpoint, config), start=5.16)
    recording = read_recording(path, arm.joint_names, arm_config.camera)
    run = Replay(recording, Agent(checkpoint, arm, config, 0), arm)
    report = compare(recording, run.run(), run.goals, arm)
    assert report['steps'] == STEPS - 2 and report['compared'] == 0 and not report['passed']
    assert 'nothing to compare' in format_replay(report)


@pytest.mark.extended
def test_the_exit_code_of_replay_tells_whether_decisions_differ(
    tmp_path, arm, checkpoint, shipped, capsys
):
    path, file = str(tmp_path / 'a.mcap'), tmp_path / 'report.json'
    write_session(path, (arm, checkpoint, shipped))
    assert main(['replay', path, '--seed', '1', '--speed', '50', '--json', str(file)]) == 0
    report = json.loads(file.read_text())
    assert report['speed'] == 50.0 and not report['passed'], 'only --compare judges'
    assert main(['replay', path, '--compare', '--json', str(file)]) == 0
    assert f'{STEPS} of {STEPS} decisions equal' in capsys.readouterr().out
    assert main(['replay', path, '--compare', '--seed', '1']) == 1
    assert 'DIFFER' in capsys.readouterr().out


def replayed(path, arm, arm_config, checkpoint, config, seed=0, speed=None):
    recording = read_recording(path, arm.joint_names, arm_config.camera)
    agent = Agent(checkpoint, arm, config, seed)
    run = Replay(recording, agent, arm)
    return compare(recording, run.run(speed), run.goals, arm)


def test_decisions_with_late_images_surprises_and_a_new_goal_are_reproduced(
    tmp_path, arm, arm_config, checkpoint, config
):
    path = tmp_path / 'rough.mcap'
    write_session(path, (arm, checkpoint, config), SessionOptions(is_disturbed=True))
    report = replayed(path, arm, arm_config, checkpoint, config)
    assert report['equal'] == report['compared'] == STEPS and not report['excused']
    assert report['tip_cm']['max'] < 0.01
    assert not replayed(path, arm, arm_config, checkpoint, config, seed=1)['passed']


@pytest.mark.parametrize(
    ('loses', 'excuse'),
    [
        ([('camera/image_raw', 1)], 'its image is not in the recording'),
        ([('camera/image_raw', LATE_STEP)], 'an image that came late is not'),
        ([('planner/status', 1), ('planner/joint_trajectory', 1)], 'a step before it is'),
    ],
)
def test_decisions_without_a_recorded_message_are_excused(
    tmp_path, arm, arm_config, checkpoint, config, loses, excuse
):
    path = tmp_path / 'lossy.mcap'
    write_session(path, (arm, checkpoint, config), SessionOptions(is_disturbed=True, lost=loses))
    report = replayed(path, arm, arm_config, checkpoint, config)
    assert report['equal'] == report['compared'] < STEPS
    assert [said for said in report['excused'] if excuse in said] == list(report['excused'])
    assert f'differ and are not counted: {list(report["excused"])[0]}' in format_replay(report)


def test_plans_cut_short_by_the_clock_are_excused_in_timed_replay_only(
    session, arm, arm_config, checkpoint, config
):
    hasty = replace(config, deadline_ms=0.01)
    timed = replayed(session[0], arm, arm_config, checkpoint, hasty, speed=50.0)
    assert set(timed['excused']) == {DEADLINE_CAUSE} and timed['equal'] == timed['compared']
    assert not timed['passed'], 'too few are left to judge by'
    fewer = replace(config, candidates=config.candidates // 2)
    untimed = replayed(session[0], arm, arm_config, checkpoint, fewer)
    assert not untimed['excused'] and not untimed['passed']


def test_replay_uses_the_recorded_number_of_candidates_per_iteration(
    tmp_path, arm, arm_config, checkpoint, config
):
    """32 candidates can be one iteration of 32 or two of 16, which give different plans."""
    path = tmp_path / 'slow.mcap'
    fewest = config.min_candidates
    assert fewest < config.candidates
    write_session(path, (arm, checkpoint, config), SessionOptions(candidates=fewest))
    report = replayed(path, arm, arm_config, checkpoint, config)
    assert report['equal'] == report['compared'] == STEPS and report['tip_cm']['max'] < 0.01
    timed = replayed(path, arm, arm_config, checkpoint, replace(config, deadline_ms=1e4), speed=5)
    assert timed['equal'] == timed['compared'] == STEPS and not timed['excused']
    fixed = replace(config, min_candidates=config.candidates)
    assert not replayed(path, arm, arm_config, checkpoint, fixed)['passed'], 'asked for another'


@pytest.fixture
def broken(tmp_path, session, arm, checkpoint, config):
    """Makes a file of each kind that cannot be used."""
    whole = session[0].read_bytes()
    path = tmp_path / 'broken.mcap'

    def make(kind):
        if kind == 'no MCAP':
            path.write_bytes(b'not MCAP at all, but long enough to be one')
        elif kind == 'cut':
            path.write_bytes(whole[: len(whole) * 2 // 3])
        elif kind == 'damaged':
            middle = len(whole) // 3
            path.write_bytes(whole[:middle] + bytes(50) + whole[middle + 50 :])
        elif kind == 'lacking':
            write_session(path, (arm, checkpoint, config), leave_out=('planner/goal',))
        return path

    return make


@pytest.mark.parametrize(
    ('kind', 'says'),
    [
        ('missing', 'broken.mcap'),
        ('no MCAP', 'expected an MCAP file'),
        ('cut', 'jepa-arm data recover'),
        ('damaged', 'broken.mcap: '),
        ('lacking', 'got no planner/goal'),
    ],
)
def test_a_file_that_cannot_be_replayed_is_reported_in_one_line(broken, capsys, kind, says):
    assert main(['replay', str(broken(kind))]) == 1
    said = capsys.readouterr().err.strip()
    assert says in said and len(said.splitlines()) == 1


def test_a_recording_of_another_arm_or_camera_is_refused(session, arm, arm_config):
    path = session[0]
    with pytest.raises(RecordingError, match='expected joints'):
        read_recording(path, ['a', 'b'], arm_config.camera)
    with pytest.raises(RecordingError, match='expected 160x64 pixels'):
        read_recording(path, arm.joint_names, replace(arm_config.camera, width=160))
    with pytest.raises(RecordingError, match='--namespace to be one of /'):
        read_recording(path, arm.joint_names, arm_config.camera, 'left')


def write_messages(file, count):
    channel = file.add_topic('/said', 'std_msgs/msg/String', 'string data', {})
    for i in range(count):
        file.write(channel, np.random.default_rng(i).bytes(1000), 1000 + i, 1000 + i)
        if i % 10 == 9:
            file.flush()


def test_a_recording_appears_when_complete_and_replaces_nothing(tmp_path):
    path = tmp_path / 'a.mcap'
    file = McapWriter(path)
    write_messages(file, 5)
    assert not path.exists()
    with pytest.raises(FileExistsError, match='partial'):
        McapWriter(path)
    file.finish()
    before = path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ['a.mcap']
    with pytest.raises(FileExistsError, match='another name'):
        McapWriter(path)
    assert path.read_bytes() == before


def test_a_truncated_recording_is_recovered_up_to_its_last_complete_chunk(tmp_path, capsys):
    path, whole = tmp_path / 'a.mcap', tmp_path / 'whole.mcap'
    file = McapWriter(path)
    write_messages(file, 45)
    file._stream.flush()
    cut = tmp_path / 'cut.mcap'
    cut.write_bytes(file.partial.read_bytes()[:-3000])
    assert main(['data', 'recover', str(cut), '--out', str(whole)]) == 0
    assert capsys.readouterr().out.startswith('30 messages on 1 topics')
    with whole.open('rb') as stream:
        assert sum(type(record).__name__ == 'Message' for record in read_records(stream)) == 30
    with pytest.raises(FileExistsError):
        recover(cut, whole)
    assert main(['data', 'recover', str(file.partial), '--out', str(path)]) == 0, 'the usual names'
    (tmp_path / 'text').write_text('nothing to recover')
    words = ['data', 'recover', str(tmp_path / 'text'), '--out', str(tmp_path / 'b.mcap')]
    assert main(words) == 1
    assert not list(tmp_path.glob('b.mcap*'))


def test_data_written_before_the_disk_was_full_can_be_recovered(tmp_path, fill_disk):
    path = tmp_path / 'a.mcap'
    file = McapWriter(path)
    write_messages(file, 20)
    fill_disk(path.with_name('a.mcap.partial').stat().st_size + 2000)
    with pytest.raises(OSError):
        write_messages(file, 20)
        file.finish()
    assert 'a.mcap.partial' in file.abandon() and not path.exists()
    fill_disk(10_000_000)
    assert recover(file.partial, path)['/said'] == 20


def test_a_decompression_bomb_is_refused(tmp_path):
    """A few kB of zstd can hold gigabytes."""
    path = tmp_path / 'bomb.mcap'
    writer = Writer(str(path), compression=CompressionType.NONE)
    packed = zstandard.compress(bytes(200_000_000))
    builder = writer._writer._Writer__record_builder
    Chunk('zstd', packed, 0, 0, 0, 1000).write(builder)
    writer.finish()
    with path.open('rb') as stream, pytest.raises(RecordingError, match='at most 100000000'):
        list(read_records(stream))
