"""Arm: kinematics and limits from a URDF (pinocchio)."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pinocchio as pin
from numpy.typing import NDArray

from jepa_arm.config import ArmConfig
from jepa_arm.core.errors import JepaArmError
from jepa_arm.core.files import FileError, read_text, share_dir, urdf_path
from jepa_arm.core.types import FloatArray

logger = logging.getLogger(__name__)

DAMPING = 1e-4
POSTURE_GAIN = 0.1
MAX_IK_STEP_RAD = 0.3
MAX_URDF_BYTES = 10_000_000


class ArmError(JepaArmError, ValueError):
    """An arm cannot be used, or cannot meet a request."""


def read_urdf(name: str) -> str:
    """Return the URDF text of ``name``, a file in ``urdf/`` or an absolute path.

    A plain URDF is data. A xacro file is a program, which evaluates expressions and reads other
    files, so only those in ``urdf/`` are expanded.

    Raises:
        ArmError: the file is missing or too large; it is a xacro file that is invalid or lies
            elsewhere; or it contains entities or a mesh outside its package.
    """
    path = Path(name) if Path(name).is_absolute() else urdf_path(name)
    try:
        text = read_text(path, MAX_URDF_BYTES)
        if path.suffix == '.xacro':
            text = _expand(path)
    except (OSError, FileError, RuntimeError, SyntaxError) as error:
        raise ArmError(f'cannot read the URDF {path}: {error}') from error
    if '<!DOCTYPE' in text or '<!ENTITY' in text:
        raise ArmError(f'{path}: expected a URDF without DOCTYPE and entities')
    for mesh in re.findall(r'filename\s*=\s*["\']([^"\']*)', text):
        if '..' in Path(mesh).parts:
            raise ArmError(f'{path}: expected a mesh inside its package, got {mesh!r}')
    return text


def _expand(path: Path) -> str:
    """Return the URDF of a xacro file that belongs to the package.

    Raises:
        ArmError: the file lies elsewhere.
    """
    real = path.resolve()  # includes are relative to the real file, not to a symlink
    if not real.is_relative_to((share_dir() / 'urdf').resolve()):
        raise ArmError(
            f'{path}: xacro files are programs and only expanded in {share_dir() / "urdf"}; if '
            f'you trust it: xacro {path.name} > {path.stem}'
        )
    import xacro

    return xacro.process_file(str(real)).toprettyxml(indent=' ')


class Arm:
    """One arm's rigid-body model, reduced to the joints that ``config`` names.

    Joint vectors ``q`` are (J,) rad in the order of ``config.joints``; tip positions are
    (3,) m in ``config.base_link``.

    Attributes:
        joint_names: names of the J joints, in the order of joint vectors.
        lower, upper: (J,) rad, position limits of the URDF, tightened by ``config``.
        max_velocity: (J,) rad/s, velocity limit of the URDF, tightened by ``config``.
        velocity_limit, acceleration_limit, jerk_limit: (J,) rad/s, rad/s^2, rad/s^3, limits of
            planned motion: the hardware limits times the configured scales.
        braking_limit: (J,) rad/s^2, the whole acceleration limit, for stops.
        home: (J,) rad, home posture.
        urdf: expanded URDF text.
        model, geometry: pinocchio models, reduced to these joints; used by ``collision``.
    """

    def __init__(self, config: ArmConfig) -> None:
        self.config, self.joint_names = config, config.joints
        self.urdf = read_urdf(config.urdf)
        try:
            full = pin.buildModelFromXML(self.urdf)
        except (RuntimeError, ValueError) as error:
            raise ArmError(f'{config.urdf} is not a usable URDF: {error}') from error
        geometry = pin.buildGeomFromUrdfString(full, self.urdf, pin.GeometryType.COLLISION)
        self._check_names(full)
        locked = [i for i in range(1, full.njoints) if full.names[i] not in config.joints]
        self.model, self.geometry = pin.buildReducedModel(
            full, geometry, locked, pin.neutral(full)
        )
        self._data = self.model.createData()
        self._order = self._joint_order()
        self._tip = self.model.getFrameId(config.tip_link)
        self._base = self.model.getFrameId(config.base_link)
        self.home = np.array(config.home)
        self.lower = self._tightened('position_min', self.model.lowerPositionLimit, -1.0)
        self.upper = self._tightened('position_max', self.model.upperPositionLimit, 1.0)
        self.effort_limit = self._from_model(self.model.effortLimit)
        self.max_velocity = self._tightened('velocity_max', self.model.velocityLimit, 1.0)
        self.velocity_limit = self.max_velocity * config.velocity_scale
        self.braking_limit = np.array(config.acceleration)
        self.acceleration_limit = self.braking_limit * config.acceleration_scale
        self.jerk_limit = np.array(config.jerk) * config.jerk_scale
        self.workspace_min = np.array(config.workspace_min)
        self.workspace_max = np.array(config.workspace_max)
        outside = (self.home < self.lower) | (self.home > self.upper)
        if np.any(outside):  # also if position_min lies above position_max
            i = int(np.argmax(outside))
            raise ArmError(
                f'{config.name}.home: expected {config.joints[i]} within its limits, '
                f'{self.lower[i]} .. {self.upper[i]} rad, got {self.home[i]}'
            )

    def tip_position(self, q: FloatArray) -> FloatArray:
        """Return the tip position (3,) m in the base frame at joints ``q`` (J,)."""
        return self.tip_pose(q)[:3, 3]

    def tip_pose(self, q: FloatArray) -> FloatArray:
        """Return the pose (4, 4) of the tip frame in the base frame at joints ``q`` (J,)."""
        pin.forwardKinematics(self.model, self._data, self.to_model(q))
        pin.updateFramePlacements(self.model, self._data)
        base = self._data.oMf[self._base]
        return np.array(base.actInv(self._data.oMf[self._tip]).homogeneous)

    def jacobian(self, q: FloatArray) -> FloatArray:
        """Return the geometric Jacobian (6, J) of the tip, linear rows first, in world axes."""
        axes, values = pin.ReferenceFrame.LOCAL_WORLD_ALIGNED, self.to_model(q)
        full = pin.computeFrameJacobian(self.model, self._data, values, self._tip, axes)
        return np.array(full)[:, self._order]

    def ik(
        self, target: FloatArray, seed: FloatArray, iterations: int = 4
    ) -> tuple[FloatArray, float]:
        """Solve inverse kinematics for a tip position with the tool axis pointing down.

        Damped least squares on position and tool axis (rotation about the axis is free); the null
        space is used to approach the home posture, and joints are clipped to their limits.

        Args:
            target: (3,) m in the base frame.
            seed: (J,) rad to start from; the solution stays near it.
            iterations: Gauss-Newton steps; 4 suffice for a target that moves a few cm per call.

        Returns:
            Joints (J,) rad, and the remaining distance (m) to ``target``.
        """
        q = np.array(seed, dtype=float)
        axis_tip = np.array(self.config.tool_axis)
        eye, damping = np.eye(len(q)), DAMPING * np.eye(6)
        error = np.zeros(6)
        for _ in range(iterations):
            jacobian = self.jacobian(q)
            pose = self.tip_pose(q)
            axis = pose[:3, :3] @ axis_tip
            error[:3] = target - pose[:3, 3]
            error[3:] = -axis[1], axis[0], 0.0  # cross product of axis and down
            task = jacobian.copy()
            task[3:] -= np.outer(axis, axis @ jacobian[3:])
            inverse = task.T @ np.linalg.inv(task @ task.T + damping)
            step = inverse @ error
            step += (eye - inverse @ task) @ (POSTURE_GAIN * (self.home - q))
            largest = np.max(np.abs(step))
            if largest > MAX_IK_STEP_RAD:
                step *= MAX_IK_STEP_RAD / largest
            q = np.clip(q + step, self.lower, self.upper)
        return q, float(np.linalg.norm(self.tip_position(q) - target))

    def clip_to_workspace(self, position: FloatArray) -> FloatArray:
        """Return the point of the workspace box nearest to ``position`` (..., 3) m."""
        return np.clip(position, self.workspace_min, self.workspace_max)

    def in_workspace(self, position: FloatArray, margin: float = 0.0) -> bool:
        """Check whether ``position`` (3,) m lies in the workspace box enlarged by ``margin`` m."""
        return bool(
            np.all(position >= self.workspace_min - margin)
            and np.all(position <= self.workspace_max + margin)
        )

    def _tightened(self, key: str, in_model: FloatArray, outwards: float) -> FloatArray:
        """Return the limits (J,) configured under ``key``, or the URDF's if none are configured.

        Args:
            key: name of the limit in the configuration.
            in_model: limits of the URDF in the joint order of ``model``.
            outwards: sign of a wider limit: 1 for upper limits, -1 for lower ones.

        Raises:
            ArmError: a configured limit is wider than that of the URDF.
        """
        urdf = self._from_model(in_model)
        values = getattr(self.config, key)
        if not values:
            return urdf
        limits = np.array(values)
        for i in np.flatnonzero((limits - urdf) * outwards > 0.0):
            raise ArmError(
                f'{self.config.name}.{key}: {self.config.joints[i]}: {limits[i]} is wider than '
                f'the limit of {self.config.urdf}, {urdf[i]}; a configuration may only tighten it'
            )
        return limits

    def _check_names(self, model: pin.Model) -> None:
        for name in self.config.joints:
            if not model.existJointName(name):
                raise ArmError(
                    f'joint {name} is not in {self.config.urdf}; it has '
                    f'{[model.names[i] for i in range(1, model.njoints)]}'
                )
        for link in (self.config.base_link, self.config.tip_link):
            if not model.existFrame(link):
                raise ArmError(f'link {link} is not in {self.config.urdf}')

    def _joint_order(self) -> NDArray[np.intp]:
        ids = [self.model.getJointId(name) for name in self.config.joints]
        for name, i in zip(self.config.joints, ids, strict=True):
            if self.model.joints[i].nq != 1:
                raise ArmError(f'joint {name}: expected a joint with limits and one axis')
        return np.array([self.model.joints[i].idx_v for i in ids], dtype=np.intp)

    def to_model(self, q: FloatArray) -> FloatArray:
        """Return the joint values ``q`` (J,) rearranged to the joint order of ``model``."""
        out = np.empty(self.model.nq)
        out[self._order] = q
        return out

    def _from_model(self, values: FloatArray) -> FloatArray:
        return np.array(values)[self._order]
