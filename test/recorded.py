"""Synthetic recordings of a planner that observes noise, written without ROS 2."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mcap_ros2.writer import Writer

from jepa_arm.agent.agent import Agent
from jepa_arm.agent.decision import StepFeedback
from jepa_arm.core.goals import PositionGoal
from jepa_arm.core.types import JointSample, Observation
from jepa_arm.datasets.recording import BLIND_REASON

MESSAGES = Path(__file__).parents[1] / 'ros_ws/src/jepa_arm_msgs/msg'
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
    'jepa_arm_msgs/Goal': (MESSAGES / 'Goal.msg').read_text(),
    'jepa_arm_msgs/PlannerStatus': (MESSAGES / 'PlannerStatus.msg').read_text(),
}
TOPICS = {
    'camera/image_raw': 'sensor_msgs/Image',
    'wrist_camera/image_raw': 'sensor_msgs/Image',
    'joint_states': 'sensor_msgs/JointState',
    'planner/joint_trajectory': 'trajectory_msgs/JointTrajectory',
    'planner/status': 'jepa_arm_msgs/PlannerStatus',
    'planner/goal': 'jepa_arm_msgs/Goal',
}
STEPS, START_S = 8, 1_700_000_000.0
WRIST_ROWS, WRIST_DELAY_S = 16, 0.02
"""The wrist camera shows the first rows of the other camera's image, slightly later."""
POSITION, OTHER_POSITION = np.array([0.5, 0.1, 0.1]), np.array([0.45, -0.15, 0.15])
LATE_STEP, NEW_GOAL_STEP = 3, 6
"""Steps of a disturbed session: the one whose image is late, and the first with a new goal."""


def stamp(seconds):
    return {'sec': int(seconds), 'nanosec': round((seconds - int(seconds)) * 1e9)}


class GraphWriter:
    """Writer of the messages that a planner, a camera and an arm publish."""

    def __init__(self, path, namespace='', leave_out=(), start=0.0):
        self._writer, self._start = Writer(str(path)), start
        self._topics = {
            name: (f'{namespace}/{name}', self._define(kind))
            for name, kind in TOPICS.items()
            if name not in leave_out
        }

    def _define(self, kind):
        separator = '\n' + '=' * 80 + '\n'
        parts = [f'MSG: {name}\n{text}' for name, text in PARTS.items() if name != kind]
        package, name = kind.split('/')
        text = separator.join([PARTS[kind], *parts])
        return self._writer.register_msgdef(f'{package}/msg/{name}', text)

    def write(self, name, seconds, message):
        is_kept = seconds >= self._start or name == 'planner/goal'  # latched
        if name in self._topics and is_kept:
            topic, schema = self._topics[name]
            at = round((START_S + seconds) * 1e9)
            self._writer.write_message(topic, schema, message, at, at)

    def close(self):
        self._writer.finish()


def goal_at(position):
    x, y, z = map(float, position)
    return {'kind': 3, 'pose': {'pose': {'position': {'x': x, 'y': y, 'z': z}}}}


@dataclass(frozen=True)
class SessionOptions:
    """Variations of a recorded session.

    Attributes:
        is_disturbed: every image is surprising, one is late, and a second goal replaces the first.
        blind_steps: number of steps without an image; only the first of their images arrives.
        lost: (topic, step) of messages that the recorder missed.
        candidates: per iteration; None: as configured.
    """

    is_disturbed: bool = False
    blind_steps: int = 1
    lost: tuple = ()
    candidates: int | None = None


class RecordedSession:
    """Session of an agent that plans from noise, and the file it is recorded to.

    Attributes:
        steps: (observation, proposal) of each step.
    """

    def __init__(self, writer, arm, checkpoint, config, options):
        self._arm, self._camera = arm, checkpoint.contract.camera
        self._writer, self._names = writer, list(arm.joint_names)
        self._options = options
        self._rng, self._late, self.steps = np.random.default_rng(0), (), []
        agent = self._agent = Agent(checkpoint, arm, config, seed=0)
        agent.planners.candidates_per_iteration = options.candidates or config.candidates
        self._max_candidates = 2 * agent.planners.candidates_per_iteration
        agent.reset(arm.home)
        agent.set_goal(PositionGoal('tip', POSITION))

    def step(self, i):
        now, agent = 5.0 + 0.1 * i, self._agent
        options = self._options
        is_blind = options.is_disturbed and LATE_STEP <= i < LATE_STEP + options.blind_steps
        exact = 5.0 + round((now - 5.0) * 1e9) / 1e9
        joints = self._arm.home + 0.001 * i
        observation = Observation(self._write_images(i, now, is_blind), joints, exact)
        self._write_joint_states(now, joints)
        self._write_goal(i, now)
        newest = JointSample(joints, joints * 0.0, exact) if is_blind else observation
        feedback = StepFeedback(
            late_observations=self._late,
            delay=0.15,
            max_candidates=self._max_candidates,
        )
        decision = agent.assess(agent.step(newest, feedback))
        self._write_decision(i, now, joints, decision, is_blind)
        self.steps.append((observation, decision.proposal))
        self._late = ()
        if options.is_disturbed and i == LATE_STEP + options.blind_steps - 1:
            self._late = (self.steps[LATE_STEP][0],)

    def close(self):
        self._writer.close()

    def _write(self, i, name, seconds, message):
        if (name, i) not in self._options.lost:
            self._writer.write(name, seconds, message)

    def _write_images(self, i, now, is_blind):
        camera = self._camera
        image = self._rng.integers(40, 200, (camera.height, camera.width, 3), dtype=np.uint8)
        picture = {'height': camera.height, 'width': camera.width, 'encoding': 'rgb8'}
        picture |= {'header': {'stamp': stamp(now)}, 'step': 3 * camera.width}
        if not is_blind or i == LATE_STEP:
            shown = {**picture, 'data': image.tobytes()}
            self._write(i, 'camera/image_raw', now + 0.06 * is_blind, shown)
            header, rows = {'stamp': stamp(now + WRIST_DELAY_S)}, image[:WRIST_ROWS]
            shown |= {'header': header, 'height': len(rows), 'data': rows.tobytes()}
            self._write(i, 'wrist_camera/image_raw', now + WRIST_DELAY_S, shown)
        return image

    def _write_joint_states(self, now, joints):
        for at in (now - 0.005, now + 0.005):  # the image's joints lie half-way
            position = (joints + 0.1 * (at - now)).tolist()
            state = {'header': {'stamp': stamp(at)}, 'name': self._names, 'position': position}
            self._writer.write('joint_states', at, state)

    def _write_goal(self, i, now):
        if i == 0:
            self._write(i, 'planner/goal', now + 0.003, goal_at(POSITION))
        if self._options.is_disturbed and i == NEW_GOAL_STEP:
            self._write(i, 'planner/goal', now + 0.003, goal_at(OTHER_POSITION))
            self._agent.set_goal(PositionGoal('tip', OTHER_POSITION))

    def _write_decision(self, i, now, joints, decision, is_blind):
        assert decision.plan is not None and decision.setpoint is not None
        sent = decision.proposal
        points = [
            {'positions': row.tolist(), 'time_from_start': stamp(float(t))}
            for row, t in zip(sent.positions, sent.times, strict=True)
        ]
        plan = {'header': {'stamp': stamp(now)}, 'joint_names': self._names, 'points': points}
        self._write(i, 'planner/joint_trajectory', now + 0.05, plan)
        note = f'the image is late: {BLIND_REASON}' if is_blind else 'surprised by the world'
        status = {
            'observation_stamp': stamp(now),
            'state': 1,
            'reason': note if self._options.is_disturbed else '',
            'source': decision.plan.source,
            'distance': decision.distance,
            'surprise': decision.surprise,
            'plan_ms': 20.0,
            'candidates': decision.plan.candidates,
            'iterations': decision.plan.iterations,
            'replans': i - NEW_GOAL_STEP + 1
            if self._options.is_disturbed and i >= NEW_GOAL_STEP
            else i + 1,
            'setpoint': decision.setpoint.tolist(),
            'is_continued': decision.is_continued,
            'delay_ms': 150.0,
            'joints': joints.tolist(),
            'late_image_stamps': [stamp(late.stamp) for late in self._late],
        }
        self._write(i, 'planner/status', now + 0.051, status)


def write_session(path, agent_inputs, options=SessionOptions(), **writer_options):
    """Write a session and return its (observation, proposal) pairs.

    ``agent_inputs``: (arm, checkpoint, planner configuration).
    """
    session = RecordedSession(GraphWriter(path, **writer_options), *agent_inputs, options)
    for i in range(STEPS):
        session.step(i)
    session.close()
    return session.steps
