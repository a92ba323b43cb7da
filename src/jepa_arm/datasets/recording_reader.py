"""Recording reader: reconstructs from messages a planner's observations, goals and proposals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jepa_arm.config import CameraConfig
from jepa_arm.core.messages import (
    ConversionError,
    Message,
    image_from_msg,
    joints_from_msg,
    proposal_from_msg,
    to_seconds,
    yaw_from_msg,
)
from jepa_arm.core.types import FloatArray, ImageArray, JointSample, Observation

from .mcap_file import RecordingError
from .recording import (
    BLIND_REASON,
    MAX_WRIST_OFFSET_S,
    WRIST_IMAGE_TOPIC,
    PlannerRecording,
    PlannerState,
    RecordedGoal,
    RecordedStep,
)
from .topic_reader import TimedMessages, read_topics

JOINT_WINDOW_S = 1.0
"""The joints at an image are interpolated from joint states published within this time of it."""
MAX_JOINT_OFFSET_S = 0.1
"""Largest difference of stamps between an image and the closest joint state."""
GOAL_MARKER_ID, SPHERE = 1, 2
"""Id and type of the marker that shows the goal; obstacles are spheres, too."""
GOAL_IMAGE, GOAL_OBJECT_POSE, GOAL_TIP_POSE, GOAL_JOINTS = 0, 2, 3, 4
"""Values of ``Goal.kind``."""
SUBJECTS = {GOAL_OBJECT_POSE: 'object', GOAL_TIP_POSE: 'tip', GOAL_JOINTS: 'tip'}
"""Subject by ``Goal.kind``; messages of other kinds name their subject."""
OUTCOMES = {4: 'SUCCEEDED', 5: 'CANCELED', 6: 'ABORTED'}
"""Final values of ``GoalStatus.status``."""


def read_recording(
    path: Path, joint_names: Sequence[str], camera: CameraConfig, namespace: str | None = None
) -> PlannerRecording:
    """Read the MCAP file ``path``, recorded with an arm and camera of the given configuration.

    Args:
        path: MCAP file.
        joint_names: names of the arm's joints.
        camera: camera of the contract.
        namespace: namespace of the graph; required if the file contains several.

    Raises:
        RecordingError: the file is not MCAP, truncated or damaged, a required topic is missing, or
            it was recorded with another arm or camera.
        OSError: the file cannot be read.
    """
    topics, notes = read_topics(path, namespace)
    if not topics['planner/goal']:
        raise RecordingError(f'{path}: expected at least one goal, got none: nothing to replay')
    try:
        reader = _PlannerReader(topics, joint_names, camera)
        steps, goals = reader.steps(), reader.goals()
        unplanned = reader.count_unplanned(steps)
    except ConversionError as error:
        raise RecordingError(f'{path}: another arm or camera? {error}') from None
    except (AttributeError, TypeError) as error:
        raise RecordingError(f'{path}: messages of another version? {error}') from None
    if not steps:
        raise RecordingError(f'{path}: expected planning steps with their images, got none')
    start, infos = topics['camera/image_raw'][0][0], topics['camera/camera_info']
    info = infos[0][1] if infos else None
    return PlannerRecording(path, notes, start, steps, goals, unplanned, info)


class _JointHistory:
    """Joint positions over time, interpolated."""

    def __init__(self, messages: TimedMessages, names: Sequence[str]) -> None:
        samples = [(at, joints_from_msg(msg, names)) for at, msg in messages]
        finite = [(at, sample) for at, sample in samples if np.all(np.isfinite(sample.position))]
        if not finite:
            raise ConversionError('joint states: expected finite ones, got none')
        self._published = np.array([at for at, _ in finite])
        self._stamps = np.array([sample.stamp for _, sample in finite])
        self._positions = np.array([sample.position for _, sample in finite])

    def at(self, stamp: float, published: float) -> FloatArray | None:
        """Return joints (J,) rad at ``stamp``; None if no joint state is close enough.

        Only joint states published within ``JOINT_WINDOW_S`` of ``published`` (s, system clock)
        are used, because stamps may repeat after a simulator restarts.
        """
        window = [published - JOINT_WINDOW_S, published + JOINT_WINDOW_S]
        first, last = np.searchsorted(self._published, window)
        stamps = self._stamps[first:last]
        if len(stamps) == 0 or np.min(np.abs(stamps - stamp)) > MAX_JOINT_OFFSET_S:
            return None
        order = np.argsort(stamps, kind='stable')
        columns = self._positions[first:last][order].T
        return np.array([np.interp(stamp, stamps[order], column) for column in columns])


class _PlannerReader:
    """Converter of the messages of a graph to planning steps and goals."""

    def __init__(
        self,
        topics: Mapping[str, TimedMessages],
        joint_names: Sequence[str],
        camera: CameraConfig,
    ) -> None:
        self._topics, self._names, self._camera = topics, joint_names, camera
        self._images = {
            to_seconds(msg.header.stamp): (at, msg) for at, msg in topics['camera/image_raw']
        }
        self._wrist = [(to_seconds(m.header.stamp), m) for _, m in topics[WRIST_IMAGE_TOPIC]]
        proposals = topics['planner/joint_trajectory']
        self._proposals = {to_seconds(msg.header.stamp): msg for _, msg in proposals}
        self._joints = _JointHistory(topics['joint_states'], joint_names)
        self._last_count: int | None = None
        self._uncounted = 0

    def steps(self) -> tuple[RecordedStep, ...]:
        """Return the planning steps; repeated statuses are dropped."""
        steps: list[RecordedStep] = []
        for published, status in self._topics['planner/status']:
            last = steps[-1].observation.stamp if steps else np.nan
            if to_seconds(status.observation_stamp) != last:
                step = self._step(published, status)
                steps += [] if step is None else [step]
        return tuple(steps)

    def count_unplanned(self, steps: Sequence[RecordedStep]) -> int:
        """Return the number of images between the first and last step that no step used."""
        if not steps:
            return 0
        planned = {
            step.observation.stamp for step in steps if isinstance(step.observation, Observation)
        }
        first, last = steps[0].observation.stamp, steps[-1].observation.stamp
        stamps = [to_seconds(image.header.stamp) for _, image in self._topics['camera/image_raw']]
        return sum(
            first < stamp < last and stamp not in planned and self._observation(stamp) is not None
            for stamp in stamps
        )

    def goals(self) -> tuple[RecordedGoal, ...]:
        """Return the goals, in order."""
        messages = self._topics['planner/goal']
        ends = [*(at for at, _ in messages[1:]), np.inf]
        return tuple(
            self._goal(msg, (at, end)) for (at, msg), end in zip(messages, ends, strict=True)
        )

    def _step(self, published: float, status: Message) -> RecordedStep | None:
        """Return the step that ``status`` describes; None without a plan or without joints."""
        stamp = to_seconds(status.observation_stamp)
        setpoint = self._joint_values(status, 'setpoint')
        if stamp not in self._images and (stamp == 0.0 or setpoint is None):
            return None
        missing = self._missing_step(status)
        position = self._joint_values(status, 'joints')
        if position is None:
            image_published = self._images.get(stamp, (published, None))[0]
            position = self._joints.at(stamp, image_published)
        if position is None:
            return None
        observation: Observation | None = None
        if not status.reason.endswith(BLIND_REASON):  # an image of that stamp came too late
            observation = self._observation(stamp, position)
            missing = missing if observation is not None else 'its image'
        found = [self._observation(to_seconds(late)) for late in status.late_image_stamps]
        late_observations = tuple(late for late in found if late is not None)
        if len(late_observations) < len(found):
            missing = 'an image that came late'
        sent = self._proposals.get(stamp)
        names = ('is_continued', 'candidates', 'iterations', 'plan_ms', 'distance')
        return RecordedStep(
            published=published,
            observation=observation or JointSample(position, np.zeros_like(position), stamp),
            late_observations=late_observations,
            missing=missing,
            setpoint=setpoint,
            delay=status.delay_ms / 1000.0,
            speed_scale=status.speed_scale or 1.0,
            state=PlannerState(status.state),
            proposal=None if sent is None else proposal_from_msg(sent, 0.0),
            **{name: getattr(status, name) for name in names},
        )

    def _missing_step(self, status: Message) -> str:
        """Return a description of a step missing before ``status``; empty if none is missing.

        A missing step shows as a gap in the planner's count of plans for a goal.
        """
        count, last = status.replans, self._last_count
        if count == 0:  # no goal, or no plan
            self._uncounted += 1
            return ''
        before = 0 if last is None or count <= last else last
        is_complete = last is None or count <= before + 1 + self._uncounted
        self._last_count, self._uncounted = count, 0
        return '' if is_complete else 'a step before it'

    def _joint_values(self, status: Message, name: str) -> FloatArray | None:
        """Return a status field with one value (rad) per joint; None if it is empty."""
        values, count = np.array(getattr(status, name), dtype=float), len(self._names)
        if len(values) not in (0, count) or not np.all(np.isfinite(values)):
            raise ConversionError(
                f'planner status: expected {count} finite joints in {name}, got {values}'
            )
        return values if len(values) else None

    def _observation(self, stamp: float, position: FloatArray | None = None) -> Observation | None:
        """Return the observation at ``stamp``; None if its image or joints are missing.

        ``position`` (J,) rad are the joints; None: interpolated between joint states.
        """
        if stamp not in self._images:
            return None
        published, image = self._images[stamp]
        position = self._joints.at(stamp, published) if position is None else position
        pixels = self._pixels(image)
        if position is None or pixels is None:
            return None
        return Observation(pixels, position, stamp)

    def _pixels(self, image: Message) -> ImageArray | None:
        """Return the model's input image (h, w, 3) uint8 RGB, with the wrist image below it.

        Return None if the wrist camera's image is missing.
        """
        width, wrist = self._camera.width, self._camera.wrist
        pixels = image_from_msg(image, (width, self._camera.height))
        if wrist is None:
            return pixels
        stamp = to_seconds(image.header.stamp)
        near = [(abs(at - stamp), message) for at, message in self._wrist]
        offset, closest = min(near, key=lambda entry: entry[0], default=(np.inf, None))
        if closest is None or offset > MAX_WRIST_OFFSET_S:
            return None
        return np.concatenate([pixels, image_from_msg(closest, (width, wrist.height))])

    def _goal(self, msg: Message, active: tuple[float, float]) -> RecordedGoal:
        """Return the goal in ``msg``; ``active`` is its start and end, s of the system clock."""
        camera, position, goal_observation, yaw = self._camera, None, None, None
        has_yaw = msg.yaw_tolerance > 0.0
        subject = SUBJECTS.get(msg.kind, 'object' if msg.subject == 0 else 'tip')
        if msg.kind in (GOAL_IMAGE, GOAL_JOINTS):
            pixels = np.zeros(camera.image_shape, dtype=np.uint8)
            if msg.kind == GOAL_IMAGE:
                pixels = image_from_msg(msg.image, (camera.width, camera.image_size[0]))
            joints = joints_from_msg(msg.joints, self._names).position
            goal_observation = Observation(pixels, joints, 0.0)
        elif msg.kind in (GOAL_OBJECT_POSE, GOAL_TIP_POSE):
            p = msg.pose.pose.position
            position = np.array([p.x, p.y, p.z])
            yaw = yaw_from_msg(msg.pose.pose.orientation) if has_yaw else None
        else:
            raise ConversionError(f'goal: expected kind 0, 2, 3 or 4, got {msg.kind}')
        tolerance, estimated = _goal_marker(self._topics['planner/plan_markers'], active)
        return RecordedGoal(
            published=active[0],
            subject=subject,
            position=position,
            yaw=yaw,
            has_yaw=has_yaw,
            goal_observation=goal_observation,
            tolerance=tolerance,
            estimated_position=estimated,
            outcome=_outcome(self._topics['move_to_goal/_action/status'], active[0]),
        )


def _goal_marker(
    markers: TimedMessages, active: tuple[float, float]
) -> tuple[float, FloatArray | None]:
    """Return radius (m) and position (3,) m of the first goal marker sent during ``active``."""
    for at, msg in markers:
        for marker in msg.markers if active[0] <= at < active[1] else ():
            if (marker.id, marker.type, marker.action) == (GOAL_MARKER_ID, SPHERE, 0):
                p = marker.pose.position
                return marker.scale.x / 2.0, np.array([p.x, p.y, p.z])
    return np.nan, None


def _outcome(statuses: TimedMessages, start: float) -> str:
    """Return the final status of the last goal accepted before ``start``; empty if unknown."""
    first_seen: dict[bytes, float] = defaultdict(lambda: np.inf)
    ended: dict[bytes, str] = {}
    for at, msg in statuses:
        for status in msg.status_list:
            key = bytes(status.goal_info.goal_id.uuid)
            first_seen[key] = min(first_seen[key], at)
            if status.status in OUTCOMES and at >= start:
                ended.setdefault(key, OUTCOMES[status.status])
    before = [(at, key) for key, at in first_seen.items() if at <= start and key in ended]
    return ended[max(before)[1]] if before else ''
