"""One page that shows everything: observe, encode, predict, plan, guard, act.

``Agent.decide`` is what the planner node does with each observation; ``control_step`` is the
whole loop, used alike by evaluation and tests. On ROS 2 the same ``Agent`` and ``Guard`` live
in two processes with the same calls.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from .arm import Arm
from .belief import Belief
from .config import PlannerConfig
from .goals import Goal, GoalError, LatentGoal, PositionGoal
from .guard import Guard
from .model.checkpoint import Checkpoint
from .motion import TipMotion, proprioception
from .planning.heads import load_heads
from .planning.optimizers import effect
from .planning.planner import Plan, Planner
from .types import Command, FloatArray, JointSample, Observation, Proposal, Verdict


@dataclass(frozen=True)
class Decision:
    """What the agent makes of one observation.

    Attributes:
        proposal: the joint trajectory it would like to see; None: hold.
        plan: in latent space, with its latency; None without a goal.
        distance, predicted_distance: m (latent units for a latent goal) to the goal, as read
            from the belief now and at the plan's end; NaN without a goal.
        surprise: prediction error of the newest latent over its usual size (1 is usual).
        tip_path: (H, 3) m, where the plan sends the tip, read from the predicted latents.
        decided_at: s, ``time.perf_counter`` when the decision was made.
    """

    proposal: Proposal | None
    plan: Plan | None = None
    distance: float = np.nan
    predicted_distance: float = np.nan
    surprise: float = np.nan
    tip_path: FloatArray | None = None
    decided_at: float = field(default_factory=time.perf_counter)


class Decider(Protocol):
    """Anything that turns observations into proposals: the agent, or a scripted policy."""

    def decide(self, observation: Observation) -> Decision:
        """The decision for ``observation``."""
        ...

    def resync(self, joints: FloatArray) -> None:
        """Plans on from ``joints`` (J,), where the guard holds the arm."""
        ...


class Agent:
    """Plans joint trajectories towards a goal inside a learned world model.

    Attributes:
        goal: what is pursued; None holds.
        latency: s from an observation to the first command of its proposal; 0 in lock-step.
    """

    def __init__(
        self, checkpoint: Checkpoint, arm: Arm, config: PlannerConfig, seed: int = 0
    ) -> None:
        self._arm, self._config = arm, config
        self._model, self._probes = checkpoint.model, checkpoint.probes
        self._usual_error = float(checkpoint.info['gates']['mse'][0])
        self._time = checkpoint.model.contract.time
        self._belief = Belief(self._time.model_dt, self._time.control_dt, self._model.past)
        self._motion = TipMotion(arm)
        self._planner = Planner(
            self._model,
            self._probes.read,
            load_heads(checkpoint),
            self._model.contract,
            config,
            seed,
        )
        self.goal: Goal | None = None
        self.latency = 0.0
        self.reset(arm.home)

    def reset(self, joints: FloatArray) -> None:
        """Forgets belief, goal and warm start; the arm stands at ``joints`` (J,)."""
        self._belief.reset()
        self._last: Observation | None = None
        self.goal = None
        self.resync(joints)

    def resync(self, joints: FloatArray) -> None:
        """Plans on from ``joints`` (J,), where the arm is held."""
        self._motion.reset(joints)
        self._planner.reset()
        self._sent = [np.zeros(TipMotion.width)] * self._time.frame_skip

    def set_goal(self, goal: Goal | None) -> None:
        """Pursues ``goal`` from the next decision on; None holds."""
        self.goal = goal
        self._planner.reset()

    @torch.inference_mode()
    def read_goal(self, observation: Observation, subject: str) -> PositionGoal:
        """The place of ``subject`` in a goal observation.

        The object is read from image and joints by its probe, the tip from the joints by
        forward kinematics.

        Raises:
            GoalError: the object cannot be told from the image.
        """
        if subject == 'tip':
            return PositionGoal(subject, self._arm.tip_position(observation.joints))
        z = self._encode(observation)
        spread, limit = float(self._probes.spread(subject, z)), self._config.max_goal_spread
        if spread > limit:
            raise GoalError(
                f'goal image: expected the {subject} to be read to {limit * 100:g} cm, got '
                f'{spread * 100:.1f} cm; show it unhidden, or give its place'
            )
        return PositionGoal(subject, self._read(subject, z))

    @torch.inference_mode()
    def decide(self, observation: Observation) -> Decision:
        """Observe, encode, predict, plan: the proposal for one observation.

        Raises:
            ValueError: an image or joints of another size than the model's, or an old stamp.
            PlanningError: the model gave no finite plan.
        """
        self._told = self._motion.target
        z = self._encode(observation, self._told)  # observe, encode
        self._belief.update(observation.stamp, z)
        self._last = observation
        surprise = self._surprise(z)  # predict
        if self.goal is None:
            return Decision(None, surprise=surprise)
        z, z_prev = self._belief.now()
        goal = self._seen_goal(z)
        plan = self._planner.plan(z, z_prev, goal, self._motion_room(), self._late)  # plan
        actions = plan.actions.numpy().astype(float)
        waypoints = self._motion.preview(actions[: self._config.waypoints])
        self._motion.apply(actions[0])
        self._sent = [*self._sent[1:], actions[0]]
        return Decision(
            proposal=self._propose(waypoints, observation.stamp),
            plan=plan,
            distance=self._distance(z, goal, observation.joints),
            predicted_distance=self._distance(plan.latents[-1:], goal),
            surprise=surprise,
            tip_path=self._probes.read('tip', plan.latents).numpy().astype(float),
        )

    def _encode(
        self, observation: Observation, tip_target: FloatArray | None = None
    ) -> torch.Tensor:
        """(1, D); without a target the arm is taken to stand where it was told to."""
        tip = self._arm.tip_position(observation.joints)
        target = tip if tip_target is None else tip_target
        velocity = None
        if self._model.sees_velocity:
            is_still = tip_target is None
            velocity = (
                np.zeros_like(observation.joints) if is_still else self._velocity(observation)
            )
        proprio = proprioception(observation.joints, tip, target, velocity)
        return self._model.encode(observation.image[None], proprio[None])

    def _velocity(self, observation: Observation) -> FloatArray:
        """(J,) rad/s since the last observation that was decided on; zero without one."""
        last = self._last
        if last is None or observation.stamp <= last.stamp:
            return np.zeros_like(observation.joints)
        return (observation.joints - last.joints) / (observation.stamp - last.stamp)

    @property
    def _late(self) -> float:
        """Share of a control step, at most all of it, that passes before an action is at work."""
        return min(self.latency / self._time.control_dt, 1.0)

    def _surprise(self, z: torch.Tensor) -> float:
        """Squared error of the last one-step prediction over its held-out mean."""
        if self._belief.span < (1 + self._model.past) * self._time.model_dt - 1e-6:
            return np.nan
        sent = torch.tensor(np.array(self._sent), dtype=torch.float32)[None]
        block = effect(sent, self._late).flatten(1)
        expected = self._model.predict(*self._belief.at(1), block)
        return float(((expected - z) ** 2).mean()) / self._usual_error

    def _motion_room(self) -> torch.Tensor:
        return torch.tensor(self._motion.room(), dtype=torch.float32)

    def _seen_goal(self, z: torch.Tensor) -> Goal:
        """The goal, shifted by what the probe misreads the tip's target by now.

        Where the tip was told to go is known, the probe says where the model thinks it was;
        without the shift the difference would stay as a constant error (offset-free control).
        """
        assert self.goal is not None
        if isinstance(self.goal, LatentGoal) or self.goal.subject != 'tip':
            return self.goal
        misread = self._read('tip', z) - self._told
        return PositionGoal('tip', self.goal.position + misread)

    def _read(self, subject: str, z: torch.Tensor) -> FloatArray:
        return self._probes.read(subject, z)[0].numpy().astype(float)

    def _distance(self, z: torch.Tensor, goal: Goal, joints: FloatArray | None = None) -> float:
        """m to ``goal``; for the tip from measured ``joints``, if they are given."""
        if isinstance(goal, LatentGoal):
            return float(np.mean((z[0].numpy() - goal.latent) ** 2) ** 0.5)
        if goal.subject == 'tip' and joints is not None and isinstance(self.goal, PositionGoal):
            return float(np.linalg.norm(self._arm.tip_position(joints) - self.goal.position))
        return float(np.linalg.norm(self._read(goal.subject, z) - goal.position))

    def _propose(self, waypoints: FloatArray, stamp: float) -> Proposal:
        times = np.arange(1, len(waypoints) + 1, dtype=float) * self._time.control_dt
        valid_for = self._config.valid_for
        return Proposal(self._arm.joint_names, waypoints, times, stamp, valid_for)


class Robot(Protocol):
    """What ``control_step`` needs of the robot: the virtual arm has it."""

    time: float

    def observe(self) -> Observation:
        """Camera image and joints now."""
        ...

    def joints(self) -> tuple[FloatArray, FloatArray]:
        """Measured positions (J,) rad and velocities (J,) rad/s."""
        ...

    def command(self, position: FloatArray, velocity: FloatArray) -> None:
        """Sets the joint servo's target."""
        ...

    def step(self) -> None:
        """Lets one stream tick pass."""
        ...


def control_step(agent: Decider, guard: Guard, robot: Robot, ticks: int) -> Decision:
    """One control period of the closed loop, in lock-step: what the whole product does."""
    observation = robot.observe()
    decision = agent.decide(observation)
    verdict: Verdict | None = None
    if decision.proposal is not None:
        verdict = guard.submit(decision.proposal, now=robot.time, ros_now=robot.time)
        if verdict.reasons and guard.command is not None:
            agent.resync(guard.command.position)
    for _ in range(ticks):
        position, velocity = robot.joints()
        guard.observe(JointSample(position, velocity, robot.time), now=robot.time)
        command: Command | None = guard.tick(now=robot.time).command
        if command is not None:
            robot.command(command.position, command.velocity)
        robot.step()
    return decision
