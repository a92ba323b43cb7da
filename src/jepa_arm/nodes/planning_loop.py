"""The planning thread: one plan for each new image, requests in between.

Nothing else touches the agent. Callbacks reach it through the observer, the goal server, the
guard view and ``put``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import monotonic

import numpy as np
import torch
from jepa_arm_msgs.msg import PlannerStatus
from rclpy.impl.rcutils_logger import RcutilsLogger

from ..agent import Agent
from ..arm import Arm
from ..belief import BlindError
from ..config import ConfigError, ObstacleConfig, PlannerConfig
from ..data.recording import FROM_BELIEF
from ..decision import Decision
from ..goals import GoalError
from ..model.checkpoint import Checkpoint
from ..planning.planner import PlanningError
from ..types import FloatArray, JointSample, Observation, Proposal
from . import conversions as convert
from .belief_keeper import BeliefKeeper
from .goal_limits import GoalLimits, Patience
from .goal_server import GoalReader, GoalServer, Outcome, Pursuit
from .guard_view import GuardView
from .observer import LateImage, NoJoints, NoObservation, NoSight, Observer, WrongSight
from .plan_view import PlanView
from .rehearsal import rehearse
from .seen import Seen
from .telling import SURPRISES, Telling

CYCLE_S, IDLE_CYCLE_S = 0.01, 0.1
"""How often joints and requests are looked at when no image comes, with a goal and without."""
IDLE_STEPS = 2
"""Model steps from one image that is looked at to the next, without a goal."""
MOST_LATE = 0.5
"""Of a control step, how long an image is waited for before it is planned without it."""


class PlanningLoop:
    """Pursues the goals of ``goals`` with an agent.

    Attributes:
        saved: observations by name, for goals of kind SAVED.
        telling: of each step.
        keeper: of the belief.
        limits: of goals, by which they count as reached.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        arm: Arm,
        config: PlannerConfig,
        obstacles: Sequence[ObstacleConfig],
        seed: int,
        observer: Observer,
        guard: GuardView,
        goals: GoalServer,
        view: PlanView,
        send: Callable[[Proposal | None], None] | None,
        patience: Patience,
        rest: Callable[[], AbstractContextManager[None]],
        sees_all: bool,
        keep: Callable[[Agent], BeliefKeeper],
        logger: RcutilsLogger,
    ) -> None:
        """Starts the thread.

        Args:
            checkpoint: whose contract fits ``arm``. seed: of the search.
            obstacles: that plans lead round.
            observer, guard, goals, view: what is heard, asked for and shown.
            send: passes a proposal on to the guard, or None at the end of a goal; None: dry run.
            patience: with blindness, no progress, no guard.
            rest: is entered while a decision is made, which nothing should interrupt.
            sees_all: whether every image is answered, also those that nothing is planned from.
            keep: makes what keeps the agent's belief.
            logger: of the node.
        """
        self._arm, self._config, self._checkpoint = arm, config, checkpoint
        self._observer, self._guard, self._goals, self._view = observer, guard, goals, view
        self._send, self._patience, self._rest = send, patience, rest
        self._sees_all, self._logger = sees_all, logger
        first = None if config.deadline_ms == np.inf else config.sweep_sizes[0]
        self._agent = Agent(checkpoint, arm, config, seed, sweep_size=first)
        self._agent.keep_out_of(obstacles)
        self.keeper = keep(self._agent)
        self.telling = Telling(self._agent, view, patience.level, send is None)
        self.saved: dict[str, Observation] = {}
        self._reader = GoalReader(self._agent, arm, checkpoint.contract.camera, self.saved)
        time = checkpoint.contract.time
        self._time, self._seen = time, Seen(time)
        self.limits = GoalLimits(checkpoint.info, config.timeout)
        self._stepped_at = self._calm_at = -np.inf
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._is_ending = Event()
        self._thread = Thread(target=self._run, name='planning', daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def recent(self) -> list[Observation]:
        """The newest observations, about one model step of them."""
        return list(self._seen.recent)

    @property
    def candidates(self) -> str:
        """How many a sweep prices, of how many that are meant to be."""
        return f'{self._agent.planners.sweep_size} of {self._config.candidates}'

    @property
    def deadline_ms(self) -> float:
        """ms, of each plan."""
        return self._agent.planners.deadline_ms

    @deadline_ms.setter
    def deadline_ms(self, deadline: float) -> None:
        self._agent.planners.deadline_ms = deadline

    def put(self, job: Callable[[], None]) -> None:
        """Has ``job`` done on the planning thread, between two plans."""
        self._jobs.put(job)

    def stop(self) -> None:
        """Ends the thread."""
        self._is_ending.set()
        self._thread.join(timeout=2.0)
        self.keeper.close()

    def _run(self) -> None:
        torch.set_num_threads(self._config.threads)
        torch.set_flush_denormal(True)
        rehearse(
            self._agent,
            self._arm,
            self._checkpoint.contract,
            self._config,
            self._is_ending.is_set,
            self._logger,
        )
        self._logger.info(f'ready: {self._checkpoint.folder.name} for {self._arm.config.name}')
        looked, waits = monotonic(), False
        while not self._is_ending.is_set():
            is_idle = self._goals.active is None
            is_new = self._observer.wait(IDLE_CYCLE_S if is_idle else CYCLE_S)
            self._answer_requests()
            self._drop_ended_goal()
            if is_idle and self._goals.active is not None and not self._sees_all:
                looked, waits = monotonic(), True  # what came while idle was taken late
                continue
            waits = waits and not is_new and monotonic() - looked < IDLE_CYCLE_S
            if waits:
                continue
            if is_new and self._goals.active is None and self._is_early():
                looked = monotonic()
                continue
            if not is_new and monotonic() - looked < IDLE_CYCLE_S:
                self._carry_on('')
                continue
            looked = monotonic()
            try:
                observation = self._observer.observe()
            except NoSight as problem:
                if isinstance(problem, LateImage):
                    self._look_back(problem.observation)
                if not self._carry_on(str(problem)):
                    self._go_blind(str(problem))
                continue
            except NoObservation as problem:
                if not isinstance(problem, NoJoints):
                    self._seen.doubt()
                if isinstance(problem, WrongSight):
                    self.keeper.forget(str(problem))
                self._go_blind(str(problem))
                continue
            if observation.stamp == self._seen.newest:
                self._carry_on('')
            else:
                self._step(observation)

    def _is_early(self) -> bool:
        """Whether the newest image is less than ``IDLE_STEPS`` after the one seen last.

        Without a goal the arm rests, and so few are enough for the belief.
        """
        if self._sees_all:
            return False
        passed = self._observer.image_stamp - self._seen.newest
        return 0.0 < passed < IDLE_STEPS * self._time.model_dt - self._time.control_dt / 2.0

    def _answer_requests(self) -> None:
        with suppress(Empty):
            while True:
                self._jobs.get_nowait()()
        pursuit = self._goals.take()
        if pursuit is None or pursuit.ended.done():
            return
        try:
            self._start(pursuit)
        except (GoalError, ConfigError, convert.ConversionError) as error:
            pursuit.end(Outcome.INVALID_GOAL, str(error))

    def _start(self, pursuit: Pursuit) -> None:
        """Reads a goal and pursues it in place of the present one, or raises what is wrong."""
        goal = self._reader.read(pursuit.request.goal)
        self._agent.check_goal(goal)
        reach, timeout = self.limits.of(pursuit.request, goal.subject)
        stuck_for = np.inf if self._send is None else self._patience.stuck
        pursuit.begin(goal, reach, timeout, stuck_for, self.limits.turn(pursuit.request))
        takes_over = self._goals.active is not None
        self._goals.activate(pursuit)
        self._view.goal(self._reader.spelled_out(pursuit.request.goal))
        resting, measured = self._guard.resting_at(), self._observer.joints()
        if resting is not None:
            self._agent.resync(resting)
        elif not takes_over and measured is not None:
            self._agent.resync(measured)
        self._agent.set_goal(goal)
        self._guard.begin()
        self._calm_at = max(self._calm_at, self._stepped_at)
        place, turned = np.round(goal.position, 3).tolist(), ''
        if goal.yaw is not None:
            turned = f' and {np.degrees(goal.yaw):.0f} degrees'
        self._logger.info(
            f'goal: {goal.subject} to {place} m{turned}, to be read within {reach:.3f} m'
        )

    def _drop_ended_goal(self) -> None:
        pursuit = self._goals.active
        if pursuit is not None and pursuit.ended.done():
            self._goals.active = None
            if self._send is not None:
                self._send(None)
            self._agent.set_goal(None)
            self._guard.forget()
            self._view.clear()

    def _go_blind(self, reason: str) -> None:
        blind_for = self._seen.blind_for()
        pursuit = self._goals.active
        if pursuit is not None and blind_for > self._patience.blind:
            pursuit.end(Outcome.NO_OBSERVATION, reason)
        self._view.status(PlannerStatus.HOLDING, reason)

    def _look_back(self, observation: Observation) -> None:
        """Puts an image that came late where it belongs."""
        if -np.inf < self._seen.at < observation.stamp:
            self._seen.keep(observation)
            self._see_late(observation)

    def _see_late(self, observation: Observation) -> None:
        """Believes an image of what was planned for already, without it."""
        self._agent.observe(observation)
        self._seen.late.append(observation.stamp)

    def _carry_on(self, problem: str) -> bool:
        """Whether the goal is pursued without an image; plans if a plan is due.

        Not after what was seen could not be believed. Joints may miss for a while: the belief is
        carried on over it when they are back.
        """
        pursuit, dt = self._goals.active, self._checkpoint.contract.time.control_dt
        joints = self._observer.newest()
        if pursuit is None or joints is None:
            return False
        if problem and not self._seen.recent:
            self._recall(joints)
        if self._seen.is_doubted or joints.stamp - self._seen.at > self._patience.unseen:
            return False
        is_blind = self._stepped_at > self._seen.at
        if joints.stamp < self._stepped_at + (1.0 if is_blind else 1.0 + MOST_LATE) * dt:
            return True  # an image may still come
        try:
            self._plan(joints, f'{problem or "the image is late"}: {FROM_BELIEF}')
        except BlindError:
            return False
        self._seen.go_on()
        return True

    def _recall(self, now: JointSample) -> None:
        """Goes on from the belief that was kept, if there is one for this time."""
        seen_at = self.keeper.recall(now)
        if seen_at is not None:
            self._seen.recall(seen_at)

    def _step(self, observation: Observation) -> None:
        """Plans from one observation and sends the proposal."""
        self._remember(observation)
        if observation.stamp > self._stepped_at:
            self._plan(observation, '')
        else:
            self._see_late(observation)

    def _plan(self, seen: Observation | JointSample, note: str) -> None:
        """Plans from an observation, or from the belief and joints alone, and sends it."""
        pursuit, stamp = self._goals.active, seen.stamp
        joints = seen.joints if isinstance(seen, Observation) else seen.position
        if pursuit is None:
            self._stand(joints)
        else:
            self._follow_guard(pursuit, joints)
        decision, problem = self._decide(seen)
        if np.isfinite(self._stepped_at):  # of more than a model step between two no image tells
            self._calm_at += max(0.0, stamp - self._stepped_at - self._time.model_dt)
        self._stepped_at = stamp
        if pursuit is not None:
            cost = np.nan if decision.plan is None else decision.plan.cost
            pursuit.judge(
                stamp,
                decision.distance,
                cost,
                speed=self._freedom(pursuit),
                left=decision.left,
                round_left=decision.round_left,
                turn=decision.turn,
            )
        is_over = pursuit is None or pursuit.ended.done()
        is_sent = not (is_over or pursuit is None or pursuit.progress.is_waiting)
        age = self._observer.age(stamp)
        if is_sent and decision.proposal is not None and self._send is not None:
            self._send(decision.proposal)
            self._guard.sent()
            self._agent.sent(stamp + age)
        self.keeper.keep()
        decision = self._agent.judged(decision)
        if not decision.surprise > self._patience.level:  # nor where there is nothing to judge
            self._calm_at = stamp
        elif pursuit is not None and stamp - self._calm_at > self._patience.surprised:
            self._give_up(pursuit, decision, stamp)
        late = self._seen.late
        if pursuit is None or is_over:
            self.telling.step(PlannerStatus.IDLE, self._goals.closed, seen, decision, late)
        elif decision.proposal is None:
            self.telling.step(PlannerStatus.HOLDING, problem, seen, decision, late)
        else:
            self.telling.plan(seen, decision, late, age, pursuit, note)

    def _decide(self, seen: Observation | JointSample) -> tuple[Decision, str]:
        """What to do, and why nothing, if that is so."""
        try:
            with self._rest():
                if isinstance(seen, Observation):
                    return self._agent.decide(seen, judges=False), ''
                return self._agent.decide_blind(seen, judges=False), ''
        except PlanningError as error:
            return Decision(None), str(error)

    def _give_up(self, pursuit: Pursuit, decision: Decision, stamp: float) -> None:
        """Ends a goal in a world that does not do what is predicted of it."""
        pursuit.end(
            Outcome.SURPRISED,
            f'surprised by {SURPRISES[decision.channel]} for {stamp - self._calm_at:.1f} s '
            f'({decision.surprise:.1f} times the level); look at the scene, arm and camera',
        )

    def _freedom(self, pursuit: Pursuit) -> float:
        """Share of full speed at which the arm may move; 0 while the guard holds it."""
        is_held = self._guard.resting_at() is not None and not pursuit.progress.is_waiting
        return 0.0 if is_held else self._guard.speed

    def _remember(self, observation: Observation) -> None:
        """Keeps the observation; starts anew when the clock jumped back."""
        if not self._seen.recent:
            self._recall(
                JointSample(observation.joints, observation.joints * 0.0, observation.stamp)
            )
        if observation.stamp <= self._seen.at:
            self._logger.warning(
                f'the clock jumped back from {self._seen.at:.2f} s to '
                f'{observation.stamp:.2f} s: the belief starts anew'
            )
            goal = self._agent.goal
            self._seen = Seen(self._time)
            self._stepped_at, self._calm_at = -np.inf, observation.stamp
            self._agent.reset(observation.joints)
            self._agent.set_goal(goal)
            if self._goals.active is not None:
                self._goals.active.restart_clock()
        self._seen.keep(observation)

    def _stand(self, joints: FloatArray) -> None:
        """Takes the arm to be told to stay where the guard holds it, or else at ``joints``."""
        resting = self._guard.resting_at()
        self._agent.resync(joints if resting is None else resting)

    def _follow_guard(self, pursuit: Pursuit, joints: FloatArray) -> None:
        """Plans on from where the guard holds the arm; ends the goal if it stays stopped."""
        if self._send is None:
            self._agent.resync(joints)
            return
        stopped = self._guard.stopped(self._patience.unguarded)
        if stopped:
            pursuit.end(Outcome.GUARD_STOPPED, stopped)
        self._agent.latency = self._guard.latency
        self._agent.speed = self._guard.speed
        standing = self._guard.lost_track()
        if standing is not None:
            self._agent.resync(standing)
