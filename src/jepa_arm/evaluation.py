"""The strict protocol: held-out seeds, real goals, floor and ceiling beside each figure."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from .agent import Agent, control_step
from .arm import Arm
from .config import ArmConfig, ConfigError, GuardConfig, PlannerConfig, SimConfig
from .decision import Decider, Decision
from .goals import Goal, GoalError, PositionGoal
from .guard import Guard
from .model.checkpoint import Checkpoint, check_contract
from .motion import TipMotion, make_contract
from .resources import git_hash
from .robot import Line
from .sim.bullet import BulletWorld
from .sim.policies import Policy, RandomWalk, ScriptedPush, ScriptedReach
from .sim.surroundings import Surroundings
from .sim.tasks import EVALUATION_SEED, Task, load_task
from .sim.world import Scene, with_obstacles
from .types import FloatArray, ImageArray, JointSample, Observation, Proposal

CURVE_CM = (1, 2, 3, 4)
"""Distances at the end of an episode that are counted, whatever the tolerance."""


@dataclass(frozen=True)
class EpisodeResult:
    """One episode.

    Attributes:
        seed: of the scene.
        success: whether the tolerance was held for the task's control steps in time.
        time_s: until then, or the whole time limit.
        distance: m, true distance to the goal at the end.
        plan_ms: latency of each plan; command_ms: from observation to accepted command.
        limit_violations: commands beyond a position, velocity or acceleration limit (in process:
            the last one of each control step; over ROS: every one, without acceleration).
        measured_violations: likewise for the measured joints, which contact may push.
        frames: images seen by the agent, if they were asked for.
        tip_path, object_path: (N, 3) m, true paths.
        predicted: the tip path that each plan predicted, (H, 3) m each.
        goal: (3,) m true goal; read_goal: (3,) m as the probe read it from the goal image.
        goal_image: what the agent was shown.
        touched: whether the arm touched an obstacle at any time (in process: by PyBullet's
            contacts; over ROS: by where the measured joints put its shapes).
    """

    seed: int
    success: bool
    time_s: float
    distance: float
    plan_ms: list[float]
    command_ms: list[float]
    limit_violations: int
    measured_violations: int
    frames: list[ImageArray]
    tip_path: FloatArray
    object_path: FloatArray
    predicted: list[FloatArray]
    goal: FloatArray
    read_goal: FloatArray
    goal_image: ImageArray
    touched: bool = False


@dataclass(frozen=True)
class Conditions:
    """What makes episodes harder.

    Attributes:
        blackout: s of an episode between which there are no images.
        delay: s from an observation to the guard's having what was decided of it.
        is_delay_known: whether the agent plans for it.
    """

    blackout: tuple[float, float] = (np.inf, np.inf)
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
            goal = read(shown) if read else agent.read_goal(shown, subject)
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
        policy: Policy
        if name == 'random':
            policy = RandomWalk(np.random.default_rng(seed))
        elif self.task.subject == 'tip':
            policy = ScriptedReach(scene.goal, self._around(scene))
        else:
            policy = ScriptedPush(scene.goal, around=self._around(scene), thing=scene.thing)
        goal = PositionGoal(self.task.subject, scene.goal)
        shown = np.zeros((1, 1, 3), dtype=np.uint8)
        if keep_frames:
            shown = self.world.image_of(scene, self.task.subject).image

        def start() -> Decider:
            return PolicyDecider(policy, self.world, scene)

        return self._run(seed, scene, start, goal, shown, keep_frames)

    def _around(self, scene: Scene) -> Surroundings | None:
        """What a policy that sees ground truth knows of obstacles; None without any."""
        if not scene.obstacles:
            return None
        workspace = np.array([self.arm.workspace_min, self.arm.workspace_max])
        return Surroundings(scene.obstacles, workspace, self.task.region)

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
        dark, light = self._conditions.blackout
        line = Line() if line is None else line
        held, steps, violations = 0, 0, np.zeros(2, dtype=int)
        plan_ms: list[float] = []
        command_ms: list[float] = []
        frames: list[ImageArray] = []
        tips, objects, predicted = [state.tip_position], [state.object_position], []
        while steps * dt < config.time_limit and held < config.hold_steps:
            if keep_frames:
                frames.append(world.image())
            began = time.perf_counter()
            ticks, is_blind = world.config.time.ticks, dark <= steps * dt < light
            decision = control_step(decider, self.guard, world, ticks, is_blind, line)
            violations += self._violations()
            steps += 1
            state = world.state()
            tips.append(state.tip_position)
            objects.append(state.object_position)
            if decision.plan is not None:
                plan_ms.append(decision.plan.latency_ms)
                command_ms.append((decision.decided_at - began) * 1000.0)
                assert decision.tip_path is not None
                predicted.append(decision.tip_path)
            is_near = self.task.distance(state, scene) <= config.tolerance
            held = held + 1 if is_near else 0
        return EpisodeResult(
            seed=seed,
            success=held >= config.hold_steps,
            time_s=steps * dt,
            distance=self.task.distance(state, scene),
            plan_ms=plan_ms,
            command_ms=command_ms,
            limit_violations=int(violations[0]),
            measured_violations=int(violations[1]),
            frames=frames,
            tip_path=np.array(tips),
            object_path=np.array(objects),
            predicted=predicted,
            goal=scene.goal,
            read_goal=goal.position,
            goal_image=goal_image,
            touched=world.has_touched,
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


def evaluate(
    checkpoint: Checkpoint,
    arm: ArmConfig,
    sim: SimConfig,
    guard: GuardConfig,
    planner: PlannerConfig,
    task: str,
    episodes: int,
    seed: int,
    tolerance: float | None = None,
    baselines: bool = True,
    keep_frames: bool = False,
    progress: bool = True,
    conditions: Conditions = EASY,
) -> tuple[dict[str, Any], list[EpisodeResult]]:
    """The report of DESIGN's schema and the episodes behind it.

    Scenes have seeds ``EVALUATION_SEED + seed + i``, which data collection never uses; the
    agent, the floor and the ceiling get the same ones.

    Raises:
        CheckpointError: the checkpoint is for another arm, camera, action space or time chain.
        ConfigError: a delay that cannot be, or of which the guard would refuse everything.
    """
    check_contract(checkpoint.contract, make_contract(arm, sim.time))
    if not 0.0 <= conditions.delay <= guard.max_proposal_age:
        raise ConfigError(
            f'--delay: expected 0 to {guard.max_proposal_age * 1000.0:g} ms, beyond which the '
            f'guard refuses every proposal, got {conditions.delay * 1000.0:g}'
        )
    valid_for = max(planner.valid_for, conditions.delay + guard.late_validity)
    planner = replace(planner, valid_for=valid_for)
    evaluator = Evaluator(arm, sim, guard, task, tolerance, conditions=conditions)
    agent = Agent(checkpoint, evaluator.arm, planner)
    seeds = [EVALUATION_SEED + seed + i for i in range(episodes)]
    results, name = [], planner.optimizer
    with tqdm(seeds, unit='ep', desc=f'{task} {name}', disable=not progress) as bar:
        for scene_seed in bar:
            results.append(evaluator.run_agent(agent, scene_seed, keep_frames))
            bar.set_postfix(success=f'{sum(r.success for r in results)}/{len(results)}')
    rates: dict[str, float | None] = {'random': None, 'scripted': None}
    if baselines:
        for baseline in rates:
            done = [
                evaluator.run_policy(baseline, s).success
                for s in tqdm(seeds, unit='ep', desc=f'{task} {baseline}', disable=not progress)
            ]
            rates[baseline] = float(np.mean(done))
    evaluator.world.close()
    report = summarise(results, evaluator.task, name, episodes, seed, rates)
    report['checkpoint'] = f'{checkpoint.folder.name}, trained at {checkpoint.info["git"]}'
    report['git'] = git_hash()
    return report, results


def evaluate_policy(
    policy: str,
    arm: ArmConfig,
    sim: SimConfig,
    guard: GuardConfig,
    task: str,
    episodes: int,
    seed: int,
    tolerance: float | None = None,
    keep_frames: bool = False,
    progress: bool = True,
) -> tuple[dict[str, Any], list[EpisodeResult]]:
    """The same for a ``policy`` that needs no checkpoint: 'scripted', or 'random'.

    The scripted one tells what an arm's kinematics, limits and workspace allow.
    """
    evaluator = Evaluator(arm, sim, guard, task, tolerance)
    seeds = [EVALUATION_SEED + seed + i for i in range(episodes)]
    results = [
        evaluator.run_policy(policy, scene_seed, keep_frames)
        for scene_seed in tqdm(seeds, unit='ep', desc=f'{task} {policy}', disable=not progress)
    ]
    evaluator.world.close()
    rates: dict[str, float | None] = {'random': None, 'scripted': None}
    report = summarise(results, evaluator.task, policy, episodes, seed, rates)
    report['checkpoint'] = None
    report['git'] = git_hash()
    return report, results


def summarise(
    results: list[EpisodeResult],
    task: Task,
    planner: str,
    episodes: int,
    seed: int,
    rates: dict[str, float | None],
) -> dict[str, Any]:
    """Success with its Wilson interval, times and latencies of ``results``."""
    wins = sum(r.success for r in results)
    times = [r.time_s for r in results if r.success]
    untouched = sum(not r.touched for r in results) if task.config.obstacles else None
    return {
        'task': task.config.name,
        'planner': planner,
        'episodes': episodes,
        'seed': seed,
        'tolerance_cm': task.config.tolerance * 100.0,
        'success_rate': wins / len(results),
        'wilson95': list(wilson(wins, len(results))),
        'untouched_rate': None if untouched is None else untouched / len(results),
        'untouched_wilson95': None if untouched is None else list(wilson(untouched, len(results))),
        'random_rate': rates['random'],
        'scripted_rate': rates['scripted'],
        'median_time_s': float(np.median(times)) if times else None,
        'distance_cm': _percentiles([100.0 * r.distance for r in results]),
        'ended_within': {
            str(cm): sum(r.distance <= cm / 100.0 for r in results) / len(results)
            for cm in CURVE_CM
        },
        'plan_ms': _percentiles([ms for r in results for ms in r.plan_ms]),
        'obs_to_command_ms': _percentiles([ms for r in results for ms in r.command_ms]),
        'limit_violations': sum(r.limit_violations for r in results),
        'measured_violations': sum(r.measured_violations for r in results),
        'failed_seeds': [r.seed for r in results if not r.success],
        'machine': machine(),
    }


def wilson(wins: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion; 95 % by default."""
    share = wins / count
    centre = share + z * z / (2 * count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return float((centre - half) / scale), float((centre + half) / scale)


def machine() -> str:
    """Processor and core count of this machine."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith('model name'):
                name = line.split(':', 1)[1].strip()
                break
    return f'{name}, {os.cpu_count()} cores'


def format_report(report: dict[str, Any]) -> str:
    """The report as a small table for people."""
    low, high = report['wilson95']

    def share(value: float | None) -> str:
        return '-' if value is None else f'{value:.0%}'

    def spread(value: dict[str, float | None], unit: str) -> str:
        return '-' if value['p50'] is None else f'{value["p50"]:.1f} / {value["p99"]:.1f} {unit}'

    time_s, untouched = report['median_time_s'], '-'
    if report.get('untouched_rate') is not None:
        least, most = report['untouched_wilson95']
        untouched = f'{report["untouched_rate"]:.1%}  [{least:.1%}, {most:.1%}]'
    rows = [
        ('task', f'{report["task"]} within {report["tolerance_cm"]:g} cm'),
        ('success', f'{report["success_rate"]:.1%}  [{low:.1%}, {high:.1%}]  '
                    f'n={report["episodes"]} seed={report["seed"]}'),
        ('random floor', share(report['random_rate'])),
        ('scripted ceiling', share(report['scripted_rate'])),
        ('median time', '-' if time_s is None else f'{time_s:.1f} s'),
        ('distance at end', spread(report['distance_cm'], 'cm (p50 / p99)')),
        ('ended within', ', '.join(f'{cm} cm {within:.0%}'
                                   for cm, within in report['ended_within'].items())),
        ('touched nothing', untouched),
        ('plan p50 / p99', spread(report['plan_ms'], 'ms')),
        ('image to command', spread(report['obs_to_command_ms'], 'ms')),
        ('limit violations', f'{report["limit_violations"]} of commands, '
                             f'{report["measured_violations"]} of measured joints'),
        ('machine', report['machine']),
    ]  # fmt: skip
    return '\n'.join(f'{name:18s} {value}' for name, value in rows)


def _percentiles(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {'p50': None, 'p99': None}
    return {
        'p50': round(float(np.percentile(values, 50)), 3),
        'p99': round(float(np.percentile(values, 99)), 3),
    }
