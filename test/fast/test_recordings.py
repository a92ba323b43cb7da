"""Recordings: whole files or none, read into what the planner saw, and decided again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from mcap.records import Channel, Chunk, Message, Schema
from mcap.writer import CompressionType
from mcap_ros2.writer import Writer

from jepa_arm.agent import Agent
from jepa_arm.cli import main
from jepa_arm.config import PlannerConfig, load
from jepa_arm.data.mcap_file import ROLE, McapFile, RecordingError, records, recover
from jepa_arm.data.recording import FROM_BELIEF, PlannerState
from jepa_arm.data.recording_reader import read_recording
from jepa_arm.goals import PositionGoal
from jepa_arm.model.checkpoint import load_checkpoint
from jepa_arm.replay import CLOCK, Replay
from jepa_arm.replay_report import compare, format_replay
from jepa_arm.resources import checkpoint_path, config_path
from jepa_arm.types import JointSample, Observation

OURS = Path(__file__).parents[2] / 'ros_ws/src/jepa_arm_msgs/msg'
TIME = 'builtin_interfaces/Time stamp\n'
HEADER = 'std_msgs/Header header\n'
PARTS = {
    'std_msgs/Header': f'{TIME}string frame_id\n',
    'builtin_interfaces/Time': 'int32 sec\nuint32 nanosec\n',
    'builtin_interfaces/Duration': 'int32 sec\nuint32 nanosec\n',
    'geometry_msgs/Point': 'float64 x\nfloat64 y\nfloat64 z\n',
    'geometry_msgs/Quaternion': 'float64 x\nfloat64 y\nfloat64 z\nfloat64 w\n',
    'geometry_msgs/Pose': 'geometry_msgs/Point position\ngeometry_msgs/Quaternion orientation\n',
    'geometry_msgs/PoseStamped': f'{HEADER}geometry_msgs/Pose pose\n',
    'trajectory_msgs/JointTrajectoryPoint': (
        'float64[] positions\nfloat64[] velocities\nfloat64[] accelerations\nfloat64[] effort\n'
        'builtin_interfaces/Duration time_from_start\n'
    ),
    'sensor_msgs/Image': (
        f'{HEADER}uint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\n'
        'uint32 step\nuint8[] data\n'
    ),
    'sensor_msgs/JointState': (
        f'{HEADER}string[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort\n'
    ),
    'trajectory_msgs/JointTrajectory': (
        f'{HEADER}string[] joint_names\ntrajectory_msgs/JointTrajectoryPoint[] points\n'
    ),
    'jepa_arm_msgs/Goal': (OURS / 'Goal.msg').read_text(),
    'jepa_arm_msgs/PlannerStatus': (OURS / 'PlannerStatus.msg').read_text(),
}
TOPICS = {
    'camera/image_raw': 'sensor_msgs/Image',
    'joint_states': 'sensor_msgs/JointState',
    'planner/joint_trajectory': 'trajectory_msgs/JointTrajectory',
    'planner/status': 'jepa_arm_msgs/PlannerStatus',
    'planner/goal': 'jepa_arm_msgs/Goal',
}
STEPS, BEGAN_S = 8, 1_700_000_000.0
PLACE, OTHER = np.array([0.5, 0.1, 0.1]), np.array([0.45, -0.15, 0.15])
BLIND, TURN = 3, 6
"""Steps of a rough session: that whose image comes late, and the first towards another goal."""
NEWER = 'float64[] joints ', 'builtin_interfaces/Time[] seen_late ', 'uint32 sweeps '
"""Fields of a status that older recordings lack."""


def stamp(seconds):
    return {'sec': int(seconds), 'nanosec': round((seconds - int(seconds)) * 1e9)}


class Tape:
    """Writes messages as a planner, a camera and an arm would publish them, without ROS 2."""

    def __init__(self, path, namespace='', leave_out=(), begins=0.0, is_old=False):
        self._writer, self._begins, self._is_old = Writer(str(path)), begins, is_old
        self._topics = {
            name: (f'{namespace}/{name}', self._define(kind))
            for name, kind in TOPICS.items()
            if name not in leave_out
        }

    def _define(self, kind):
        separator = '\n' + '=' * 80 + '\n'
        parts = [f'MSG: {name}\n{text}' for name, text in PARTS.items() if name != kind]
        package, name = kind.split('/')
        lines = separator.join([PARTS[kind], *parts]).splitlines()
        dropped = NEWER if self._is_old else ()
        text = '\n'.join(row for row in lines if not row.startswith(tuple(dropped)))
        return self._writer.register_msgdef(f'{package}/msg/{name}', text)

    def say(self, name, seconds, message):
        is_kept = seconds >= self._begins or name == 'planner/goal'  # which is latched
        if name in self._topics and is_kept:
            topic, schema = self._topics[name]
            at = round((BEGAN_S + seconds) * 1e9)
            self._writer.write_message(topic, schema, message, at, at)

    def close(self):
        self._writer.finish()


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """As the planner has; more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def checkpoint():
    return load_checkpoint(checkpoint_path('compact'))


@pytest.fixture(scope='module')
def config():
    return load(PlannerConfig, config_path('planner.yaml'))


def goal_at(place):
    x, y, z = map(float, place)
    return {'kind': 3, 'pose': {'pose': {'position': {'x': x, 'y': y, 'z': z}}}}


def write_session(
    path,
    arm,
    checkpoint,
    config,
    is_rough=False,
    blind=1,
    loses=(),
    candidates=None,
    **options,
):
    """An agent plans from noise; what it sees and decides is what the file holds.

    ``is_rough``: every image surprises, one comes late, and one goal takes the place of another.
    ``blind``: steps without an image, until that of the first comes; the others' never do.
    ``loses``: (topic, step) of messages that the recorder did not get.
    ``candidates``: a sweep's, in place of the configured ones.
    """
    camera, rng = checkpoint.contract.camera, np.random.default_rng(0)
    agent, tape = Agent(checkpoint, arm, config, seed=0), Tape(path, **options)
    agent.planners.sweep_size = candidates or config.candidates
    agent.latency, agent.effort = 0.15, 2 * agent.planners.sweep_size
    agent.reset(arm.home)
    agent.set_goal(PositionGoal('tip', PLACE))
    names, seen, late = list(arm.joint_names), [], []
    for i in range(STEPS):
        now = 5.0 + 0.1 * i
        is_blind = is_rough and BLIND <= i < BLIND + blind

        def say(name, seconds, message, i=i):
            if (name, i) not in loses:
                tape.say(name, seconds, message)

        image = rng.integers(40, 200, (camera.height, camera.width, 3), dtype=np.uint8)
        joints = arm.home + 0.001 * i
        for early in (now - 0.005, now + 0.005):  # the image's joints lie half-way
            position = (joints + 0.1 * (early - now)).tolist()
            state = {'header': {'stamp': stamp(early)}, 'name': names, 'position': position}
            tape.say('joint_states', early, state)
        picture = {'height': camera.height, 'width': camera.width, 'encoding': 'rgb8'}
        picture |= {'header': {'stamp': stamp(now)}, 'step': 3 * camera.width}
        if not is_blind or i == BLIND:
            say('camera/image_raw', now + 0.06 * is_blind, {**picture, 'data': image.tobytes()})
        if i == 0:
            say('planner/goal', now + 0.003, goal_at(PLACE))
        if is_rough and i == TURN:
            say('planner/goal', now + 0.003, goal_at(OTHER))
            agent.set_goal(PositionGoal('tip', OTHER))
        exact = 5.0 + round((now - 5.0) * 1e9) / 1e9
        observation = Observation(image, joints, exact)
        if is_blind:
            decision = agent.decide_blind(JointSample(joints, joints * 0.0, exact))
        else:
            decision = agent.decide(observation)
        assert decision.plan is not None and decision.told is not None
        sent = decision.proposal
        points = [
            {'positions': row.tolist(), 'time_from_start': stamp(float(t))}
            for row, t in zip(sent.positions, sent.times, strict=True)
        ]
        plan = {'header': {'stamp': stamp(now)}, 'joint_names': names, 'points': points}
        say('planner/joint_trajectory', now + 0.05, plan)
        note = f'the image is late: {FROM_BELIEF}' if is_blind else 'surprised by the world'
        status = {
            'observation_stamp': stamp(now),
            'state': 1,
            'reason': note if is_rough else '',
            'source': decision.plan.source,
            'distance': decision.distance,
            'surprise': decision.surprise,
            'plan_ms': 20.0,
            'candidates': decision.plan.candidates,
            'sweeps': decision.plan.sweeps,
            'replans': i - TURN + 1 if is_rough and i >= TURN else i + 1,
            'told': decision.told.tolist(),
            'is_continued': decision.is_continued,
            'latency_ms': 150.0,
            'joints': joints.tolist(),
            'seen_late': late,
        }
        say('planner/status', now + 0.051, status)
        seen.append((observation, sent))
        late = []
        if is_rough and i == BLIND + blind - 1:
            agent.observe(seen[BLIND][0])
            late = [stamp(seen[BLIND][0].stamp)]
    tape.close()
    return seen


@pytest.fixture(scope='module')
def session(tmp_path_factory, arm, checkpoint, config):
    """A file, and what it was made of."""
    path = tmp_path_factory.mktemp('recording') / 'a.mcap'
    return path, write_session(path, arm, checkpoint, config)


def test_a_recording_is_read_into_what_the_planner_saw_and_sent(session, arm, arm_config):
    path, seen = session
    recording = read_recording(path, arm.joint_names, arm_config.camera)
    assert len(recording.steps) == STEPS and not recording.unplanned
    for step, (observation, sent) in zip(recording.steps, seen, strict=True):
        assert np.array_equal(step.seen.image, observation.image)
        assert np.allclose(step.seen.joints, observation.joints, atol=1e-9)
        assert np.array_equal(step.proposal.positions, sent.positions)
        assert step.state is PlannerState.PLANNING
    assert np.array_equal(recording.goals[0].place, PLACE)


def test_topics_that_the_planner_was_remapped_to_are_read_in_place_of_the_usual(
    session, tmp_path, arm, arm_config
):
    other = {'/camera/image_raw': '/cam/rgb', '/joint_states': '/robot/joint_states'}
    path, schemas, channels = tmp_path / 'remapped.mcap', {}, {}
    out = McapFile(path)
    with session[0].open('rb') as stream:
        for record in records(stream):
            if isinstance(record, Schema):
                schemas[record.id] = record.name, record.data.decode()
            elif isinstance(record, Channel) and record.id not in channels:
                usual, schema = record.topic, schemas[record.schema_id]
                known = {ROLE: usual} if usual in other else {}
                channels[record.id] = out.add_topic(other.get(usual, usual), *schema, known)
                strangers = out.add_topic(usual, *schema, {}) if known else None
            elif isinstance(record, Message):
                if strangers is not None:  # somebody else's, on one of the usual names
                    out.write(strangers, record.data, record.log_time, record.publish_time + 10)
                number = channels[record.channel_id]
                out.write(number, record.data, record.log_time, record.publish_time)
                strangers = None
    out.finish()
    here, there = (
        read_recording(p, arm.joint_names, arm_config.camera) for p in (session[0], path)
    )
    assert len(there.steps) == STEPS and not there.unplanned
    for a, b in zip(here.steps, there.steps, strict=True):
        assert np.array_equal(a.seen.image, b.seen.image)
        assert np.array_equal(a.seen.joints, b.seen.joints)


def test_an_unchanged_planner_decides_alike_and_a_changed_one_does_not(
    session, arm, arm_config, checkpoint, config
):
    recording = read_recording(session[0], arm.joint_names, arm_config.camera)
    reports = []
    for planner, seed in ((config, 0), (replace(config, noise_std=0.1), 0), (config, 1)):
        run = Replay(recording, Agent(checkpoint, arm, planner, seed), arm)
        reports.append(compare(recording, run.run(), run.read, arm))
    same, other, reseeded = reports
    assert same['passed'] and same['equal'] == same['compared'] == STEPS
    assert same['tip_cm']['max'] < 0.01
    for changed in (other, reseeded):
        assert not changed['passed'] and changed['equal_share'] < 0.5
        assert changed['tip_cm']['max'] > 0.1


def test_a_goal_that_began_before_the_recording_is_not_compared_but_for_a_new_start(
    tmp_path, arm, arm_config, checkpoint, config
):
    """Its plans differed by 0.6 cm: the random numbers drawn before were not known."""
    path = tmp_path / 'late.mcap'
    write_session(path, arm, checkpoint, config, begins=5.16)
    recording = read_recording(path, arm.joint_names, arm_config.camera)
    run = Replay(recording, Agent(checkpoint, arm, config, 0), arm)
    report = compare(recording, run.run(), run.read, arm)
    assert report['steps'] == STEPS - 2 and report['compared'] == 0 and not report['passed']
    assert 'nothing to compare' in format_replay(report)


def test_the_command_says_by_its_exit_code_whether_planners_differ(session, tmp_path, capsys):
    path, file = str(session[0]), tmp_path / 'report.json'
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
    return compare(recording, run.run(speed), run.read, arm)


def test_late_images_surprises_and_a_new_goal_on_the_way_are_decided_alike(
    tmp_path, arm, arm_config, checkpoint, config
):
    """Under load 11 of 27 decisions were alike: surprised ones were redone without their image."""
    path = tmp_path / 'rough.mcap'
    write_session(path, arm, checkpoint, config, is_rough=True)
    report = replayed(path, arm, arm_config, checkpoint, config)
    assert report['equal'] == report['compared'] == STEPS and not report['excused']
    assert report['tip_cm']['max'] < 0.01
    assert not replayed(path, arm, arm_config, checkpoint, config, seed=1)['passed']


@pytest.mark.parametrize(
    ('loses', 'excuse'),
    [
        ([('camera/image_raw', 1)], 'its image is not in the recording'),
        ([('camera/image_raw', BLIND)], 'an image that came late is not'),
        ([('planner/status', 1), ('planner/joint_trajectory', 1)], 'a step before it is'),
    ],
)
def test_what_differs_for_want_of_a_message_is_told_apart(
    tmp_path, arm, arm_config, checkpoint, config, loses, excuse
):
    path = tmp_path / 'lossy.mcap'
    write_session(path, arm, checkpoint, config, is_rough=True, loses=loses)
    report = replayed(path, arm, arm_config, checkpoint, config)
    assert report['equal'] == report['compared'] < STEPS
    assert [said for said in report['excused'] if excuse in said] == list(report['excused'])
    assert f'differ and are not counted: {list(report["excused"])[0]}' in format_replay(report)


def test_an_older_recording_says_not_when_late_images_were_seen(
    tmp_path, arm, arm_config, checkpoint, config
):
    path = tmp_path / 'old.mcap'
    write_session(path, arm, checkpoint, config, is_rough=True, blind=2, is_old=True)
    recording = read_recording(path, arm.joint_names, arm_config.camera)
    assert {step.sweeps for step in recording.steps} == {0}
    redone = Replay(recording, Agent(checkpoint, arm, config, 0), arm).run()
    assert [bool(done.excuse) for done in redone] == [i > BLIND for i in range(STEPS)]
    assert redone[-1].excuse == 'when a late image was seen is not in the recording'


def test_plans_cut_short_by_the_clock_are_told_apart_only_where_it_decides(
    session, arm, arm_config, checkpoint, config
):
    hasty = replace(config, deadline_ms=0.01)
    timed = replayed(session[0], arm, arm_config, checkpoint, hasty, speed=50.0)
    assert set(timed['excused']) == {CLOCK} and timed['equal'] == timed['compared']
    assert not timed['passed'], 'too few are left to judge by'
    fewer = replace(config, candidates=config.candidates // 2)
    untimed = replayed(session[0], arm, arm_config, checkpoint, fewer)
    assert not untimed['excused'] and not untimed['passed']


def test_with_as_many_candidates_as_the_recording_machine_priced_decisions_are_alike(
    tmp_path, arm, arm_config, checkpoint, config
):
    """32 candidates may be one sweep of 32 or two of 16, which are other plans."""
    path, old = tmp_path / 'slow.mcap', tmp_path / 'old.mcap'
    fewest = config.fewest_candidates
    assert fewest < config.candidates
    write_session(path, arm, checkpoint, config, candidates=fewest)
    report = replayed(path, arm, arm_config, checkpoint, config)
    assert report['equal'] == report['compared'] == STEPS and report['tip_cm']['max'] < 0.01
    timed = replayed(path, arm, arm_config, checkpoint, replace(config, deadline_ms=1e4), speed=5)
    assert timed['equal'] == timed['compared'] == STEPS and not timed['excused']
    fixed = replace(config, fewest_candidates=config.candidates)
    assert not replayed(path, arm, arm_config, checkpoint, fixed)['passed'], 'asked for another'
    write_session(old, arm, checkpoint, config, candidates=fewest, is_old=True)
    assert not replayed(old, arm, arm_config, checkpoint, config)['passed'], 'it is not told'


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
            write_session(path, arm, checkpoint, config, leave_out=('planner/goal',))
        return path

    return make


@pytest.mark.parametrize(
    ('kind', 'says'),
    [
        ('missing', 'broken.mcap'),
        ('no MCAP', 'expected an MCAP file'),
        ('cut', 'jepa-arm recover'),
        ('damaged', 'broken.mcap: '),
        ('lacking', 'got no planner/goal'),
    ],
)
def test_a_file_that_cannot_be_replayed_is_one_clear_line(broken, capsys, kind, says):
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


def test_a_recording_has_its_name_only_when_it_is_whole_and_replaces_nothing(tmp_path):
    path = tmp_path / 'a.mcap'
    file = McapFile(path)
    write_messages(file, 5)
    assert not path.exists()
    with pytest.raises(FileExistsError, match='partial'):
        McapFile(path)
    file.finish()
    before = path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ['a.mcap']
    with pytest.raises(FileExistsError, match='another name'):
        McapFile(path)
    assert path.read_bytes() == before


def test_a_recording_that_was_cut_off_is_recovered_up_to_its_last_whole_chunk(tmp_path, capsys):
    path, whole = tmp_path / 'a.mcap', tmp_path / 'whole.mcap'
    file = McapFile(path)
    write_messages(file, 45)
    file._stream.flush()
    cut = tmp_path / 'cut.mcap'
    cut.write_bytes(file.partial.read_bytes()[:-3000])
    assert main(['recover', str(cut), '--out', str(whole)]) == 0
    assert capsys.readouterr().out.startswith('30 messages on 1 topics')
    with whole.open('rb') as stream:
        assert sum(type(record).__name__ == 'Message' for record in records(stream)) == 30
    with pytest.raises(FileExistsError):
        recover(cut, whole)
    assert main(['recover', str(file.partial), '--out', str(path)]) == 0, 'the usual names'
    (tmp_path / 'text').write_text('nothing to recover')
    assert main(['recover', str(tmp_path / 'text'), '--out', str(tmp_path / 'b.mcap')]) == 1
    assert not list(tmp_path.glob('b.mcap*'))


def test_on_a_full_disk_what_was_written_before_can_be_recovered(tmp_path, fill_disk):
    path = tmp_path / 'a.mcap'
    file = McapFile(path)
    write_messages(file, 20)
    fill_disk(path.with_name('a.mcap.partial').stat().st_size + 2000)
    with pytest.raises(OSError):
        write_messages(file, 20)
        file.finish()
    assert 'a.mcap.partial' in file.give_up() and not path.exists()
    fill_disk(10_000_000)
    assert recover(file.partial, path)['/said'] == 20


def test_a_chunk_that_would_explode_is_refused(tmp_path):
    """A few kB of zstd can hold gigabytes."""
    path = tmp_path / 'bomb.mcap'
    writer = Writer(str(path), compression=CompressionType.NONE)
    packed = zstandard.compress(bytes(200_000_000))
    builder = writer._writer._Writer__record_builder
    Chunk('zstd', packed, 0, 0, 0, 1000).write(builder)
    writer.finish()
    with path.open('rb') as stream, pytest.raises(RecordingError, match='at most 100000000'):
        list(records(stream))
