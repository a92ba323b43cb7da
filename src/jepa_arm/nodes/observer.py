"""What the planner sees: images and joints. Callbacks put, the planning thread takes.

Ages run on the steady clock from the arrival of a message; its stamp says what it belongs to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition
from time import monotonic

import numpy as np
from sensor_msgs.msg import CameraInfo, Image, JointState

from ..config import CameraConfig
from ..data.recording import TOO_OLD, WRIST_APART_S, WRIST_IMAGES
from ..sight import Motion, Stillness, camera_difference, image_fault
from ..types import FloatArray, ImageArray, JointSample, Observation
from . import conversions as convert
from .diagnostics import Rate

JOINTS_KEPT = 500
MOST_SECONDS = 2**31 - 2
"""What a stamp can hold."""
JOINTS_WAIT_S = 0.02
"""How long an image waits for a joint state as new as itself."""
FROZEN_PIXELS = 2.0
"""How far the tip may move in sight of the camera while no pixel of the image changes."""


class NoObservation(Exception):
    """Nothing to plan from; the message says what is missing and what to look at."""


class NoSight(NoObservation):
    """There are joints, but no image to plan from."""


class LateImage(NoSight):
    """An image too old to plan from, which still tells what was.

    Attributes:
        observation: it, with the joints at its stamp.
    """

    def __init__(self, message: str, observation: Observation) -> None:
        super().__init__(message)
        self.observation = observation


class NoJoints(NoObservation):
    """There are no joints to plan from now: none came, or what came is old or cannot be used."""


class WrongSight(NoObservation):
    """The images are not of the model's camera, or not of now: nothing is believed of them."""


class WristView:
    """What the wrist camera sees beside the images of the one that stands still.

    It must be there, new and good, with each of them: a model that was taught by both sees
    nothing that it knows in one of them alone.
    """

    def __init__(
        self,
        camera: CameraConfig,
        max_clipped: float,
        tip_of: Callable[[FloatArray], FloatArray],
        topic: str,
    ) -> None:
        """The arguments are those of ``Observer``; ``topic``: whole name, for messages."""
        assert camera.wrist is not None
        self._size, self._max_clipped = (camera.width, camera.wrist.height), max_clipped
        self._stillness = Stillness(camera, tip_of, FROZEN_PIXELS)
        self._image: Image | None = None
        self._topic = topic

    def put(self, msg: Image) -> None:
        """Takes the newest image."""
        self._image = msg

    def is_as_new_as(self, stamp: float) -> bool:
        """Whether an image of ``stamp`` (s) or later is here, as nearly as counts."""
        image = self._image
        return image is not None and self._stamp(image) >= stamp - WRIST_APART_S

    def newest(self, stamp: float) -> ImageArray:
        """(h, w, 3) uint8 RGB, of about ``stamp`` (s).

        Raises:
            NoSight: there is none, or it shows nothing.
        """
        image = self._image
        if image is None:
            raise NoSight(f'no image has come; is something publishing on {self._topic}?')
        apart = self._stamp(image) - stamp
        if abs(apart) > WRIST_APART_S:
            raise NoSight(
                f'the image of the wrist camera is {apart:+.2f} s from that of the other, '
                f'expected <= {WRIST_APART_S} s; are both drivers alive, and on one clock?'
            )
        try:
            pixels = convert.image_from_msg(image, self._size)
        except convert.ConversionError as error:
            raise NoSight(f'wrist camera: {error}') from None
        fault = image_fault(pixels, self._max_clipped)
        if fault:
            raise NoSight(f'wrist camera: {fault}')
        return pixels

    def fault(self, image: ImageArray, joints: FloatArray, moved: FloatArray, stamp: float) -> str:
        """See ``Stillness.fault``."""
        fault = self._stillness.fault(image, joints, moved, stamp)
        return fault and f'wrist camera: {fault}'

    @staticmethod
    def _stamp(image: Image) -> float:
        return convert.to_seconds(image.header.stamp)


class Observer:
    """Makes observations of the newest image and the joints at its stamp."""

    def __init__(
        self,
        joint_names: Sequence[str],
        velocity_limit: FloatArray,
        camera: CameraConfig,
        max_image_age: float,
        max_joint_age: float,
        max_clipped: float,
        tip_of: Callable[[FloatArray], FloatArray],
        name_of: Callable[[str], str] = str,
    ) -> None:
        """Waits for messages.

        Args:
            joint_names: of the arm. velocity_limit: (J,) rad/s, of its joints.
            camera: of the model.
            max_image_age, max_joint_age: s, older ones are not planned from.
            max_clipped: share of black or of overexposed pixels, above which neither is.
            tip_of: (3,) m, the arm's tip in its base frame at joints (J,) rad.
            name_of: whole name of a topic, as remapped, for messages.
        """
        self._names, self._camera = joint_names, camera
        self._max_image_age, self._max_joint_age = max_image_age, max_joint_age
        self._max_clipped = max_clipped
        self._name_of = name_of
        self._stillness = Stillness(camera, tip_of, FROZEN_PIXELS)
        self._late_stillness = Stillness(camera, tip_of, FROZEN_PIXELS)
        self._wrist: WristView | None = None
        if camera.wrist is not None:
            self._wrist = WristView(camera, max_clipped, tip_of, name_of(WRIST_IMAGES))
        self._changed = Condition()
        self._joints: deque[JointSample] = deque(maxlen=JOINTS_KEPT)
        self._motion, self._moved = Motion(velocity_limit), deque[JointSample](maxlen=JOINTS_KEPT)
        self._joints_at = self._image_at = self._stamp_at = -np.inf
        self._joints_fault = self.camera_fault = ''
        self._image: Image | None = None
        self._camera_said: tuple[int, int, bytes] | None = None
        self._is_new = False
        self.has_intrinsics = False
        self.image_rate, self.joint_rate = Rate(), Rate()

    def put_image(self, msg: Image) -> None:
        """Takes the newest image."""
        self.image_rate.count()
        with self._changed:
            if self._image is None or msg.header.stamp != self._image.header.stamp:
                self._stamp_at = monotonic()
            self._image, self._image_at, self._is_new = msg, monotonic(), True
            self._changed.notify_all()

    def put_wrist_image(self, msg: Image) -> None:
        """Takes the newest image of the wrist camera, which the model must have been taught by."""
        assert self._wrist is not None
        with self._changed:
            self._wrist.put(msg)
            self._changed.notify_all()

    def put_joints(self, msg: JointState, waited: float = 0.0) -> None:
        """Takes one joint state, which came ``waited`` s ago."""
        self.joint_rate.count()
        try:
            sample = convert.joints_from_msg(msg, self._names)
            fault = '' if np.all(np.isfinite(sample.position)) else 'joint states are not finite'
            if not 0.0 <= sample.stamp < MOST_SECONDS:
                fault = (
                    f'joint states: expected a stamp of 0 to {MOST_SECONDS} s, got {sample.stamp}'
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
            was_waited_for = not self._is_complete()
            self._joints.append(sample)
            self._moved.append(self._motion.see(sample))
            self._joints_at = monotonic() - waited
            if was_waited_for and self._is_complete():
                self._changed.notify_all()  # else nobody waits: waking the thread costs more

    def put_camera_info(self, msg: CameraInfo) -> None:
        """Compares the camera with the one that the model was trained with."""
        said = msg.width, msg.height, msg.k.tobytes()
        if said != self._camera_said:  # it comes with each image, and seldom says anything new
            self._camera_said = said
            self.has_intrinsics = msg.k[0] > 0.0
            self.camera_fault = camera_difference(msg, self._camera)

    def wait(self, timeout: float) -> bool:
        """Whether an image that was not waited for before is here, with all else of its time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_new, timeout):
                return False
            self._is_new = False
            self._changed.wait_for(self._is_complete, JOINTS_WAIT_S)
            return True

    def observe(self) -> Observation:
        """The newest image with the joints interpolated at its stamp.

        Raises:
            NoSight: only the image is missing, too old, or shows nothing.
            NoJoints: joints are missing, too old, or cannot be used.
            WrongSight: what it shows cannot be believed.
            NoObservation: the stamps of the two cannot be those of one clock.
        """
        with self._changed:
            image, joints, moved = self._image, list(self._joints), list(self._moved)
            image_age, joint_age = monotonic() - self._image_at, monotonic() - self._joints_at
            stamp_age = monotonic() - self._stamp_at
        if self.camera_fault:
            raise WrongSight(self.camera_fault)
        if self._joints_fault:
            raise NoJoints(self._joints_fault)
        has_joints = joints and joint_age <= self._max_joint_age
        if image is None or image_age > self._max_image_age:
            problem = NoSight if has_joints else NoJoints
            raise problem(self._silence('image', 'camera/image_raw', image_age))
        if not has_joints:
            raise NoJoints(self._silence('joint state', 'joint_states', joint_age))
        stamp = convert.to_seconds(image.header.stamp)
        age = self.age(stamp)
        self._check_stamp(age, stamp_age)
        try:
            size = self._camera.width, self._camera.height
            pixels = convert.image_from_msg(image, size)
        except convert.ConversionError as error:
            raise NoSight(str(error)) from None
        fault = image_fault(pixels, self._max_clipped)
        if fault:
            raise NoSight(fault)
        when = self._at(joints, stamp), self._at(moved, stamp), stamp
        is_late = age > self._max_image_age  # or its stamp is wrong
        stillness = self._late_stillness if is_late else self._stillness
        with self._changed:
            fault = stillness.fault(pixels, *when)
            if self._wrist is not None:
                below = self._wrist.newest(stamp)
                fault = fault or self._wrist.fault(below, *when)
                pixels = np.concatenate([pixels, below])
        if fault:
            raise WrongSight(fault)
        observation = Observation(pixels, when[0], stamp)
        if is_late:
            raise LateImage(f'the newest image is {age:.2f} {TOO_OLD}', observation)
        return observation

    @property
    def image_stamp(self) -> float:
        """s, of the newest image, whatever it shows; NaN before the first."""
        with self._changed:
            return np.nan if self._image is None else convert.to_seconds(self._image.header.stamp)

    def newest(self) -> JointSample | None:
        """The newest joint state; None if there is none, or it is old."""
        with self._changed:
            is_old = monotonic() - self._joints_at > self._max_joint_age
            if not self._joints or is_old or self._joints_fault:
                return None
            return self._joints[-1]

    def joints(self) -> FloatArray | None:
        """(J,) rad, the newest measured positions; None if there are none or they are old."""
        newest = self.newest()
        return None if newest is None else newest.position

    def age(self, stamp: float) -> float:
        """s since ``stamp``, by the newest joint state's stamp and arrival: finer than /clock."""
        with self._changed:
            newest = self._joints[-1].stamp if self._joints else np.nan
            return newest + monotonic() - self._joints_at - stamp

    def _check_stamp(self, age: float, unchanged_for: float) -> None:
        """Raises ``NoObservation`` if the image's stamp cannot be right.

        Args:
            age: s, by its stamp.
            unchanged_for: s since an image with another stamp came.
        """
        if age < -self._max_joint_age:
            raise NoObservation(
                f'the newest image is from the future, {-age:.2f} s ahead of the joints: expected '
                'stamps of one clock'
            )
        if unchanged_for > self._max_image_age:
            raise NoObservation(
                f'images have had the same stamp for {unchanged_for:.1f} s: does the clock stand '
                'still?'
            )

    def _is_complete(self) -> bool:
        """Whether what belongs to the newest image is here."""
        if self._image is None or not self._joints:
            return False
        stamp = convert.to_seconds(self._image.header.stamp)
        has_wrist = self._wrist is None or self._wrist.is_as_new_as(stamp)
        return self._joints[-1].stamp >= stamp and has_wrist

    def _at(self, joints: list[JointSample], stamp: float) -> FloatArray:
        """(J,) rad at ``stamp``, linear between its neighbours; the nearest beyond the ends."""
        stamps = np.array([sample.stamp for sample in joints])
        i = int(np.searchsorted(stamps, stamp))
        early, late = joints[max(0, i - 1)], joints[min(i, len(joints) - 1)]
        gap = min(abs(stamp - early.stamp), abs(stamp - late.stamp))
        if gap > self._max_joint_age:
            raise NoObservation(
                f'the joint state nearest to the image is {gap:.2f} s away: expected stamps of '
                'one clock on camera and joints'
            )
        width = late.stamp - early.stamp
        share = min(1.0, max(0.0, (stamp - early.stamp) / width)) if width > 0.0 else 0.0
        return early.position + share * (late.position - early.position)

    def _silence(self, what: str, topic: str, age: float) -> str:
        question = f'is something publishing on {self._name_of(topic)}?'
        if not np.isfinite(age):
            return f'no {what} has come; {question}'
        return f'no {what} for {age:.1f} s; {question}'
