"""Agent: observe, encode, predict, plan.

``Agent.step`` is the path from an observation to a joint trajectory proposal. The planner node
calls it for each image; ``control_loop.ControlLoop`` closes the loop with the guard in process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from jepa_arm.belief.belief import Belief, BlindError, EncodedObservation, YawReader
from jepa_arm.belief.image_change import ImageChangeDetector
from jepa_arm.belief.restore import restore
from jepa_arm.belief.snapshot import BeliefSnapshot
from jepa_arm.belief.surprise import SurpriseDetector
from jepa_arm.config import Contract, ObstacleConfig, PlannerConfig
from jepa_arm.core.geometry import yaw_error
from jepa_arm.core.goals import Goal, LatentGoal, PositionGoal
from jepa_arm.core.types import FloatArray, JointSample, Observation, Proposal
from jepa_arm.model.checkpoint import Checkpoint, load_belief_heads
from jepa_arm.model.heads.belief_heads import SUBJECTS
from jepa_arm.planning.obstacles.constraints import ObstacleConstraints
from jepa_arm.planning.obstacles.subgoal_planner import SubgoalPlanner
from jepa_arm.planning.planner import Plan, PlanningError
from jepa_arm.planning.rollout import StartState
from jepa_arm.planning.search.problem import MakeOptimizer
from jepa_arm.robot.action_space import ACTION_METRES, TipMotion
from jepa_arm.robot.arm import Arm

from .decision import NO_FEEDBACK, Decision, Evidence, ImaginedMotion, StepFeedback
from .encoder import ObservationEncoder
from .goal_images import GoalImageReader
from .obstacle_mask import ObstacleMask
from .planners import Planners
from .setpoint_history import SetpointHistory

EQUAL_RAD = 1e-9
"""Joint vectors closer than this are treated as equal."""
MAX_YAW_STD = 0.2
"""rad; yaw readings with a larger std are not used to predict the object between images."""
MAX_DELAY_S = 0.4
"""Longest delay (s) from observation to command that is compensated; longer ones are capped."""
MAX_IMAGINED_STEPS = 100
"""Largest number of model steps that ``Agent.imagine`` accepts."""


class Agent:
    """Plans joint trajectories towards a goal inside a learned world model.

    Attributes:
        checkpoint, arm, config: the constructor's arguments.
        goal: goal pursued from the next step on; None: hold.
        planners: the planners for position goals and for pose goals.
        goal_images: reads goals from observations.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        arm: Arm,
        config: PlannerConfig,
        seed: int = 0,
        optimizer: MakeOptimizer | None = None,
        candidates_per_iteration: int | None = None,
    ) -> None:
        """Load the heads and prepare the search.

        Args:
            checkpoint: world model with its probes and heads.
            arm: the arm that the checkpoint's contract names.
            config: configuration of the search.
            seed: seed of the search.
            optimizer: makes an optimizer that replaces the configured one.
            candidates_per_iteration: initial number of candidates; None: as configured.
        """
        self.checkpoint, self.arm, self.config = checkpoint, arm, config
        self._model, self._probes = checkpoint.model, checkpoint.probes
        self._time = checkpoint.model.contract.time
        self._heads = load_belief_heads(checkpoint)
        self._belief = Belief(
            self._model,
            self._heads,
            self._time,
            action_width=TipMotion.width,
            read=self._probes.object_position,
            past=self._model.past,
        )
        self._surprise = (
            SurpriseDetector(self._heads, self._time.control_dt) if self._heads else None
        )
        self._image_change = ImageChangeDetector(self._time)
        self._encoder = ObservationEncoder(checkpoint, arm)
        self._motion, self._setpoints = TipMotion(arm), SetpointHistory(self._time.control_dt)
        self.planners = Planners(
            checkpoint, arm, config, seed, optimizer, candidates_per_iteration
        )
        self._yaw_tracker = self.planners.yaw_tracker
        self.goal_images = GoalImageReader(checkpoint, arm, config, self._encoder, self.planners)
        self.goal: Goal | None = None
        self._delay = 0.0
        self._previous_tip_setpoint = self._motion.target
        self._upcoming_actions = torch.zeros(0, TipMotion.width)
        self._tip_setpoint = self._motion.target
        self._subgoals = SubgoalPlanner(self._obstacle_constraints(()), self._time.control_dt)
        self.reset(arm.home)

    def set_obstacles(self, obstacles: Sequence[ObstacleConfig]) -> None:
        """Plan around ``obstacles`` (base frame) and mask them in images from now on."""
        constraints = self._obstacle_constraints(obstacles)
        self.planners.constraints = constraints if obstacles else None
        mask = ObstacleMask(self.arm.config.camera, obstacles) if obstacles else None
        self._encoder.mask = mask
        self._subgoals = SubgoalPlanner(constraints, self._time.control_dt)

    def check_goal(self, goal: Goal) -> None:
        """Check ``goal`` and prepare the planner for it; the first goal with a yaw takes seconds.

        Raises:
            GoalError: the goal lies in a declared obstacle, or asks for a yaw that the checkpoint
                cannot plan for.
        """
        self.planners.check(goal)

    def set_goal(self, goal: Goal | None) -> None:
        """Pursue ``goal`` from the next step on; None: hold the arm."""
        wanted_yaw, self.goal = self._wants_yaw, goal
        if self._yaw_tracker is not None and not (wanted_yaw and self._wants_yaw):
            self._yaw_tracker.reset()  # the yaw is tracked only during pose goals
        self._subgoals.reset()
        self.planners.reset()

    def reset(self, joints: FloatArray) -> None:
        """Forget belief, goal and warm start, with the arm at rest at ``joints`` (J,) rad."""
        self._belief.reset()
        self._image_change.reset()
        self.goal = None
        if self._yaw_tracker is not None:
            self._yaw_tracker.reset()
        self._restart_from(joints)

    @torch.inference_mode()
    def step(
        self, observation: Observation | JointSample, feedback: StepFeedback = NO_FEEDBACK
    ) -> Decision:
        """Observe, encode, predict, plan: return the decision for one observation.

        Args:
            observation: newer than the last one. If no image came, the measured joints alone; the
                belief is then propagated by prediction.
            feedback: what happened since the last step, and limits for this plan.

        Raises:
            BlindError: there is no image and the belief cannot be propagated without one.
            ValueError: the image or joints have the wrong size, or the stamp is not newer.
        """
        self._apply(feedback)
        evidence = None
        if isinstance(observation, Observation):
            evidence = self._observe(observation)
            joints = observation.joints
        else:
            joints = observation.position
            proprio = self._proprioception(joints, observation.stamp)
            self._belief.update_blind(observation.stamp, proprio)
        if self.goal is None:
            return Decision(None, setpoint=self._motion.joints, evidence=evidence)
        try:
            decision = self._plan(observation.stamp, joints, self.goal, feedback)
        except PlanningError as error:
            decision = Decision(None, problem=str(error))
        return replace(decision, evidence=evidence)

    @torch.inference_mode()
    def assess(self, decision: Decision) -> Decision:
        """Return ``decision`` with predicted distance, risk, tip path and surprise filled in.

        These are computed after the proposal, so as not to delay it. Call this once for the
        latest decision, before the next step.
        """
        plan, goal, start = decision.plan, decision.goal, decision.start
        if plan is not None and goal is not None and start is not None:
            decision = replace(
                decision,
                predicted_distance=self._distance(plan.latents[-1:], goal),
                position_std=self._position_std(),
                risk=self._risk(plan, start),
                tip_path=self.tip_paths(plan.latents[None])[0],
            )
        evidence, surprise = decision.evidence, self._surprise
        if evidence is None or surprise is None or evidence.encoded.features is None:
            return decision
        decision, encoded = replace(decision, evidence=None), evidence.encoded
        change = self._image_change.update(encoded.stamp, encoded.image[0], encoded.proprio)
        frame = evidence.belief.compare(encoded, change, evidence.tip_setpoints)
        if frame is None:
            return decision
        found = surprise.rate(frame, encoded.stamp)
        return replace(decision, surprise=found.value, surprise_channel=found.channel)

    @torch.inference_mode()
    def imagine(self, actions: FloatArray) -> ImaginedMotion:
        """Return the motion predicted under ``actions`` from the current belief, without moving.

        Args:
            actions: (T * A,) in [-1, 1], A values per control step.

        Raises:
            BlindError: no image has come yet.
            ValueError: actions out of range, too many, or not a whole number of model steps.
        """
        blocks = action_blocks(actions, self._model.contract)
        if self._belief.stamp is None:
            raise BlindError('no image has come yet')
        latents = self._model.rollout(*self._belief.current(), blocks)[0]
        return ImaginedMotion(
            times=self._time.model_dt * np.arange(1, len(latents) + 1, dtype=np.float64),
            tips=self._probes.read('tip', latents).numpy().astype(float),
            objects=self._probes.read('object', latents).numpy().astype(float),
        )

    @torch.inference_mode()
    def tip_paths(self, latents: Tensor) -> FloatArray:
        """Return the tip positions (N, H, 3) m that the probe reads from ``latents`` (N, H, D)."""
        return self._probes.read('tip', latents).numpy().astype(float)

    @property
    def setpoint(self) -> FloatArray:
        """(J,) rad, joint positions commanded by the last decision."""
        return self._motion.joints

    def snapshot(self) -> BeliefSnapshot | None:
        """Return a snapshot of belief and setpoint; None before the first image."""
        return self._belief.snapshot(torch.tensor(self._motion.joints), self._upcoming_actions)

    @torch.inference_mode()
    def restore(self, snapshot: BeliefSnapshot, now: JointSample) -> None:
        """Restore the belief from ``snapshot``, propagated to ``now``, see ``belief.restore``.

        Raises:
            RestoreError, BlindError: propagation to ``now`` fails; the belief is unchanged.
        """
        belief = self._belief.copy()
        restore(belief, snapshot, self.arm, self._time, now)
        self._belief = belief

    # ---------------------------------------------------------------- observe and encode

    def _apply(self, feedback: StepFeedback) -> None:
        """Update belief and setpoint with the feedback since the last step."""
        if feedback.sent_at is not None:
            self._setpoints.mark_applied(feedback.sent_at)
        for observation in feedback.late_observations:
            if self._belief.is_new(observation.stamp):
                self._observe(observation)
        if feedback.setpoint is not None:
            self._start_from(feedback.setpoint, feedback.is_continued)
        self._delay = feedback.delay

    def _start_from(self, setpoint: FloatArray, is_continued: bool) -> None:
        """Plan from ``setpoint`` (J,) rad, as really commanded, even if not decided last."""
        if not is_continued:
            self._restart_from(setpoint)
        elif np.abs(setpoint - self._motion.joints).max() > EQUAL_RAD:
            self._motion.reset(setpoint)
            moved = (self._motion.target - self._previous_tip_setpoint) / ACTION_METRES
            self._belief.replace_last_action(torch.tensor(moved, dtype=torch.float32))

    def _restart_from(self, joints: FloatArray) -> None:
        """Plan anew from ``joints`` (J,) rad, where the arm is held without a pending command."""
        self._motion.reset(joints)
        self._previous_tip_setpoint = self._motion.target
        self._setpoints.reset()
        self.planners.reset()
        self._belief.forget_actions()
        self._upcoming_actions = torch.zeros(0, TipMotion.width)

    def _observe(self, observation: Observation) -> Evidence:
        """Encode an observation, which may be late, and update the belief with it."""
        stamp = observation.stamp
        proprio = self._proprioception(observation.joints, stamp)
        before = self._belief.copy()
        encoded = self._encoder.encode(observation, proprio)
        recent = self._setpoints.recent(stamp, self._motion.target)
        self._belief.update(stamp, encoded.z, proprio, self._yaw_reader(encoded))
        if self._yaw_tracker is not None and self._wants_yaw:
            self._yaw_tracker.update(encoded.image[0], self._read('object', encoded.z))
        return Evidence(before, encoded, torch.tensor(recent[None], dtype=torch.float32))

    def _proprioception(self, joints: FloatArray, stamp: float) -> Tensor:
        """Update the delay; return the proprioception (1, P) of ``joints`` (J,) at ``stamp``."""
        steps = min(self._delay, MAX_DELAY_S) / self._time.control_dt
        whole = max(0, math.ceil(steps - 1e-6) - 1)
        # the fraction is in (0, 1], or 0 without delay
        self._belief.delay_steps, self._belief.delay_fraction = whole, steps - whole
        self._tip_setpoint = self._setpoints.at(
            stamp, self._motion.target, self._belief.delay_steps
        )
        return self._encoder.proprioception(joints, self._tip_setpoint)

    def _yaw_reader(self, encoded: EncodedObservation) -> YawReader | None:
        """Return a function that reads the object's yaw (rad); None without a yaw probe."""
        tracker = self._yaw_tracker
        if tracker is None:
            return None

        def read_yaw() -> float | None:
            yaw, std = tracker.read(encoded.image[0], self._read('object', encoded.z))
            return yaw if std < MAX_YAW_STD else None

        return read_yaw

    # ---------------------------------------------------------------- predict and plan

    def _plan(
        self, stamp: float, joints: FloatArray, goal: Goal, feedback: StepFeedback
    ) -> Decision:
        z = self._belief.current()[0]
        start, z_prev, previous_action = self._belief.predict_start()  # predict
        seen_goal = self._with_probe_bias(goal, z)
        subgoal, remaining_path, remaining_approach = self._subgoal(seen_goal, z)
        setpoint = self._motion.joints
        state = StartState(
            start,
            z_prev,
            torch.tensor(self._motion.action_bounds(), dtype=torch.float32),
            self._belief.delay_fraction,
            previous_action,
            feedback.speed_scale,
            torch.tensor(self._motion.target, dtype=torch.float32),
        )
        plan = self.planners.plan(state, subgoal, feedback.max_candidates)  # plan
        return Decision(
            proposal=self._execute(plan, stamp),
            plan=plan,
            setpoint=setpoint,
            is_continued=plan.is_continued,
            distance=self._distance(z, seen_goal, joints),
            remaining_path=remaining_path,
            remaining_approach=remaining_approach,
            yaw_error=self._yaw_error(goal),
            goal=seen_goal,
            start=start,
        )

    def _execute(self, plan: Plan, stamp: float) -> Proposal:
        """Record the plan's first action as commanded; return the proposal for ``stamp`` (s)."""
        actions = plan.actions.numpy().astype(float)
        if self._motion.is_outside:
            actions[0] = 0.0  # only return to the workspace, by the shortest way
        elif plan.is_blocked:
            actions[:] = 0.0  # every candidate runs into an obstacle: stay
        self._previous_tip_setpoint = self._motion.target
        self._setpoints.add(stamp, self._previous_tip_setpoint, stamp + self._delay)
        first = self._motion.apply(actions[0])
        later = self._motion.preview(actions[1 : self.config.waypoints])
        self._belief.record_action(stamp, torch.tensor(actions[0], dtype=torch.float32))
        self._upcoming_actions = torch.tensor(actions[1:], dtype=torch.float32)
        waypoints = np.concatenate([first[None], later])
        times = np.arange(1, len(waypoints) + 1, dtype=float) * self._time.control_dt
        return Proposal(self.arm.joint_names, waypoints, times, stamp, self.config.valid_for)

    def _with_probe_bias(self, goal: Goal, z: Tensor) -> Goal:
        """Return ``goal``; a tip goal is shifted by the current error of the tip probe.

        The error is the probe's reading minus the known commanded tip position. Without the shift
        it would remain as a constant offset from the goal (offset-free control).
        """
        if isinstance(goal, LatentGoal) or goal.subject != 'tip':
            return goal
        return self._shifted_tip_goal(goal.position, z)

    def _shifted_tip_goal(self, position: FloatArray, z: Tensor) -> PositionGoal:
        """Return a goal for the tip at ``position`` (3,) m, see ``_with_probe_bias``."""
        misread = self._read('tip', z) - self._tip_setpoint
        return PositionGoal('tip', position + misread)

    def _subgoal(self, goal: Goal, z: Tensor) -> tuple[Goal, float, float]:
        """Return the subgoal to plan for, and the remaining lengths (m) of path and approach.

        The tip must first reach its place behind the object if obstacles lie in between, or if
        the push has stalled.
        """
        has_obstacles, tip = self.planners.constraints is not None, self._motion.target
        if isinstance(goal, LatentGoal) or (goal.subject == 'tip' and not has_obstacles):
            return goal, np.nan, np.nan
        here = tip if goal.subject == 'tip' else self._read('object', z)
        turn = self._yaw_error(goal)
        leg, first = self._subgoals.subgoals(goal.subject, tip, here, goal.position, turn)
        if first is not None:
            return (
                self._shifted_tip_goal(first.position, z),
                leg.remaining_path,
                first.remaining_path,
            )
        return replace(goal, position=leg.position), leg.remaining_path, np.nan

    def _obstacle_constraints(self, obstacles: Sequence[ObstacleConfig]) -> ObstacleConstraints:
        """Return the constraints from ``obstacles``, margins and bounds on tip and object."""
        arm, config = self.arm, self.config
        margins = {'object': config.object_margin, 'tip': config.tip_margin}
        workspace = np.stack([arm.workspace_min, arm.workspace_max])
        inwards = config.edge_margin * np.array([[1.0, 1.0], [-1.0, -1.0]])
        bounds = {'object': workspace[:, :2] + inwards, 'tip': workspace}
        camera = np.array(arm.config.camera.position)
        return ObstacleConstraints(obstacles, margins, bounds, config.min_subgoal_distance, camera)

    # ---------------------------------------------------------------- read off the belief

    @property
    def _wants_yaw(self) -> bool:
        return isinstance(self.goal, PositionGoal) and self.goal.yaw is not None

    def _yaw_error(self, goal: Goal) -> float:
        """Remaining absolute yaw error of the object, rad; NaN without a yaw goal or reading."""
        yaw = None if self._yaw_tracker is None else self._yaw_tracker.estimate.yaw
        if yaw is None or not isinstance(goal, PositionGoal) or goal.yaw is None:
            return np.nan
        return abs(float(yaw_error(yaw, goal.yaw)))

    def _position_std(self) -> float:
        """m, predicted standard deviation of the goal subject's position per axis."""
        if not isinstance(self.goal, PositionGoal):
            return np.nan
        return float(self._belief.position_std()[SUBJECTS.index(self.goal.subject)])

    def _risk(self, plan: Plan, start: Tensor) -> float:
        """Highest contact probability of arm and object in ``plan``; NaN without belief heads."""
        if self._heads is None:
            return np.nan
        before = torch.cat([start.view(1, -1), plan.latents[:-1]])
        return float(torch.sigmoid(self._heads.contact(plan.latents, before)).max())

    def _read(self, subject: str, z: Tensor) -> FloatArray:
        """(3,) m, position of ``subject`` read by its probe from ``z`` (1, D)."""
        return self._probes.read(subject, z)[0].numpy().astype(float)

    def _distance(self, z: Tensor, goal: Goal, joints: FloatArray | None = None) -> float:
        """Return the distance to ``goal`` in m, or in latent units for a latent goal.

        Args:
            z: (1, D). joints: (J,) rad, measured; if given, they determine the tip position.
        """
        if isinstance(goal, LatentGoal):
            return float(np.mean((z[0].numpy() - goal.latent) ** 2) ** 0.5)
        if goal.subject == 'tip' and joints is not None and isinstance(self.goal, PositionGoal):
            return float(np.linalg.norm(self.arm.tip_position(joints) - self.goal.position))
        return float(np.linalg.norm(self._read(goal.subject, z) - goal.position))


def action_blocks(actions: FloatArray, contract: Contract) -> Tensor:
    """Return control actions as (1, H, K*A) blocks, one per model step.

    Args:
        actions: (H * K * A,) in [-1, 1], A values per control step.
        contract: the model's contract.

    Raises:
        ValueError: ``actions`` are not a whole number of model steps, too many, or out of range.
    """
    steps, rest = divmod(actions.size, contract.block_width)
    if rest or not 1 <= steps <= MAX_IMAGINED_STEPS:
        raise ValueError(
            f'actions: expected 1..{MAX_IMAGINED_STEPS} model steps of {contract.time.frame_skip} '
            f'control steps x {contract.action_width} values, got {actions.size} values'
        )
    if not np.all(np.abs(actions) <= 1.0):
        raise ValueError('actions: expected finite values in [-1, 1]')
    return torch.as_tensor(actions, dtype=torch.float32).view(1, steps, -1)
