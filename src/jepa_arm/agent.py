"""What decides: observe, encode, predict, plan.

``Agent.decide`` is what the planner node does with each observation; ``control.control_step`` is
the whole loop with the guard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from .angles import yaw_error
from .arm import Arm
from .belief import Belief, Look
from .config import ObstacleConfig, PlannerConfig
from .decision import Decision
from .erasing import Eraser
from .goal_images import GoalImages
from .goals import Goal, LatentGoal, PositionGoal
from .looks import Looks
from .memory import Memory
from .model.belief_heads import SUBJECTS, load_belief_heads
from .model.checkpoint import Checkpoint
from .model.world_model import WorldModel
from .motion import ACTION_METRES, TipMotion, proprioception
from .orders import Orders
from .planners import Planners
from .planning.detours import Detours
from .planning.obstacles import KeepOut
from .planning.planner import Plan
from .planning.search import MakeOptimizer
from .recall import recall
from .surprise import Judgement, Surprise
from .types import (
    FloatArray,
    ImageArray,
    JointSample,
    Observation,
    Proposal,
)

SAME_RAD = 1e-9
"""What is nearer is the same place."""
UNSURE = 0.2
"""rad, rms error to be expected of a yaw by which no object is followed."""
LONGEST_LATENCY_S = 0.4
"""From an observation to its command, that is planned for."""


class Agent:
    """Plans joint trajectories towards a goal inside a learned world model.

    Attributes:
        goal: what is pursued; None holds.
        latency: s from an observation to the first command of its proposal; 0 in lock-step.
        speed: share of the tip's full speed to plan with, in (0, 1].
        effort: candidates priced for a plan at most, whatever the time; None: until the deadline.
        planners: that it plans by. goal_images: goals from observations that show them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        arm: Arm,
        config: PlannerConfig,
        seed: int = 0,
        optimizer: MakeOptimizer | None = None,
        sweep_size: int | None = None,
    ) -> None:
        """Makes what plans.

        Args:
            optimizer: makes what takes the configured one's place.
            sweep_size: candidates priced in a sweep at first; None: those configured.
        """
        self._arm, self._config = arm, config
        self._model, self._probes = checkpoint.model, checkpoint.probes
        self._time = checkpoint.model.contract.time
        self._heads = load_belief_heads(checkpoint)
        past = self._model.past
        read = self._probes.object_position
        width = TipMotion.width
        self._belief = Belief(self._model, self._heads, self._time, width, past, read=read)
        self._surprise = Surprise(self._heads, self._time.control_dt) if self._heads else None
        self._motion, self._orders = TipMotion(arm), Orders(self._time.control_dt)
        self.planners = Planners(checkpoint, arm, config, seed, optimizer, sweep_size)
        self.goal_images = GoalImages(checkpoint, arm, config, self.planners)
        self.keep_out_of(())
        self._looks = Looks(self._time)
        self._unjudged: Callable[[], Judgement | None] | None = None
        self._foretell: Callable[[Decision], Decision] | None = None
        self.goal: Goal | None = None
        self.latency = 0.0
        self.speed = 1.0
        self.effort: int | None = None
        self.reset(arm.home)

    def keep_out_of(self, obstacles: Sequence[ObstacleConfig]) -> None:
        """From now on plans lead tip and object round ``obstacles`` (base frame)."""
        arm, config = self._arm, self._config
        margins = {'object': config.object_margin, 'tip': config.tip_margin}
        workspace = np.stack([arm.workspace_min, arm.workspace_max])
        room = config.edge_room * np.array([[1.0, 1.0], [-1.0, -1.0]])
        bounds = {'object': workspace[:, :2] + room, 'tip': workspace}
        keep_out = KeepOut(obstacles, margins, bounds, np.array(arm.config.camera.position))
        dt = self._time.control_dt
        self._detours = Detours(keep_out, bool(obstacles), config.lead, dt)
        self.planners.keep_out = keep_out if obstacles else None
        eraser = Eraser(arm.config.camera, obstacles) if obstacles else None
        self.goal_images.eraser = eraser

    def check_goal(self, goal: Goal) -> None:
        """Raises GoalError for a goal that cannot be pursued.

        A declared obstacle is at its place, or it asks for a yaw and the checkpoint cannot. What
        plans for yaws is made ready for the first one that asks, which takes seconds.
        """
        self.planners.check(goal)

    def reset(self, joints: FloatArray) -> None:
        """Forgets belief, goal and warm start; the arm stands at ``joints`` (J,)."""
        self._belief.reset()
        self._looks.reset()
        self._last: JointSample | None = None
        self.goal = None
        if self.planners.turning is not None:
            self.planners.turning.reset()
        self.resync(joints)

    def resync(self, joints: FloatArray) -> None:
        """Plans on from ``joints`` (J,), where the arm is held."""
        self._motion.reset(joints)
        self._target_before = self._motion.target
        self._orders.reset()
        self.planners.forget_plans()
        self._belief.forget_sent()
        self._coming = torch.zeros(0, TipMotion.width)

    def memory(self) -> Memory | None:
        """What is believed and told now, to be kept; None before the first image."""
        return self._belief.memory(torch.tensor(self._motion.joints), self._coming)

    @torch.inference_mode()
    def recall(self, memory: Memory, now: JointSample) -> None:
        """Believes what ``memory`` tells, of a world at rest since, with the arm at ``now``.

        Raises:
            RecallError, BlindError: it cannot be carried on to ``now``; nothing has changed.
        """
        belief = self._belief.copy()
        recall(belief, memory, self._arm, self._time, now)
        self._belief = belief

    @property
    def told(self) -> FloatArray:
        """(J,) rad, where the arm is told to go by what was decided last."""
        return self._motion.joints

    def start_from(self, told: FloatArray, is_continued: bool) -> None:
        """Takes the arm to have been told to go to ``told`` (J,), whatever was decided last.

        Args:
            told: rad, see ``Decision``.
            is_continued: whether the next plan goes on from the last one.
        """
        if not is_continued:
            self.resync(told)
        elif np.abs(told - self._motion.joints).max() > SAME_RAD:
            self._motion.reset(told)
            moved = (self._motion.target - self._target_before) / ACTION_METRES
            self._belief.act_instead(torch.tensor(moved, dtype=torch.float32))

    def set_goal(self, goal: Goal | None) -> None:
        """Pursues ``goal`` from the next decision on; None holds."""
        wanted_yaw, self.goal = self._wants_yaw, goal
        if self.planners.turning is not None and not (wanted_yaw and self._wants_yaw):
            self.planners.turning.reset()  # nobody watched how the object turned meanwhile
        self._detours.reset()
        self.planners.forget_plans()

    @torch.inference_mode()
    def decide(self, observation: Observation, judges: bool = True) -> Decision:
        """Observe, encode, predict, plan: the proposal for one observation.

        ``judges``: tells all at once; else ``judged`` tells what the proposal need not wait for.

        Raises:
            ValueError: an image or joints of another size than the model's, or an old stamp.
            PlanningError: the model gave no finite plan.
        """
        self.observe(observation)  # observe, encode
        decision = self._decide(observation.stamp, observation.joints)
        return self.judged(decision) if judges else decision

    @torch.inference_mode()
    def observe(self, observation: Observation) -> None:
        """Takes an observation into the belief, one that came late too.

        Raises:
            ValueError: an image or joints of another size than the model's, or an old stamp.
        """
        proprio = self._proprio(observation.joints, observation.stamp)
        self._belief.waits, self._belief.late = self._wait
        before, self._unjudged = self._belief.copy(), None
        image, stamp = self.goal_images.image(observation), observation.stamp
        told = torch.tensor(
            self._orders.lately(stamp, self._motion.target)[None], dtype=torch.float32
        )
        surprise = self._surprise
        if isinstance(self._model, WorldModel) and surprise is not None:
            z, features = self._model.encode_parts(image, proprio)

            def judge() -> Judgement | None:
                change = self._looks.see(stamp, image[0], proprio)
                frame = before.frame(
                    stamp, z, proprio, features, change, told, torch.from_numpy(image)
                )
                return None if frame is None else surprise.of(frame, stamp)

            self._unjudged = judge
        else:
            z = self._model.encode(image, proprio)
        self._belief.see(stamp, z, proprio, self._look(image[0], z))
        if self.planners.turning is not None and self._wants_yaw:
            self.planners.turning.see(image[0], self._read('object', z))

    def _look(self, image: ImageArray, z: torch.Tensor) -> Look | None:
        """Reads the object's yaw off ``image`` with latent ``z`` (1, D), see ``belief.Step``."""
        turning = self.planners.turning
        if turning is None:
            return None

        def look() -> float | None:
            yaw, spread = turning.read(image, self._read('object', z))
            return yaw if spread < UNSURE else None

        return look

    @property
    def _wants_yaw(self) -> bool:
        return isinstance(self.goal, PositionGoal) and self.goal.yaw is not None

    def sent(self, stamp: float) -> None:
        """Takes note that the newest proposal was sent at ``stamp`` (s)."""
        self._orders.sent(stamp)

    @torch.inference_mode()
    def judged(self, decision: Decision) -> Decision:
        """``decision`` with what its plan foretells, and how surprising the newest image was."""
        unjudged, self._unjudged = self._unjudged, None
        foretell, self._foretell = self._foretell, None
        if foretell is not None:
            decision = foretell(decision)
        found = None if unjudged is None else unjudged()
        if found is None:
            return decision
        return replace(decision, surprise=found.value, channel=found.channel)

    @torch.inference_mode()
    def decide_blind(self, joints: JointSample, judges: bool = True) -> Decision:
        """As ``decide``, without an image: the belief is carried on by prediction and joints.

        Raises:
            BlindError: there is no belief to carry on.
            PlanningError: the model gave no finite plan.
        """
        self._belief.waits, self._belief.late = self._wait
        proprio = self._proprio(joints.position, joints.stamp)
        self._belief.feel(joints.stamp, proprio)
        self._unjudged = None
        decision = self._decide(joints.stamp, joints.position)
        return self.judged(decision) if judges else decision

    def _decide(self, stamp: float, joints: FloatArray) -> Decision:
        self._foretell = None
        if self.goal is None:
            return Decision(None, told=self._motion.joints)
        z, late = self._belief.now()[0], self._wait[1]
        z_then, z_prev, before = self._belief.ahead()
        goal = self._seen_goal(z)
        towards, left, round_left = self._detour(goal, z)
        planner = self.planners.plans_for(towards)
        told, is_continued = self._motion.joints, planner.has_warm_start
        room = self._motion_room()  # predict, plan
        target = torch.tensor(self._motion.target, dtype=torch.float32)
        plan = planner.plan(
            z_then, z_prev, towards, room, late, before, self.speed, self.effort, target
        )
        self._target_before = self._motion.target
        actions = plan.actions.numpy().astype(float)
        if self._motion.is_outside:
            actions[0] = 0.0  # first back into the workspace by the shortest way
        elif plan.is_barred:
            actions[:] = 0.0  # no way was found that keeps out of obstacles
        self._orders.add(stamp, self._target_before, stamp + self.latency)
        first = self._motion.apply(actions[0])
        later = self._motion.preview(actions[1 : self._config.waypoints])
        waypoints = np.concatenate([first[None], later])
        self._coming = torch.tensor(actions[1:], dtype=torch.float32)
        self._belief.act(stamp, torch.tensor(actions[0], dtype=torch.float32))

        def foretell(decision: Decision) -> Decision:
            return replace(
                decision,
                predicted_distance=self._distance(plan.latents[-1:], goal),
                doubt=self._doubt(),
                contact=self._contact(plan, z_then),
                tip_path=self.tip_paths(plan.latents[None])[0],
            )

        self._foretell = foretell
        return Decision(
            proposal=self._propose(waypoints, stamp),
            plan=plan,
            distance=self._distance(z, goal, joints),
            told=told,
            is_continued=is_continued,
            left=left,
            round_left=round_left,
            turn=self._turn(self.goal),
        )

    @torch.inference_mode()
    def tip_paths(self, latents: torch.Tensor) -> FloatArray:
        """(N, H, 3) m, where the tip is told to be in the predicted ``latents`` (N, H, D)."""
        return self._probes.read('tip', latents).numpy().astype(float)

    def _proprio(self, joints: FloatArray, stamp: float) -> torch.Tensor:
        """(1, P) at ``joints`` (J,), with the tip told to go where it was told to by then."""
        self._told = self._orders.at(stamp, self._motion.target, self._wait[0])
        last = self._last
        velocity = None
        if self._model.sees_velocity:
            velocity = np.zeros_like(joints)
            if last is not None and stamp > last.stamp:
                velocity = (joints - last.position) / (stamp - last.stamp)
        self._last = JointSample(joints, np.zeros_like(joints), stamp)
        felt = proprioception(joints, self._arm.tip_position(joints), self._told, velocity)
        return torch.tensor(felt[None], dtype=torch.float32)

    @property
    def _wait(self) -> tuple[int, float]:
        """Whole control steps until an action begins to work, and the share of one beyond.

        Up to one step all of it is the share.
        """
        steps = min(self.latency, LONGEST_LATENCY_S) / self._time.control_dt
        whole = max(0, math.ceil(steps - 1e-6) - 1)
        return whole, steps - whole

    def _doubt(self) -> float:
        """m, of the goal's subject."""
        if not isinstance(self.goal, PositionGoal):
            return np.nan
        return float(self._belief.doubt()[SUBJECTS.index(self.goal.subject)])

    def _contact(self, plan: Plan, start: torch.Tensor) -> float:
        if self._heads is None:
            return np.nan
        before = torch.cat([start.view(1, -1), plan.latents[:-1]])
        return float(torch.sigmoid(self._heads.contact(plan.latents, before)).max())

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
        return self._seen_tip(self.goal.position, z)

    def _seen_tip(self, place: FloatArray, z: torch.Tensor) -> PositionGoal:
        """A goal for the tip at ``place`` (3,) m, see ``_seen_goal``."""
        misread = self._read('tip', z) - self._told
        return PositionGoal('tip', place + misread)

    def _detour(self, goal: Goal, z: torch.Tensor) -> tuple[Goal, float, float]:
        """Where to go first on the way to ``goal``, if obstacles are in the straight way.

        The tip goes first where they stand between it and its place behind the object, and
        where the object comes no nearer.

        Returns:
            The goal to plan for, and what ``Decision`` tells of the ways left to go.
        """
        has_obstacles, told = self.planners.keep_out is not None, self._motion.target
        if isinstance(goal, LatentGoal) or (goal.subject == 'tip' and not has_obstacles):
            return goal, np.nan, np.nan
        here = told if goal.subject == 'tip' else self._read('object', z)
        turn = self._turn(goal)
        leg, first = self._detours.legs(goal.subject, told, here, goal.position, turn)
        if first is not None:
            return self._seen_tip(first.place, z), leg.left, first.left
        return replace(goal, position=leg.place), leg.left, np.nan

    def _turn(self, goal: Goal) -> float:
        """rad, by which the object is to be turned yet; NaN where nobody asked, or can tell."""
        turning = self.planners.turning
        if not isinstance(goal, PositionGoal) or goal.yaw is None:
            return np.nan
        if turning is None or turning.yaw is None:
            return np.nan
        return abs(float(yaw_error(turning.yaw, goal.yaw)))

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
