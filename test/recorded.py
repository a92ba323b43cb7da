"""Recordings of a planner that sees noise, made without ROS 2: for tests that read and replay."""

from pathlib import Path

import numpy as np
from mcap_ros2.writer import Writer

from jepa_arm.agent import Agent
from jepa_arm.data.recording import FROM_BELIEF
from jepa_arm.goals import PositionGoal
from jepa_arm.types import JointSample, Observation

OURS = Path(__file__).parents[1] / 'ros_ws/src/jepa_arm_msgs/msg'
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
    'wrist_camera/image_raw': 'sensor_msgs/Image',
    'joint_states': 'sensor_msgs/JointState',
    'planner/joint_trajectory': 'trajectory_msgs/JointTrajectory',
    'planner/status': 'jepa_arm_msgs/PlannerStatus',
    'planner/goal': 'jepa_arm_msgs/Goal',
}
STEPS, BEGAN_S = 8, 1_700_000_000.0
WRIST_ROWS, WRIST_LATE_S = 16, 0.02
"""What a wrist camera shows are the first rows of what the other does, a little later."""
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


def goal_at(place):
    x, y, z = map(float, place)
    return {'kind': 3, 'pose': {'pose': {'position': {'x': x, 'y': y, 'z': z}}}}


class Session:
    """An agent plans from noise; what it sees and decides is what the file holds.

    Attributes:
        seen: (observation, proposal) of each step.
    """

    def __init__(
        self, path, arm, checkpoint, config, is_rough, blind, loses, candidates, **options
    ):
        self._arm, self._camera = arm, checkpoint.contract.camera
        self._tape, self._names = Tape(path, **options), list(arm.joint_names)
        self._is_rough, self._blind, self._loses = is_rough, blind, loses
        self._rng, self._late, self.seen = np.random.default_rng(0), [], []
        agent = self._agent = Agent(checkpoint, arm, config, seed=0)
        agent.planners.sweep_size = candidates or config.candidates
        agent.latency, agent.effort = 0.15, 2 * agent.planners.sweep_size
        agent.reset(arm.home)
        agent.set_goal(PositionGoal('tip', PLACE))

    def step(self, i):
        now, agent = 5.0 + 0.1 * i, self._agent
        is_blind = self._is_rough and BLIND <= i < BLIND + self._blind
        exact = 5.0 + round((now - 5.0) * 1e9) / 1e9
        joints = self._arm.home + 0.001 * i
        observation = Observation(self._show(i, now, is_blind), joints, exact)
        self._feel(now, joints)
        self._ask(i, now)
        if is_blind:
            decision = agent.decide_blind(JointSample(joints, joints * 0.0, exact))
        else:
            decision = agent.decide(observation)
        self._tell(i, now, joints, decision, is_blind)
        self.seen.append((observation, decision.proposal))
        self._late = []
        if self._is_rough and i == BLIND + self._blind - 1:
            agent.observe(self.seen[BLIND][0])
            self._late = [stamp(self.seen[BLIND][0].stamp)]

    def close(self):
        self._tape.close()

    def _say(self, i, name, seconds, message):
        if (name, i) not in self._loses:
            self._tape.say(name, seconds, message)

    def _show(self, i, now, is_blind):
        camera = self._camera
        image = self._rng.integers(40, 200, (camera.height, camera.width, 3), dtype=np.uint8)
        picture = {'height': camera.height, 'width': camera.width, 'encoding': 'rgb8'}
        picture |= {'header': {'stamp': stamp(now)}, 'step': 3 * camera.width}
        if not is_blind or i == BLIND:
            shown = {**picture, 'data': image.tobytes()}
            self._say(i, 'camera/image_raw', now + 0.06 * is_blind, shown)
            header, rows = {'stamp': stamp(now + WRIST_LATE_S)}, image[:WRIST_ROWS]
            shown |= {'header': header, 'height': len(rows), 'data': rows.tobytes()}
            self._say(i, 'wrist_camera/image_raw', now + WRIST_LATE_S, shown)
        return image

    def _feel(self, now, joints):
        for early in (now - 0.005, now + 0.005):  # the image's joints lie half-way
            position = (joints + 0.1 * (early - now)).tolist()
            state = {'header': {'stamp': stamp(early)}, 'name': self._names, 'position': position}
            self._tape.say('joint_states', early, state)

    def _ask(self, i, now):
        if i == 0:
            self._say(i, 'planner/goal', now + 0.003, goal_at(PLACE))
        if self._is_rough and i == TURN:
            self._say(i, 'planner/goal', now + 0.003, goal_at(OTHER))
            self._agent.set_goal(PositionGoal('tip', OTHER))

    def _tell(self, i, now, joints, decision, is_blind):
        assert decision.plan is not None and decision.told is not None
        sent = decision.proposal
        points = [
            {'positions': row.tolist(), 'time_from_start': stamp(float(t))}
            for row, t in zip(sent.positions, sent.times, strict=True)
        ]
        plan = {'header': {'stamp': stamp(now)}, 'joint_names': self._names, 'points': points}
        self._say(i, 'planner/joint_trajectory', now + 0.05, plan)
        note = f'the image is late: {FROM_BELIEF}' if is_blind else 'surprised by the world'
        status = {
            'observation_stamp': stamp(now),
            'state': 1,
            'reason': note if self._is_rough else '',
            'source': decision.plan.source,
            'distance': decision.distance,
            'surprise': decision.surprise,
            'plan_ms': 20.0,
            'candidates': decision.plan.candidates,
            'sweeps': decision.plan.sweeps,
            'replans': i - TURN + 1 if self._is_rough and i >= TURN else i + 1,
            'told': decision.told.tolist(),
            'is_continued': decision.is_continued,
            'latency_ms': 150.0,
            'joints': joints.tolist(),
            'seen_late': self._late,
        }
        self._say(i, 'planner/status', now + 0.051, status)


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
    """Writes a ``Session``; what was seen in it.

    ``is_rough``: every image surprises, one comes late, and one goal takes the place of another.
    ``blind``: steps without an image, until that of the first comes; the others' never do.
    ``loses``: (topic, step) of messages that the recorder did not get.
    ``candidates``: a sweep's, in place of the configured ones.
    """
    session = Session(path, arm, checkpoint, config, is_rough, blind, loses, candidates, **options)
    for i in range(STEPS):
        session.step(i)
    session.close()
    return session.seen
