"""In-process episode runner: agents and policies run in the same control loop, in lock-step."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from jepa_arm.agent.agent import Agent
from jepa_arm.agent.control_loop import ControlLoop
from jepa_arm.agent.decision import NO_FEEDBACK, Decision, DecisionMaker, StepFeedback
from jepa_arm.config import ArmConfig, GuardConfig, SimConfig, load
from jepa_arm.core.files import arm_path, config_path
from jepa_arm.core.goals import Goal, GoalError, PositionGoal
from jepa_arm.core.types import JointSample, Observation, Proposal
from jepa_arm.guard.guard import Guard
from jepa_arm.robot.action_space import TipMotion
from jepa_arm.robot.arm import Arm
from jepa_arm.sim.bullet import BulletWorld
from jepa_arm.sim.obstacle_routes import ObstacleRoutes
from jepa_arm.sim.policies import Policy, RandomWalk, ScriptedPush, ScriptedReach
from jepa_arm.sim.scene import Scene, with_obstacles
from jepa_arm.sim.tasks import Task, load_task
from jepa_arm.sim.yaw_push_policy import ScriptedYawPush

from .episode import COMMAND_SLACK, MEASURED_SLACK, EpisodeRecord, exceeds_limits


@dataclass(frozen=True)
class SimulationSetup:
    """Configuration of the simulated cell: arm, simulator and guard."""

    arm: ArmConfig
    sim: SimConfig
    guard: GuardConfig

    @classmethod
    def load(cls, arm: str) -> SimulationSetup:
        """Load an arm (name or path) with the shipped configuration of simulator and guard."""
        sim, guard = (config_path(f'{name}.yaml') for name in ('sim', 'guard'))
        return cls(load(ArmConfig, arm_path(arm)), load(SimConfig, sim), load(GuardConfig, guard))


@dataclass(frozen=True)
class Blackout:
    """Part of an episode without images.

    Attributes:
        begin: s from the start of the episode. With ``by_progress`` it is the share of the
            subject's distance to the goal that has been covered, which places the blackout in the
            middle of a push.
        duration: s.
        by_progress: whether ``begin`` is that share instead of a time.
    """

    begin: float = np.inf
    duration: float = np.inf
    by_progress: bool = False


@dataclass(frozen=True)
class Conditions:
    """Conditions that make episodes harder.

    Attributes:
        blackout: part of the episode without images.
        delay: s from an observation until the guard receives the proposal made from it.
        is_delay_known: whether the agent takes ``delay`` into account.
    """

    blackout: Blackout = Blackout()
    delay: float = 0.0
    is_delay_known: bool = True


NOMINAL = Conditions()
WITHOUT_IMAGES = Conditions(Blackout(begin=0.0))


class PolicyAgent:
    """Decision maker that follows a policy with access to ground truth."""

    def __init__(self, policy: Policy, world: BulletWorld, scene: Scene) -> None:
        self._policy, self._world = policy, world
        self._motion = TipMotion(world.arm)
        self._motion.reset(scene.joints)

    def step(
        self, observation: Observation | JointSample, feedback: StepFeedback = NO_FEEDBACK
    ) -> Decision:
        """Return a proposal of one waypoint; the policy sees ground truth, not the image."""
        if feedback.setpoint is not None:
            self._motion.reset(feedback.setpoint)
        action = self._policy.act(self._world.state(), self._motion.target)
        waypoint = self._motion.apply(action)[None]
        dt = self._world.config.time.control_dt
        names = self._world.arm.joint_names
        proposal = Proposal(names, waypoint, np.array([dt]), observation.stamp, 2 * dt)
        return Decision(proposal)

    def assess(self, decision: Decision) -> Decision:
        """Return ``decision`` unchanged: a policy predicts nothing."""
        return decision


class EpisodeRunner:
    """In-process runner of episodes of one task, in lock-step.

    Leaving its context closes the world.

    Attributes:
        arm: kinematics of the arm.
        world: the physics engine.
        task: samples scenes and defines success.
        guard: checks what the agent sends to the arm.
    """

    def __init__(
        self,
        setup: SimulationSetup,
        task: str,
        tolerance: float | None = None,
        conditions: Conditions = NOMINAL,
    ) -> None:
        """Open a world.

        Args:
            setup: arm, simulator and guard.
            task: name of a file in ``config/tasks``.
            tolerance: m, replaces that of the task.
            conditions: apply to every episode.
        """
        self.arm, self._conditions, self._guard_config = Arm(setup.arm), conditions, setup.guard
        self.task: Task = load_task(task, self.arm, setup.sim, tolerance)
        self.guard = Guard(self.arm, setup.sim.time, setup.guard)
        self.world = BulletWorld(self.arm, setup.sim)

    def __enter__(self) -> EpisodeRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the world."""
        self.world.close()

    def prepare(self, seed: int) -> Scene:
        """Sample the scene of ``seed``, declare its obstacles to the guard, and return it."""
        declared = self._guard_config
        scene = with_obstacles(self.task.sample(seed), declared.obstacles)
        if scene.obstacles != self.guard.config.obstacles:
            config = replace(declared, obstacles=scene.obstacles)
            self.guard = Guard(self.arm, self.world.config.time, config)
        return scene

    def control_loop(self, agent: Agent, scene: Scene, goal: Goal) -> ControlLoop:
        """Reset world, guard and ``agent`` to ``scene``; return the loop that pursues ``goal``."""
        self.world.reset(scene)
        self.guard.reset(scene.joints, now=self.world.time)
        agent.reset(scene.joints)
        agent.set_goal(goal)
        return ControlLoop(agent, self.guard, self.world, self.world.config.time.ticks)

    def run_agent(
        self,
        agent: Agent,
        seed: int,
        keep_frames: bool = False,
        read_goal: Callable[[Observation], Goal] | None = None,
    ) -> EpisodeRecord:
        """Run an episode in which the agent is shown a goal image.

        Args:
            agent: agent to run, which is reset first.
            seed: random seed of the scene.
            keep_frames: keep the images that the agent sees.
            read_goal: makes the goal from the goal image; None: the agent reads the goal of the
                task's subject itself. If the image cannot be read, the agent has no goal and the
                episode fails.
        """
        scene, subject = self.prepare(seed), self.task.subject
        shown = self.world.render_goal(scene, subject)
        agent.set_obstacles(scene.obstacles)
        if read_goal is None:
            with_yaw = scene.goal_yaw is not None
            read_goal = partial(agent.goal_images.read, subject=subject, with_yaw=with_yaw)
        goal: Goal | None = None
        with suppress(GoalError):
            goal = read_goal(shown)
        agent.reset(scene.joints)
        agent.set_goal(goal)
        record = self._run(agent, scene, self._conditions, keep_frames)
        position = goal.position if isinstance(goal, PositionGoal) else scene.goal
        return record.finish(seed, shown.image, position, self.world.has_touched_obstacle)

    def run_policy(self, name: str, seed: int, keep_frames: bool = False) -> EpisodeRecord:
        """Run an episode of the policy 'scripted' (the ceiling) or 'random' (the floor).

        Policies see the simulator's state, so no image is rendered for them, and neither blackouts
        nor delays apply.
        """
        scene = self.prepare(seed)
        is_random = name == 'random'
        policy = RandomWalk(np.random.default_rng(seed)) if is_random else self._scripted(scene)
        image = np.zeros((1, 1, 3), dtype=np.uint8)
        if keep_frames:
            image = self.world.render_goal(scene, self.task.subject).image
        agent = PolicyAgent(policy, self.world, scene)
        record = self._run(agent, scene, WITHOUT_IMAGES, keep_frames)
        return record.finish(seed, image, scene.goal, self.world.has_touched_obstacle)

    def _scripted(self, scene: Scene) -> Policy:
        """Return the scripted policy for ``scene``."""
        workspace = np.array([self.arm.workspace_min, self.arm.workspace_max])
        if scene.goal_yaw is not None:
            return ScriptedYawPush(scene.goal, scene.goal_yaw, workspace)
        around = None
        if scene.obstacles:
            around = ObstacleRoutes(scene.obstacles, workspace, self.task.object_region)
        if self.task.subject == 'tip':
            return ScriptedReach(scene.goal, around)
        return ScriptedPush(scene.goal, routes=around, scene_object=scene.scene_object)

    def _run(
        self, agent: DecisionMaker, scene: Scene, conditions: Conditions, keep_frames: bool
    ) -> EpisodeRecord:
        """Run an episode of ``agent``, already reset for ``scene``, and return its record."""
        world, time_config, blackout = self.world, self.world.config.time, conditions.blackout
        record = EpisodeRecord(self.task, scene, world.reset(scene))
        self.guard.reset(scene.joints, now=world.time)
        delay, is_known = conditions.delay, conditions.is_delay_known
        loop = ControlLoop(agent, self.guard, world, time_config.ticks, delay, is_known)
        start_distance, blind_since, steps = record.distance, np.inf, 0
        while not record.is_over:
            if keep_frames:
                record.frames.append(world.image())
            began = time.perf_counter()
            progress = 1.0 - record.distance / start_distance
            if (progress if blackout.by_progress else record.elapsed) >= blackout.begin:
                blind_since = min(blind_since, record.elapsed)
            is_blind = blind_since <= record.elapsed < blind_since + blackout.duration
            decision = loop.step(is_blind)
            if decision.plan is not None:
                assert decision.tip_path is not None
                record.plan_ms.append(decision.plan.latency_ms)
                record.command_ms.append((decision.decided_at - began) * 1000.0)
                record.predicted.append(decision.tip_path)
            record.limit_violations += self._is_command_beyond_limits()
            record.measured_violations += exceeds_limits(
                self.arm, *world.joints(), self.arm.max_velocity, MEASURED_SLACK
            )
            steps += 1
            record.add_step(world.state(), steps * time_config.control_dt)
        return record

    def _is_command_beyond_limits(self) -> bool:
        """Return whether the last command exceeds a position, velocity or acceleration limit."""
        arm, command, slack = self.arm, self.guard.command, COMMAND_SLACK
        assert command is not None
        return exceeds_limits(
            arm, command.position, command.velocity, arm.velocity_limit, slack
        ) or bool(np.any(np.abs(command.acceleration) > arm.braking_limit + slack))
