"""Planning loop: the thread that makes a plan for each new image.

No other thread touches the agent. Callbacks reach it through the observer, the goal server, the
guard monitor and ``submit``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from threading import Event, Thread
from time import monotonic
from typing import Any

import numpy as np
import torch
from jepa_arm_msgs.msg import PlannerStatus
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.task import Future

from jepa_arm.agent.agent import Agent
from jepa_arm.agent.decision import Decision, StepFeedback
from jepa_arm.belief.belief import BlindError
from jepa_arm.config import ConfigError
from jepa_arm.core.goals import GoalError, PositionGoal
from jepa_arm.core.types import FloatArray, JointSample, Observation, Proposal
from jepa_arm.datasets.recording import BLIND_REASON
from jepa_arm.ros.runtime import conversions as convert

from .active_goal import ActiveGoal, CriteriaReader, Outcome
from .belief_file import BeliefFile
from .goal_reader import GoalReader
from .goal_server import GoalServer
from .guard_monitor import GuardMonitor
from .observer import (
    LateImage,
    NoImage,
    NoJoints,
    NoObservation,
    ObservationHistory,
    Observer,
    UntrustedImage,
)
from .plan_publisher import PlanPublisher, StepRecord
from .progress_monitor import PlanProgress
from .settings import PlannerSettings

CYCLE_S, IDLE_CYCLE_S = 0.01, 0.1
"""Periods of checks for joints and requests while no image comes, with and without a goal."""
IDLE_STEPS = 2
"""Model steps from one processed image to the next while there is no goal."""
MAX_IMAGE_WAIT = 0.5
"""Share of a control step for which an image is awaited before planning without it."""
SURPRISE_TEXTS = {
    'latent': 'the present state of the world',
    'long_horizon': 'how the world went on',
    'tip_motion': 'how the arm moves',
    'image_tip': 'where the image shows the arm',
    'background': 'a changed background',
    'camera_pose': 'where the camera looks from',
    'palette': 'a new colour',
    'image_change': 'how much of the image moves',
}
"""Description of each surprise channel, for messages."""


@dataclass(frozen=True)
class PlannerConnections:
    """Connections of the planning thread to the rest of the node.

    Attributes:
        observer: newest images and joints.
        guard: state of the guard.
        goals: action server.
        publisher: publisher of status and plan.
        send: sends a proposal to the guard; called with None at the end of a goal. None: dry run.
        uninterrupted: returns a context that holds callbacks back while a decision is made.
        logger: logger of the node.
    """

    observer: Observer
    guard: GuardMonitor
    goals: GoalServer
    publisher: PlanPublisher
    send: Callable[[Proposal | None], None] | None
    uninterrupted: Callable[[], AbstractContextManager[None]]
    logger: RcutilsLogger


class PlanningLoop:
    """Thread that pursues the active goal with an agent.

    Attributes:
        saved: observations by name, for goals of kind SAVED.
        planners: planners of the agent, for reading the number of candidates and the deadline.
        belief_file: file with the agent's belief.
        criteria: reader of the criteria by which goals end.
        late_plans: number of plans so far that exceeded their deadline.
        slowest_ms: longest planning time since this attribute was last set to 0.
        latencies_ms: planning times of the newest plans.
    """

    def __init__(
        self,
        agent: Agent,
        connections: PlannerConnections,
        settings: PlannerSettings,
        belief_file: BeliefFile,
    ) -> None:
        """Start the thread.

        Args:
            agent: from now on used by the thread alone.
            connections: connections to the rest of the node.
            settings: settings of the node; with ``lock_step`` a status is published for every
                image, even if nothing is planned from it.
            belief_file: file with the agent's belief; ``stop`` closes it.
        """
        self._agent, self._settings, self.belief_file = agent, settings, belief_file
        self._observer, self._guard = connections.observer, connections.guard
        self._goals, self._publisher = connections.goals, connections.publisher
        self._send, self._uninterrupted = connections.send, connections.uninterrupted
        self._logger, self._answers_every_image = connections.logger, settings.lock_step
        self._time, self.planners = agent.checkpoint.contract.time, agent.planners
        self.late_plans, self.slowest_ms = 0, 0.0
        self.latencies_ms: deque[float] = deque(maxlen=100)
        self.saved: dict[str, Observation] = {}
        self._reader = GoalReader(agent, self.saved)
        self.criteria = CriteriaReader(
            agent.checkpoint.info,
            agent.config.timeout,
            np.inf if self._send is None else settings.progress_timeout,
        )
        self._history = ObservationHistory(self._time)
        self._stepped_at = self._calm_at = -np.inf
        self._looked_at, self._awaits_image = monotonic(), False
        self._restart_from: FloatArray | None = None
        self._sent_at: float | None = None
        self._delay, self._speed_scale = 0.0, 1.0
        self._jobs: SimpleQueue[tuple[Callable[[Agent], Any], Future]] = SimpleQueue()
        self._is_ending = Event()
        self._thread = Thread(target=self._run, name='planning', daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    def set_deadline(self, deadline_ms: float) -> None:
        """Change the deadline of later plans; takes effect between two plans."""
        self.submit(lambda agent: setattr(agent.planners, 'deadline_ms', deadline_ms))

    def submit(self, job: Callable[[Agent], Any]) -> Future:
        """Run ``job`` on the planning thread, between two plans; return the future of its result.

        Errors of the job go to the future; they do not end the thread.
        """
        future = Future()
        self._jobs.put((job, future))
        return future

    def stop(self) -> None:
        """End the thread."""
        self._is_ending.set()
        self._thread.join(timeout=2.0)
        self.belief_file.close()

    def _run(self) -> None:
        torch.set_num_threads(self._agent.config.threads)
        torch.set_flush_denormal(True)
        warm_up(self._agent, self._is_ending.is_set, self._logger)
        checkpoint, arm = self._agent.checkpoint, self._agent.arm
        self._logger.info(f'ready: {checkpoint.folder.name} for {arm.config.name}')
        self._looked_at = monotonic()
        while not self._is_ending.is_set():
            self._cycle()

    def _cycle(self) -> None:
        """Wait at most one period for an image, then handle requests, goals and observations."""
        was_idle = self._goals.active is None
        is_new = self._observer.wait(IDLE_CYCLE_S if was_idle else CYCLE_S)
        self._run_jobs()
        self._accept_goal()
        self._drop_ended_goal()
        now, is_idle = monotonic(), self._goals.active is None
        if was_idle and not is_idle and not self._answers_every_image:
            self._looked_at, self._awaits_image = now, True  # while idle, images were read late
            return
        is_recent = not is_new and now - self._looked_at < IDLE_CYCLE_S
        self._awaits_image = self._awaits_image and is_recent
        if self._awaits_image:
            return
        if is_new and is_idle and self._is_early():
            self._looked_at = now
        elif is_recent:
            self._plan_blind('')
        else:
            self._looked_at = now
            self._observe()

    def _is_early(self) -> bool:
        """Return whether fewer than ``IDLE_STEPS`` lie between the newest and the last used image.

        Without a goal the arm rests, and few images are enough for the belief.
        """
        if self._answers_every_image:
            return False
        passed = self._observer.image_stamp - self._history.newest
        return 0.0 < passed < IDLE_STEPS * self._time.model_dt - self._time.control_dt / 2.0

    # ---------------------------------------------------------------- goals and requests

    def _run_jobs(self) -> None:
        with suppress(Empty):
            while True:
                job, future = self._jobs.get_nowait()
                try:
                    future.set_result(job(self._agent))
                except Exception as error:  # whatever it is, planning goes on
                    future.set_exception(error)

    def _accept_goal(self) -> None:
        """Begin the newest requested goal, if any."""
        goal = self._goals.take_request()
        if goal is None or goal.ended.done():
            return
        try:
            self._begin(goal)
        except (GoalError, ConfigError, convert.ConversionError) as error:
            goal.end(Outcome.INVALID_GOAL, str(error))

    def _begin(self, active: ActiveGoal) -> None:
        """Read a goal and pursue it in place of the current one.

        Raises:
            GoalError, ConfigError, ConversionError: the goal is malformed or cannot be pursued.
        """
        goal = self._reader.read(active.request.goal)
        self._agent.check_goal(goal)
        criteria = self.criteria.read(active.request, goal.subject)
        active.begin(goal, criteria)
        takes_over = self._goals.active is not None
        self._goals.activate(active)
        self._publisher.goal(self._reader.to_self_contained(active.request.goal))
        resting, measured = self._guard.resting_setpoint(), self._observer.newest_joints()
        if resting is not None:
            self._restart_from = resting
        elif not takes_over and measured is not None:
            self._restart_from = measured.position
        self._agent.set_goal(goal)
        self._guard.begin_goal()
        self._calm_at = max(self._calm_at, self._stepped_at)
        position, yaw = np.round(goal.position, 3).tolist(), ''
        if goal.yaw is not None:
            yaw = f' and {np.degrees(goal.yaw):.0f} degrees'
        self._logger.info(
            f'goal: {goal.subject} to {position} m{yaw}, estimated within '
            f'{criteria.tolerance:.3f} m'
        )

    def _drop_ended_goal(self) -> None:
        active = self._goals.active
        if active is not None and active.ended.done():
            self._goals.active = None
            if self._send is not None:
                self._send(None)
            self._agent.set_goal(None)
            self._guard.forget_proposals()
            self._publisher.clear()

    # ---------------------------------------------------------------- observations

    def _observe(self) -> None:
        """Take the newest observation and plan from it, or without one if it is missing."""
        try:
            observation = self._observer.observe()
        except NoImage as problem:
            if isinstance(problem, LateImage):
                self._add_late_image(problem.observation)
            if not self._plan_blind(str(problem)):
                self._report_blindness(str(problem))
        except NoObservation as problem:
            if not isinstance(problem, NoJoints):
                self._history.is_distrusted = True
            if isinstance(problem, UntrustedImage):
                self.belief_file.delete(str(problem))
            self._report_blindness(str(problem))
        else:
            if observation.stamp == self._history.newest:
                self._plan_blind('')
            else:
                self._add_image(observation)

    def _add_image(self, observation: Observation) -> None:
        """Plan from an observation, or queue it if a plan for its time was already made."""
        joints, stamp = observation.joints, observation.stamp
        if self._history.is_empty:
            self._restore_belief(JointSample(joints, joints * 0.0, stamp))
        if stamp <= self._history.image_stamp:
            self._restart_belief(observation)
        self._history.add(observation)
        if stamp > self._stepped_at:
            self._plan(observation, '')
        else:
            self._history.late.append(observation)

    def _add_late_image(self, observation: Observation) -> None:
        """Queue an image that came too late to plan from, for the next update of the belief."""
        if -np.inf < self._history.image_stamp < observation.stamp:
            self._history.add(observation)
            self._history.late.append(observation)

    def _restore_belief(self, now: JointSample) -> None:
        """Continue from the saved belief if there is one that agrees with the joints ``now``."""
        image_stamp = self.belief_file.restore(now)
        if image_stamp is not None:
            self._history.image_stamp, self._history.is_distrusted = image_stamp, False

    def _restart_belief(self, observation: Observation) -> None:
        """Reset the belief but keep the goal, since the clock jumped back."""
        self._logger.warning(
            f'the clock jumped back from {self._history.image_stamp:.2f} s to '
            f'{observation.stamp:.2f} s: the belief is reset'
        )
        goal = self._agent.goal
        self._history = ObservationHistory(self._time)
        self._stepped_at, self._calm_at = -np.inf, observation.stamp
        self._restart_from = self._sent_at = None
        self._agent.reset(observation.joints)
        self._agent.set_goal(goal)
        if self._goals.active is not None:
            self._goals.active.restart_clock()

    def _plan_blind(self, problem: str) -> bool:
        """Plan from the belief and joints if a plan is due; return False if none can be made.

        Nothing is planned after an image was rejected. If joints are missing for a while, the
        belief is propagated over the gap once they are back.

        Args:
            problem: why there is no image; empty if it is only late.
        """
        active, joints = self._goals.active, self._observer.newest_joints()
        if active is None or joints is None:
            return False
        if problem and self._history.is_empty:
            self._restore_belief(joints)
        unseen_for = joints.stamp - self._history.image_stamp
        if self._history.is_distrusted or unseen_for > self._settings.max_blackout:
            return False
        was_blind = self._stepped_at > self._history.image_stamp
        steps = 1.0 if was_blind else 1.0 + MAX_IMAGE_WAIT
        if joints.stamp < self._stepped_at + steps * self._time.control_dt:
            return True  # an image may still come
        try:
            self._plan(joints, f'{problem or "the image is late"}: {BLIND_REASON}')
        except BlindError:
            return False
        self._history.end_blindness()
        return True

    def _report_blindness(self, reason: str) -> None:
        """Publish why nothing is planned; end the goal if this lasts too long."""
        active = self._goals.active
        if self._history.blind_for() > self._settings.observation_timeout and active is not None:
            active.end(Outcome.NO_OBSERVATION, reason)
        self._publisher.status(PlannerStatus.HOLDING, reason)

    # ---------------------------------------------------------------- plan

    def _plan(self, observation: Observation | JointSample, note: str) -> None:
        """Plan from an observation, or from the belief and joints, and send the proposal.

        Args:
            observation: newer than the last one.
            note: reason to publish in the status together with the plan.
        """
        active, stamp = self._goals.active, observation.stamp
        feedback = self._feedback(active, observation)
        with self._uninterrupted():
            decision = self._agent.step(observation, feedback)
        self._restart_from = self._sent_at = None
        self._history.late.clear()
        if np.isfinite(self._stepped_at):  # a gap beyond a model step is no evidence of surprise
            self._calm_at += max(0.0, stamp - self._stepped_at - self._time.model_dt)
        self._stepped_at = stamp
        if active is not None:
            self._record_progress(active, decision, stamp)
        age = self._observer.age(stamp)
        is_over = active is None or active.ended.done()
        is_moving = active is not None and not is_over and not active.progress.is_waiting
        if is_moving and decision.proposal is not None and self._send is not None:
            self._send(decision.proposal)
            self._guard.record_proposal()
            self._sent_at = stamp + age
        self.belief_file.save()
        decision = self._agent.assess(decision)
        self._check_surprise(active, decision, stamp)
        record = StepRecord(observation, feedback, decision, age)
        if active is not None and not is_over and decision.proposal is not None:
            self._report_plan(record, active, decision.proposal, note)
            return
        state, reason = PlannerStatus.HOLDING, decision.problem
        if active is None or is_over:
            state, reason = PlannerStatus.IDLE, self._goals.rejection
        self._publisher.status(state, reason, replace(record, observation_age=np.nan))

    def _feedback(
        self, active: ActiveGoal | None, observation: Observation | JointSample
    ) -> StepFeedback:
        """Return the feedback to the agent on what happened since the last step."""
        is_image = isinstance(observation, Observation)
        joints = observation.joints if is_image else observation.position
        if active is None:
            resting = self._guard.resting_setpoint()
            self._restart_from = joints if resting is None else resting
        else:
            self._follow_guard(active, joints)
        return StepFeedback(
            setpoint=self._restart_from,
            is_continued=self._restart_from is None,
            late_observations=tuple(self._history.late),
            sent_at=self._sent_at,
            speed_scale=self._speed_scale,
            delay=self._delay,
        )

    def _follow_guard(self, active: ActiveGoal, joints: FloatArray) -> None:
        """Plan from the setpoint that the guard holds; end the goal if the guard stays stopped."""
        if self._send is None:
            self._restart_from = joints
            return
        stopped = self._guard.stop_reason(self._settings.guard_timeout)
        if stopped:
            active.end(Outcome.GUARD_STOPPED, stopped)
        self._delay, self._speed_scale = self._guard.delay, self._guard.speed_scale
        held_at = self._guard.dropped_setpoint()
        if held_at is not None:
            self._restart_from = held_at

    def _record_progress(self, active: ActiveGoal, decision: Decision, stamp: float) -> None:
        """Count a plan towards the goal's progress; end the goal if it is reached or hopeless."""
        is_held = self._guard.resting_setpoint() is not None and not active.progress.is_waiting
        active.record_plan(
            PlanProgress(
                stamp,
                decision.distance,
                np.nan if decision.plan is None else decision.plan.cost,
                0.0 if is_held else self._guard.speed_scale,
                decision.remaining_path,
                decision.remaining_approach,
                decision.yaw_error,
            )
        )

    def _report_plan(
        self, record: StepRecord, active: ActiveGoal, proposal: Proposal, note: str
    ) -> None:
        """Publish a step with a plan for ``active``; ``note`` is its reason if all is well."""
        decision = record.decision
        assert active.goal is not None and decision.plan is not None
        plan_ms = decision.plan.latency_ms
        self.late_plans += plan_ms > self.planners.deadline_ms
        self.latencies_ms.append(plan_ms)
        self.slowest_ms = max(self.slowest_ms, plan_ms)
        state, reason = PlannerStatus.HOLDING, 'dry run: nothing is sent'
        if active.progress.is_waiting:
            reason = f'no nearer for {active.progress.stuck:.1f} s: waiting'
        elif self._send is not None:
            state, reason = PlannerStatus.PLANNING, note
            if self._is_surprised(decision):
                cause = SURPRISE_TEXTS[decision.surprise_channel]
                reason = f'surprised by {cause} ({decision.surprise:.1f})'
        self._publisher.status(state, reason, record, active.replans)
        self._publisher.plan(
            decision,
            self._agent.tip_paths(decision.plan.alternatives),
            active.goal,
            active.criteria.tolerance,
            record.observation.stamp,
        )
        if self._send is None:
            self._publisher.preview(proposal)
        active.send_feedback(
            distance=decision.distance,
            predicted_distance=decision.predicted_distance,
            yaw_error=decision.yaw_error,
            surprise=decision.surprise,
            risk=decision.risk,
            plan_ms=plan_ms,
            observation_age_ms=record.observation_age * 1000.0,
        )

    def _is_surprised(self, decision: Decision) -> bool:
        """Return whether the surprise exceeds its threshold; NaN (not computed) does not."""
        return decision.surprise > self._settings.surprise_threshold

    def _check_surprise(self, active: ActiveGoal | None, decision: Decision, stamp: float) -> None:
        """End a goal if the world has not behaved as predicted for too long."""
        if not self._is_surprised(decision):
            self._calm_at = stamp
            return
        surprised_for = stamp - self._calm_at
        if active is not None and surprised_for > self._settings.surprise_timeout:
            active.end(
                Outcome.SURPRISED,
                f'surprised by {SURPRISE_TEXTS[decision.surprise_channel]} for '
                f'{surprised_for:.1f} s ({decision.surprise:.1f} times the alarm threshold); look '
                'at the scene, arm and camera',
            )


def warm_up(agent: Agent, is_ending: Callable[[], bool], logger: RcutilsLogger) -> None:
    """Make the first plans of ``agent``, and choose the number of candidates for this machine.

    The smallest allowed number is timed first; a slow machine keeps it and compiles only once.

    Args:
        agent: agent to warm up; it is reset afterwards.
        is_ending: returns True if the process is ending and the rest can be skipped.
        logger: logger of the node.
    """
    planners = agent.planners
    _make_plans(agent)
    budget = None if is_ending() else planners.measure_candidate_budget()
    if budget is None or is_ending():
        return
    logger.info(f'plans: {budget}')
    if budget.candidates != planners.candidates_per_iteration:
        planners.candidates_per_iteration = budget.candidates
        _make_plans(agent)


def _make_plans(agent: Agent) -> None:
    contract, home = agent.checkpoint.contract, agent.arm.home
    black = np.zeros(contract.camera.image_shape, dtype=np.uint8)
    candidates = agent.planners.candidates_per_iteration * agent.config.iterations
    feedback = StepFeedback(max_candidates=candidates)
    for i, subject in enumerate(('tip', 'tip', 'object', 'object')):
        agent.set_goal(PositionGoal(subject, agent.arm.tip_position(home)))
        agent.step(Observation(black, home, i * contract.time.control_dt), feedback)
    agent.reset(home)
