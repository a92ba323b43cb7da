"""Episodes of a task in process: the agent, the floor and the ceiling in the same loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .agent import Agent
from .arm import Arm
from .config import ArmConfig, GuardConfig, SimConfig
from .control import control_step
from .decision import Decider, Decision
from .episode_result import EpisodeResult
from .goals import Goal, GoalError, PositionGoal
from .guard import Guard
from .motion import TipMotion
from .robot import Line
from .sim.bullet import BulletWorld
from .sim.policies import Policy, RandomWalk, ScriptedPush, ScriptedReach
from .sim.surroundings import Surroundings
from .sim.tasks import Task, load_task
from .sim.turning import ScriptedTurn
from .sim.world import Scene, WorldState, with_obstacles
from .types import FloatArray, ImageArray, JointSample, Observation, Proposal


@dataclass(frozen=True)
class Blackout:
    """When there are no images.

    Attributes:
        begin: s of an episode; with ``of_way`` the share of the subject's way to its goal, which
            a blackout in the middle of a push needs.
        duration: s.
    """

    begin: float = np.inf
    duration: float = np.inf
    of_way: bool = False


@dataclass(frozen=True)
class Conditions:
    """What makes episodes harder.

    Attributes:
        blackout: without images.
        delay: s from an observation to the guard's having what was decided of it.
        is_delay_known: whether the agent plans for it.
    """

    blackout: Blackout = Blackout()
    delay: float = 0.0
    is_delay_known: bool = True


EASY = Conditions()


class PolicyDecider:
    """Lets a policy that sees ground truth drive the same loop as the agent."""

    def __init__(self, policy: Policy, world: BulletWorld, scene: Scene) -> None:
        self._policy, self._world = policy, world
        self._motion = TipMotion(world.arm)
        self.resync(scene.joints)

    def resync(self, joints: FloatArray) -> None:
        """Goes on from ``joints`` (J,), where the guard holds the arm."""
        self._motion.reset(joints)

    def decide(self, observation: Observation) -> Decision:
        """One waypoint ahead."""
        return self._decide(observation.stamp)

    def decide_blind(self, joints: JointSample) -> Decision:
        """The same: ground truth needs no image."""
        return self._decide(joints.stamp)

    def _decide(self, stamp: float) -> Decision:
        action = self._policy.act(self._world.state(), self._motion.target)
        waypoint = self._motion.apply(action)[None]
        dt = self._world.config.time.control_dt
        names = self._world.arm.joint_names
        proposal = Proposal(names, waypoint, np.array([dt]), stamp, 2 * dt)
        return Decision(proposal)


class Evaluator:
    """Runs episodes of one task in process, in lock-step."""

    def __init__(
        self,
        arm: ArmConfig,
        sim: SimConfig,
        guard: GuardConfig,
        task: str,
        tolerance: float | None = None,
        gui: bool = False,
        conditions: Conditions = EASY,
    ) -> None:
        self.arm, self._conditions = Arm(arm), conditions
        self.world = BulletWorld(self.arm, sim, gui=gui)
        self.task: Task = load_task(task, self.arm, sim, tolerance)
        self._guard_config = guard
        self.guard = Guard(self.arm, sim.time, guard)

    def prepare(self, seed: int) -> Scene:
        """The scene of ``seed`` with all that is declared to the guard, which then knows of it."""
        declared = self._guard_config
        scene = with_obstacles(self.task.sample(seed), declared.obstacles)
        if scene.obstacles != self.guard.config.obstacles:
            config = replace(declared, obstacles=scene.obstacles)
            self.guard = Guard(self.arm, self.world.config.time, config)
        return scene

    def run_agent(
        self,
        agent: Agent,
        seed: int,
        keep_frames: bool = False,
        read: Callable[[Observation], Goal] | None = None,
    ) -> EpisodeResult:
        """One episode in which the agent is shown a goal image of scene ``seed``.

        ``read`` makes the goal of it; by default it is the place of the task's subject.
        """
        scene, subject = self.prepare(seed), self.task.subject
        conditions = self._conditions
        shown = self.world.image_of(scene, subject)
        agent.keep_out_of(scene.obstacles)
        goal: Goal | None
        try:
            with_yaw = scene.goal_yaw is not None
            goal = read(shown) if read else agent.goal_images.read(shown, subject, with_yaw)
        except GoalError:  # counts as failed: the arm stands still
            goal = None

        def start() -> Decider:
            agent.reset(scene.joints)
            agent.set_goal(goal)
            agent.latency = conditions.delay if conditions.is_delay_known else 0.0
            return agent

        place = goal if isinstance(goal, PositionGoal) else PositionGoal(subject, scene.goal)
        line = Line(conditions.delay)
        return self._run(seed, scene, start, place, shown.image, keep_frames, line)

    def run_policy(self, name: str, seed: int, keep_frames: bool = False) -> EpisodeResult:
        """One episode of 'scripted' (the ceiling) or 'random' (the floor)."""
        scene = self.prepare(seed)
        is_random = name == 'random'
        policy = RandomWalk(np.random.default_rng(seed)) if is_random else self._scripted(scene)
        goal = PositionGoal(self.task.subject, scene.goal)
        shown = np.zeros((1, 1, 3), dtype=np.uint8)
        if keep_frames:
            shown = self.world.image_of(scene, self.task.subject).image

        def start() -> Decider:
            return PolicyDecider(policy, self.world, scene)

        return self._run(seed, scene, start, goal, shown, keep_frames)

    def _scripted(self, scene: Scene) -> Policy:
        """The policy that sees ground truth and knows how ``scene`` is solved."""
        workspace = np.array([self.arm.workspace_min, self.arm.workspace_max])
        if scene.goal_yaw is not None:
            return ScriptedTurn(scene.goal, scene.goal_yaw, workspace)
        around = None
        if scene.obstacles:
            around = Surroundings(scene.obstacles, workspace, self.task.region)
        if self.task.subject == 'tip':
            return ScriptedReach(scene.goal, around)
        return ScriptedPush(scene.goal, around=around, thing=scene.thing)

    def _run(
        self,
        seed: int,
        scene: Scene,
        start: Callable[[], Decider],
        goal: PositionGoal,
        goal_image: ImageArray,
        keep_frames: bool,
        line: Line | None = None,
    ) -> EpisodeResult:
        world, config = self.world, self.task.config
        dt = world.config.time.control_dt
        state = world.reset(scene)
        self.guard.reset(scene.joints, now=world.time)
        decider = start()
        blackout, whole, dark = self._conditions.blackout, self.task.distance(state, scene), np.inf
        line = Line() if line is None else line
        log, held, steps = _Log(state, self.task.yaw_error(state, scene)), 0, 0
        while steps * dt < config.time_limit and held < config.hold_steps:
            if keep_frames:
                log.frames.append(world.image())
            began = time.perf_counter()
            done = 1.0 - self.task.distance(state, scene) / whole
            if (done if blackout.of_way else steps * dt) >= blackout.begin:
                dark = min(dark, steps * dt)
            is_blind = dark <= steps * dt < dark + blackout.duration
            ticks = world.config.time.ticks
            decision = control_step(decider, self.guard, world, ticks, is_blind, line)
            steps += 1
            state = world.state()
            yaw_error = self.task.yaw_error(state, scene)
            log.add(state, yaw_error, decision, began, self._violations())
            held = held + 1 if self.task.is_reached(state, scene) else 0
        return EpisodeResult(
            seed=seed,
            success=held >= config.hold_steps,
            time_s=steps * dt,
            distance=self.task.distance(state, scene),
            plan_ms=log.plan_ms,
            command_ms=log.command_ms,
            limit_violations=int(log.violations[0]),
            measured_violations=int(log.violations[1]),
            frames=log.frames,
            tip_path=np.array(log.tips),
            object_path=np.array(log.objects),
            predicted=log.predicted,
            goal=scene.goal,
            read_goal=goal.position,
            goal_image=goal_image,
            touched=world.has_touched,
            yaw_errors=np.array(log.yaw_errors),
        )

    def _violations(self) -> NDArray[np.bool_]:
        """(2,) whether the last command, and the measured joints, are beyond a limit."""
        arm, command = self.arm, self.guard.command
        assert command is not None
        position, velocity = self.world.joints()
        slack, coarse = 1e-6, 1e-3  # the physics are not exact
        is_commanded = (
            np.any(command.position < arm.lower - slack)
            or np.any(command.position > arm.upper + slack)
            or np.any(np.abs(command.velocity) > arm.velocity_limit + slack)
            or np.any(np.abs(command.acceleration) > arm.braking_limit + slack)
        )
        is_measured = (
            np.any(position < arm.lower - coarse)
            or np.any(position > arm.upper + coarse)
            or np.any(np.abs(velocity) > arm.fastest + coarse)
        )
        return np.array([is_commanded, is_measured])


class _Log:
    """What is noted at each control step of an episode."""

    def __init__(self, state: WorldState, yaw_error: float) -> None:
        self.tips, self.objects = [state.tip_position], [state.object_position]
        self.yaw_errors = [yaw_error]
        self.plan_ms: list[float] = []
        self.command_ms: list[float] = []
        self.predicted: list[FloatArray] = []
        self.frames: list[ImageArray] = []
        self.violations = np.zeros(2, dtype=int)

    def add(
        self,
        state: WorldState,
        yaw_error: float,
        decision: Decision,
        began: float,
        violations: NDArray[np.bool_],
    ) -> None:
        """A step that ``began`` (``time.perf_counter``) with an observation, and its end."""
        self.tips.append(state.tip_position)
        self.objects.append(state.object_position)
        self.yaw_errors.append(yaw_error)
        self.violations += violations
        if decision.plan is not None:
            assert decision.tip_path is not None
            self.plan_ms.append(decision.plan.latency_ms)
            self.command_ms.append((decision.decided_at - began) * 1000.0)
            self.predicted.append(decision.tip_path)
