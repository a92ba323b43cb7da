"""Makes of the messages of an MCAP file what its planner saw, was asked for and proposed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..config import CameraConfig
from ..messages import (
    ConversionError,
    Message,
    image_from_msg,
    joints_from_msg,
    proposal_from_msg,
    to_seconds,
    yaw_from_msg,
)
from ..types import FloatArray, ImageArray, JointSample, Observation
from .mcap_file import RecordingError
from .recording import (
    FROM_BELIEF,
    TOO_OLD,
    WRIST_APART_S,
    WRIST_IMAGES,
    Asked,
    PlannerState,
    Recording,
    Step,
)
from .topics import Timed, read_topics

AROUND_S = 1.0
"""Joint states that came so long before or after an image may be those at its stamp."""
JOINT_GAP_S = 0.1
GOAL_MARKER, SPHERE = 1, 2
"""Id and type of the marker that shows the goal; obstacles may be spheres, too."""
OUTCOMES = {4: 'SUCCEEDED', 5: 'CANCELED', 6: 'ABORTED'}
"""Of ``GoalStatus.msg``, those with which a goal ends."""


def read_recording(
    path: Path, joint_names: Sequence[str], camera: CameraConfig, namespace: str | None = None
) -> Recording:
    """The recording in ``path``, of an arm with joints ``joint_names`` and images of ``camera``.

    Args:
        path, joint_names, camera: see above.
        namespace: of the graph; needed if the file holds several.

    Raises:
        RecordingError: no MCAP file, cut off, damaged, without a topic that is needed, or of
            another arm or camera. OSError: it cannot be read.
    """
    space, topics, about = read_topics(path, namespace)
    if not topics['planner/goal']:
        raise RecordingError(f'{path}: expected a goal that was pursued, got none to decide about')
    try:
        joints = Joints(topics['joint_states'], joint_names)
        views = _Views(topics, camera)
        steps = _steps(topics, joints, joint_names, views)
        goals = _goals(topics, joint_names, camera)
        unplanned = _unplanned(topics, joints, steps, views)
    except ConversionError as error:
        raise RecordingError(f'{path}: another arm or camera? {error}') from None
    except (AttributeError, TypeError) as error:
        raise RecordingError(f'{path}: messages of another version? {error}') from None
    if not steps:
        raise RecordingError(f'{path}: expected planning steps with their images, got none')
    infos = topics['camera/camera_info']
    info = infos[0][1] if infos else None
    began = topics['camera/image_raw'][0][0]
    return Recording(path, space, about, began, steps, goals, unplanned, info)


class Joints:
    """Joint states by their stamps and by their publication."""

    def __init__(self, messages: Timed, names: Sequence[str]) -> None:
        samples = [(at, joints_from_msg(msg, names)) for at, msg in messages]
        kept = [(at, sample) for at, sample in samples if np.all(np.isfinite(sample.position))]
        if not kept:
            raise ConversionError('joint states: expected finite ones, got none')
        self._published = np.array([at for at, _ in kept])
        self._stamps = np.array([sample.stamp for _, sample in kept])
        self._positions = np.array([sample.position for _, sample in kept])

    def at(self, stamp: float, published: float) -> FloatArray | None:
        """(J,) rad at ``stamp``, interpolated among those published about then; None: too far."""
        first, last = np.searchsorted(
            self._published, [published - AROUND_S, published + AROUND_S]
        )
        stamps = self._stamps[first:last]
        if len(stamps) == 0 or np.min(np.abs(stamps - stamp)) > JOINT_GAP_S:
            return None
        order = np.argsort(stamps, kind='stable')
        columns = self._positions[first:last][order].T
        return np.array([np.interp(stamp, stamps[order], column) for column in columns])


def _steps(
    topics: Mapping[str, Timed],
    joints: Joints,
    joint_names: Sequence[str],
    views: _Views,
) -> tuple[Step, ...]:
    reader = _StepReader(topics, joints, joint_names, views)
    steps: list[Step] = []
    for published, status in topics['planner/status']:
        step = reader.step(published, status, steps[-1].seen.stamp if steps else np.nan)
        if step is not None:
            steps.append(step)
    return tuple(steps)


class _Views:
    """Images as the model sees them: with what the wrist camera saw below, if there is one."""

    def __init__(self, topics: Mapping[str, Timed], camera: CameraConfig) -> None:
        self._camera = camera
        self._below = [(to_seconds(m.header.stamp), m) for _, m in topics[WRIST_IMAGES]]

    def pixels(self, image: Message) -> ImageArray | None:
        """(h, w, 3) uint8 RGB; None where no image of the wrist camera is of its time."""
        width, wrist = self._camera.width, self._camera.wrist
        pixels = image_from_msg(image, (width, self._camera.height))
        if wrist is None:
            return pixels
        stamp = to_seconds(image.header.stamp)
        apart, below = min(
            ((abs(at - stamp), m) for at, m in self._below),
            key=lambda found: found[0],
            default=(np.inf, None),
        )
        if below is None or apart > WRIST_APART_S:
            return None
        return np.concatenate([pixels, image_from_msg(below, (width, wrist.height))])


class _StepReader:
    """Makes steps of statuses, one after the other."""

    def __init__(
        self,
        topics: Mapping[str, Timed],
        joints: Joints,
        joint_names: Sequence[str],
        views: _Views,
    ) -> None:
        images, proposals = topics['camera/image_raw'], topics['planner/joint_trajectory']
        self._images = {to_seconds(msg.header.stamp): (at, msg) for at, msg in images}
        self._proposals = {to_seconds(msg.header.stamp): msg for _, msg in proposals}
        self._joints, self._names, self._views = joints, joint_names, views
        self._counted, self._was_blind = _Counted(), False

    def step(self, published: float, status: Message, last: float) -> Step | None:
        """The step that ``status`` tells of; None: of none, or of that whose stamp is ``last``."""
        stamp = to_seconds(status.observation_stamp)
        told = _row(status, 'told', self._names)
        self._was_blind = self._was_blind or TOO_OLD in status.reason
        if stamp not in self._images and (stamp == 0.0 or told is None):
            return None  # nothing was planned
        if stamp == last:
            return None
        lacks = self._counted.lacks(status)
        position = _row(status, 'joints', self._names)
        if position is None:
            position = self._joints.at(stamp, self._images.get(stamp, (published, None))[0])
        if position is None:
            return None
        seen: Observation | JointSample | None = None
        is_blind = status.reason.endswith(FROM_BELIEF)  # where it has an image, that came later
        if not is_blind:
            seen = self._seen(stamp, position)
            lacks = lacks if seen is not None else 'its image'
        late, lacks = self._late(status, lacks)
        self._was_blind = is_blind
        sent = self._proposals.get(stamp)
        return Step(
            published,
            status.plan_ms,
            late,
            lacks,
            told,
            status.is_continued,
            status.latency_ms / 1000.0,
            getattr(status, 'speed_scale', 0.0) or 1.0,  # older recordings have none
            seen or JointSample(position, np.zeros_like(position), stamp),
            PlannerState(status.state),
            status.source,
            status.candidates,
            getattr(status, 'sweeps', 0),  # older recordings have none
            status.distance,
            status.surprise,
            None if sent is None else proposal_from_msg(sent, 0.0),
        )

    def _late(self, status: Message, lacks: str) -> tuple[tuple[Observation, ...] | None, str]:
        """What was seen late before a step, None where nobody tells; and what the step lacks."""
        if not hasattr(status, 'seen_late'):  # older recordings have none
            return None, lacks or ('when a late image was seen' if self._was_blind else '')
        found = [self._seen(to_seconds(stamp)) for stamp in status.seen_late]
        late = tuple(observation for observation in found if observation is not None)
        return late, lacks if len(late) == len(found) else 'an image that came late'

    def _seen(self, stamp: float, position: FloatArray | None = None) -> Observation | None:
        if stamp not in self._images:
            return None
        shown_at, image = self._images[stamp]
        position = self._joints.at(stamp, shown_at) if position is None else position
        pixels = self._views.pixels(image)
        if position is None or pixels is None:
            return None
        return Observation(pixels, position, stamp)


class _Counted:
    """Whether all steps of a goal are in the recording, by their count."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._uncounted = 0

    def lacks(self, status: Message) -> str:
        """What is missing before ``status``; empty if nothing."""
        count, last = status.replans, self._last
        if count == 0:  # no goal, or no plan
            self._uncounted += 1
            return ''
        before = 0 if last is None or count <= last else last
        is_whole = last is None or count <= before + 1 + self._uncounted
        self._last, self._uncounted = count, 0
        return '' if is_whole else 'a step before it'


def _unplanned(
    topics: Mapping[str, Timed], joints: Joints, steps: Sequence[Step], views: _Views
) -> tuple[tuple[float, Observation], ...]:
    planned = {step.seen.stamp for step in steps if isinstance(step.seen, Observation)}
    found = []
    for published, image in topics['camera/image_raw'] if steps else ():
        stamp = to_seconds(image.header.stamp)
        position = joints.at(stamp, published)
        if stamp in planned or not steps[0].seen.stamp < stamp < steps[-1].seen.stamp:
            continue
        pixels = views.pixels(image)
        if position is not None and pixels is not None:
            found.append((published, Observation(pixels, position, stamp)))
    return tuple(found)


def _row(status: Message, name: str, joint_names: Sequence[str]) -> FloatArray | None:
    """(J,) rad of a field; None where it is empty, or not there, as in older recordings."""
    row = np.array(getattr(status, name, ()), dtype=float)
    if len(row) not in (0, len(joint_names)) or not np.all(np.isfinite(row)):
        raise ConversionError(
            f'planner status: expected {len(joint_names)} finite joints in {name}, got {row}'
        )
    return row if len(row) else None


def _goals(
    topics: Mapping[str, Timed], names: Sequence[str], camera: CameraConfig
) -> tuple[Asked, ...]:
    goals = topics['planner/goal']
    ends = [*(at for at, _ in goals[1:]), np.inf][: len(goals)]
    return tuple(
        _asked(at, end, msg, topics, names, camera)
        for (at, msg), end in zip(goals, ends, strict=True)
    )


def _asked(
    at: float,
    end: float,
    msg: Message,
    topics: Mapping[str, Timed],
    names: Sequence[str],
    camera: CameraConfig,
) -> Asked:
    place = shown = yaw = None
    wants_yaw = getattr(msg, 'yaw_tolerance', 0.0) > 0.0  # recordings of before have none
    subject = 'object' if msg.subject == 0 else 'tip'
    if msg.kind == 0:  # IMAGE
        pixels = image_from_msg(msg.image, (camera.width, camera.seen[0]))
        shown = Observation(pixels, joints_from_msg(msg.joints, names).position, 0.0)
    elif msg.kind in (2, 3):  # OBJECT_POSE, TIP_POSE
        subject, p = ('object', 'tip')[msg.kind - 2], msg.pose.pose.position
        place = np.array([p.x, p.y, p.z])
        yaw = yaw_from_msg(msg.pose.pose.orientation) if wants_yaw else None
    elif msg.kind == 4:  # JOINTS
        subject, position = 'tip', joints_from_msg(msg.joints, names).position
        blank = np.zeros(camera.shape, dtype=np.uint8)
        shown = Observation(blank, position, 0.0)
    else:
        raise ConversionError(f'goal: expected kind 0, 2, 3 or 4, got {msg.kind}')
    reach, read_place = _drawn(topics['planner/plan_markers'], at, end)
    outcome = _outcome(topics['move_to_goal/_action/status'], at)
    return Asked(at, subject, place, shown, reach, read_place, outcome, yaw, wants_yaw)


def _drawn(markers: Timed, start: float, end: float) -> tuple[float, FloatArray | None]:
    """Radius (m) and place (3,) of the first sphere that was drawn as the goal."""
    for at, msg in markers:
        for marker in msg.markers if start <= at < end else ():
            if (marker.id, marker.type, marker.action) == (GOAL_MARKER, SPHERE, 0):
                p = marker.pose.position
                return marker.scale.x / 2.0, np.array([p.x, p.y, p.z])
    return np.nan, None


def _outcome(statuses: Timed, start: float) -> str:
    """How the goal ended that was accepted last before ``start``."""
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
