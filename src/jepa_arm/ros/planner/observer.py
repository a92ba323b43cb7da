"""Observer: observations from the newest image and joint states.

Callbacks put messages, the planning thread takes observations. Ages are measured on the steady
clock from the arrival of a message; stamps relate messages to each other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition
from time import monotonic

import numpy as np
from sensor_msgs.msg import CameraInfo, Image, JointState

from jepa_arm.config import CameraConfig, TimeConfig
from jepa_arm.core.types import FloatArray, ImageArray, JointSample, Observation
from jepa_arm.datasets.recording import MAX_WRIST_OFFSET_S, WRIST_IMAGE_TOPIC
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.camera_checks import (
    FrozenImageDetector,
    JumpFilter,
    camera_difference,
    image_fault,
)
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.diagnostics import RateMeter

from .settings import PlannerSettings

MAX_JOINT_SAMPLES = 500
MAX_STAMP_S = 2**31 - 2
"""Largest stamp that a message can hold."""
JOINT_WAIT_S = 0.02
"""Longest time for which an image waits for a joint state that is at least as new."""
FROZEN_PIXELS = 2.0
"""Motion of the tip in pixels after which a camera that repeats one image counts as frozen."""


class NoObservation(Exception):
    """There is nothing to plan from; the message names what is missing and what to check."""


class NoImage(NoObservation):
    """There are joint states, but no image to plan from."""


class LateImage(NoImage):
    """The newest image is too old to plan from but still updates the belief.

    Attributes:
        observation: the image, with the joints at its stamp.
    """

    def __init__(self, message: str, observation: Observation) -> None:
        super().__init__(message)
        self.observation = observation


class NoJoints(NoObservation):
    """There is no usable joint state: none arrived, or it is too old or invalid."""


class UntrustedImage(NoObservation):
    """The images are from another camera or frozen: the belief based on them is wrong."""


class WristCamera:
    """Newest image of a wrist camera.

    A model that was trained with a wrist camera needs a new and usable wrist image with each image
    of the fixed camera.

    Attributes:
        image: newest image; None before the first.
    """

    def __init__(self, arm: Arm, camera: CameraConfig, max_clipped: float, topic: str) -> None:
        """Start without an image; ``topic`` is the resolved name, for messages."""
        assert camera.wrist is not None
        self._size, self._max_clipped = (camera.width, camera.wrist.height), max_clipped
        self._detector = FrozenImageDetector(camera, arm.tip_position, FROZEN_PIXELS)
        self.image: Image | None = None
        self._topic = topic

    def is_as_new_as(self, stamp: float) -> bool:
        """Return whether the newest image was taken at about ``stamp`` (s) or later."""
        return self.image is not None and _stamp_of(self.image) >= stamp - MAX_WRIST_OFFSET_S

    def image_at(self, stamp: float) -> ImageArray:
        """Return the image (h, w, 3) uint8 RGB taken at about ``stamp`` (s).

        Raises:
            NoImage: there is none, or it is unusable.
        """
        if self.image is None:
            raise NoImage(f'no image has come; is something publishing on {self._topic}?')
        offset = _stamp_of(self.image) - stamp
        if abs(offset) > MAX_WRIST_OFFSET_S:
            raise NoImage(
                f'the image of the wrist camera is {offset:+.2f} s from that of the other, '
                f'expected <= {MAX_WRIST_OFFSET_S} s; are both drivers alive, and on one clock?'
            )
        return _pixels_of(self.image, self._size, self._max_clipped, 'wrist camera: ')

    def fault(self, image: ImageArray, joints: FloatArray, moved: FloatArray, stamp: float) -> str:
        """Return why the image is frozen, or ''; see ``FrozenImageDetector.fault``."""
        fault = self._detector.fault(image, joints, moved, stamp)
        return fault and f'wrist camera: {fault}'


class Observer:
    """Source of observations: the newest image with the joints at its stamp.

    Attributes:
        camera_fault: difference between the camera and the model's camera; empty if none.
        has_intrinsics: whether a camera info with intrinsics has arrived.
        image_rate, joint_rate: rates of the messages.
    """

    def __init__(
        self,
        arm: Arm,
        camera: CameraConfig,
        limits: PlannerSettings,
        resolve_topic: Callable[[str], str] = str,
    ) -> None:
        """Start without messages.

        Args:
            arm: joint names, velocity limits and kinematics.
            camera: camera that the model was trained with.
            limits: settings with the largest age and clipping of usable messages.
            resolve_topic: returns the resolved name of a topic, for messages.
        """
        self._names, self._camera, self._limits = arm.joint_names, camera, limits
        self._resolve_topic = resolve_topic
        self._detector = FrozenImageDetector(camera, arm.tip_position, FROZEN_PIXELS)
        self._late_detector = FrozenImageDetector(camera, arm.tip_position, FROZEN_PIXELS)
        self._wrist: WristCamera | None = None
        if camera.wrist is not None:
            topic = resolve_topic(WRIST_IMAGE_TOPIC)
            self._wrist = WristCamera(arm, camera, limits.max_clipped, topic)
        self._changed = Condition()
        self._joints: deque[JointSample] = deque(maxlen=MAX_JOINT_SAMPLES)
        self._jump_filter = JumpFilter(arm.max_velocity)
        self._moved: deque[JointSample] = deque(maxlen=MAX_JOINT_SAMPLES)
        self._joints_at = self._image_at = self._stamp_changed_at = -np.inf
        self._joints_fault = self.camera_fault = ''
        self._image: Image | None = None
        self._camera_key: tuple[int, int, bytes] | None = None
        self._is_new = False
        self.has_intrinsics = False
        self.image_rate, self.joint_rate = RateMeter(), RateMeter()

    def put_image(self, msg: Image) -> None:
        """Store the newest image and wake the threads that wait for it."""
        self.image_rate.count()
        with self._changed:
            if self._image is None or msg.header.stamp != self._image.header.stamp:
                self._stamp_changed_at = monotonic()
            self._image, self._image_at, self._is_new = msg, monotonic(), True
            self._changed.notify_all()

    def put_wrist_image(self, msg: Image) -> None:
        """Store the newest image of the wrist camera, which the model must have."""
        assert self._wrist is not None
        with self._changed:
            self._wrist.image = msg
            self._changed.notify_all()

    def put_joints(self, msg: JointState, queue_delay: float = 0.0) -> None:
        """Check and store a joint state that arrived ``queue_delay`` s ago."""
        self.joint_rate.count()
        try:
            sample = convert.joints_from_msg(msg, self._names)
            fault = '' if np.all(np.isfinite(sample.position)) else 'joint states are not finite'
            if not 0.0 <= sample.stamp < MAX_STAMP_S:
                fault = (
                    f'joint states: expected a stamp of 0 to {MAX_STAMP_S} s, got {sample.stamp}'
                )
        except convert.ConversionError as error:
            sample, fault = None, str(error)
        with self._changed:
            self._joints_fault = fault
            if sample is None or fault:
                return
            if self._joints and sample.stamp < self._joints[-1].stamp:
                self._joints.clear()  # the clock jumped back
                self._moved.clear()
            was_incomplete = not self._is_complete()
            self._joints.append(sample)
            self._moved.append(self._jump_filter.filter(sample))
            self._joints_at = monotonic() - queue_delay
            if was_incomplete and self._is_complete():
                self._changed.notify_all()  # only then: waking the planning thread is expensive

    def put_camera_info(self, msg: CameraInfo) -> None:
        """Compare the camera with the model's camera."""
        key = msg.width, msg.height, msg.k.tobytes()
        if key != self._camera_key:  # arrives with each image and rarely changes
            self._camera_key = key
            self.has_intrinsics = msg.k[0] > 0.0
            self.camera_fault = camera_difference(msg, self._camera)

    def wait(self, timeout: float) -> bool:
        """Wait for a new image and the joint state that belongs to it.

        Returns:
            True if a new image, one for which no earlier call returned True, came within
            ``timeout`` s.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_new, timeout):
                return False
            self._is_new = False
            self._changed.wait_for(self._is_complete, JOINT_WAIT_S)
            return True

    def observe(self) -> Observation:
        """Return the newest image with the joints interpolated at its stamp.

        Raises:
            NoImage: only the image is missing, too old or unusable.
            NoJoints: joint states are missing, too old or invalid.
            UntrustedImage: the image is of another camera, or frozen.
            NoObservation: the stamps of image and joints are not from one clock.
        """
        with self._changed:
            image, joints, moved = self._image, list(self._joints), list(self._moved)
            image_age, joint_age = monotonic() - self._image_at, monotonic() - self._joints_at
            stamp_age = monotonic() - self._stamp_changed_at
        if self.camera_fault:
            raise UntrustedImage(self.camera_fault)
        if self._joints_fault:
            raise NoJoints(self._joints_fault)
        has_joints = joints and joint_age <= self._limits.max_joint_age
        if image is None or image_age > self._limits.max_image_age:
            problem = NoImage if has_joints else NoJoints
            raise problem(self._missing('image', 'camera/image_raw', image_age))
        if not has_joints:
            raise NoJoints(self._missing('joint state', 'joint_states', joint_age))
        stamp = _stamp_of(image)
        age = self.age(stamp)
        self._check_stamp(age, stamp_age)
        size = self._camera.width, self._camera.height
        pixels = _pixels_of(image, size, self._limits.max_clipped)
        pose = self._at(joints, stamp), self._at(moved, stamp), stamp
        is_late = age > self._limits.max_image_age  # or its stamp is wrong
        detector = self._late_detector if is_late else self._detector
        with self._changed:
            fault = detector.fault(pixels, *pose)
            if self._wrist is not None:
                wrist_pixels = self._wrist.image_at(stamp)
                fault = fault or self._wrist.fault(wrist_pixels, *pose)
                pixels = np.concatenate([pixels, wrist_pixels])
        if fault:
            raise UntrustedImage(fault)
        observation = Observation(pixels, pose[0], stamp)
        if is_late:
            raise LateImage(f'the newest image is {age:.2f} s old on arrival', observation)
        return observation

    @property
    def image_stamp(self) -> float:
        """Stamp of the newest image in s, usable or not; NaN before the first."""
        with self._changed:
            return np.nan if self._image is None else _stamp_of(self._image)

    def newest_joints(self) -> JointSample | None:
        """Return the newest joint state; None if there is none or it is too old."""
        with self._changed:
            is_old = monotonic() - self._joints_at > self._limits.max_joint_age
            if not self._joints or is_old or self._joints_fault:
                return None
            return self._joints[-1]

    def age(self, stamp: float) -> float:
        """Return the time since ``stamp`` in s.

        Computed from the stamp and arrival of the newest joint state, as ``/clock`` is coarser.
        """
        with self._changed:
            newest = self._joints[-1].stamp if self._joints else np.nan
            return newest + monotonic() - self._joints_at - stamp

    def _check_stamp(self, age: float, unchanged_for: float) -> None:
        """Check the stamp of the newest image.

        Args:
            age: s, according to the stamp.
            unchanged_for: s since an image with another stamp arrived.

        Raises:
            NoObservation: the stamp cannot be right.
        """
        if age < -self._limits.max_joint_age:
            raise NoObservation(
                f'the newest image is from the future, {-age:.2f} s ahead of the joints: expected '
                'stamps of one clock'
            )
        if unchanged_for > self._limits.max_image_age:
            raise NoObservation(
                f'images have had the same stamp for {unchanged_for:.1f} s: does the clock stand '
                'still?'
            )

    def _is_complete(self) -> bool:
        """Return whether joint state and wrist image are as new as the newest image."""
        if self._image is None or not self._joints:
            return False
        stamp = _stamp_of(self._image)
        has_wrist = self._wrist is None or self._wrist.is_as_new_as(stamp)
        return self._joints[-1].stamp >= stamp and has_wrist

    def _at(self, joints: list[JointSample], stamp: float) -> FloatArray:
        """Return the joints (J,) rad at ``stamp``, linearly interpolated, never extrapolated.

        Raises:
            NoObservation: no sample is near enough in time.
        """
        stamps = np.array([sample.stamp for sample in joints])
        i = int(np.searchsorted(stamps, stamp))
        early, late = joints[max(0, i - 1)], joints[min(i, len(joints) - 1)]
        gap = min(abs(stamp - early.stamp), abs(stamp - late.stamp))
        if gap > self._limits.max_joint_age:
            raise NoObservation(
                f'the joint state nearest to the image is {gap:.2f} s away: expected stamps of '
                'one clock on camera and joints'
            )
        width = late.stamp - early.stamp
        share = min(1.0, max(0.0, (stamp - early.stamp) / width)) if width > 0.0 else 0.0
        return early.position + share * (late.position - early.position)

    def _missing(self, kind: str, topic: str, age: float) -> str:
        question = f'is something publishing on {self._resolve_topic(topic)}?'
        if not np.isfinite(age):
            return f'no {kind} has come; {question}'
        return f'no {kind} for {age:.1f} s; {question}'


def _stamp_of(image: Image) -> float:
    return convert.to_seconds(image.header.stamp)


class ObservationHistory:
    """Stamps of the newest observations, and the observations that came too late for a plan.

    Attributes:
        newest: s, stamp of the newest observation; NaN before the first.
        image_stamp: s, stamp of the newest image in the belief; -inf before the first.
        late: newest observations that came after a plan was made without them; the next plan
            takes them.
        is_distrusted: whether the last image was rejected, so that nothing may be planned.
    """

    def __init__(self, time: TimeConfig) -> None:
        self.newest, self.image_stamp = np.nan, -np.inf
        self.late = deque[Observation](maxlen=time.frame_skip + 1)
        self.is_distrusted = False
        self._blind_since: float | None = None

    @property
    def is_empty(self) -> bool:
        """Return whether there was no observation yet."""
        return np.isnan(self.newest)

    def add(self, observation: Observation) -> None:
        """Add an observation, which ends any blindness."""
        self.newest = self.image_stamp = observation.stamp
        self.is_distrusted = False
        self.end_blindness()

    def blind_for(self) -> float:
        """Return for how long (s) there was nothing to plan from, counted from the first call."""
        if self._blind_since is None:
            self._blind_since = monotonic()
        return monotonic() - self._blind_since

    def end_blindness(self) -> None:
        """Record that observations are available again."""
        self._blind_since = None


def _pixels_of(
    image: Image, size: tuple[int, int], max_clipped: float, prefix: str = ''
) -> ImageArray:
    """Return the pixels (h, w, 3) uint8 RGB of ``image``.

    Args:
        image: camera image.
        size: (width, height) that it must have.
        max_clipped: largest fraction of black, and of overexposed, pixels.
        prefix: prefix of the error message.

    Raises:
        NoImage: the image is unusable.
    """
    try:
        pixels = convert.image_from_msg(image, size)
    except convert.ConversionError as error:
        raise NoImage(f'{prefix}{error}') from None
    fault = image_fault(pixels, max_clipped)
    if fault:
        raise NoImage(f'{prefix}{fault}')
    return pixels
