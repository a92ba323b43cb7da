"""The planner on ROS 2, a managed node: images and joints in, proposals for the guard out.

Callbacks only store what comes; ``PlanningLoop`` does the rest on its own thread.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from jepa_arm_msgs.msg import GuardStatus, PlannerStatus
from jepa_arm_msgs.srv import Imagine, SaveState
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from ..agent import Agent
from ..arm import Arm
from ..config import ConfigError, GuardConfig, PlannerConfig, TimeConfig, load
from ..data.recording import WRIST_IMAGES
from ..model.checkpoint import Checkpoint, CheckpointError, check_contract, load_checkpoint
from ..motion import make_contract
from ..resources import checkpoint_path, config_path
from ..types import Proposal
from . import conversions as convert
from .belief_keeper import BeliefKeeper
from .connections import Connections
from .diagnostics import percentiles
from .environment import prepare_ros
from .executors import Beat
from .goal_limits import Patience
from .goal_server import GoalServer, Outcome
from .guard_view import GuardView
from .imagination import imagine
from .imagined_view import ImaginedView
from .lifecycle import ManagedNode, run_managed
from .observer import NoObservation, Observer
from .parameters import COMMAND, GUARD_STATUS, JOINTS, SENSOR, load_arm, load_sim_config
from .plan_view import PlanView
from .planner_settings import PlannerSettings
from .planning_loop import PlanningLoop

TAKE_S, IDLE_TAKE_S = 0.005, 0.1
"""How often messages are taken, with a goal and without: to wait for each takes more processor."""
IDLE_JOINTS_S = 0.04
"""Without a goal joint states are read so far apart."""
MOST_SAVED, LONGEST_NAME = 100, 100
LAST_WORDS_S, LONGEST_WORDS_S = 0.3, 1.0
"""For which results of goals may still be sent when the process ends, at least and at most."""
NOT_ACTIVE = 'inactive: the planner is not active; activate it (ros2 lifecycle set)'


class PlannerPart:
    """Topics, services and the action of the planner."""

    def __init__(self, node: ManagedNode, settings: PlannerSettings) -> None:
        self._node = node
        settings.check()
        self._arm = load_arm(settings.arm)
        time = load_sim_config(settings.sim_config).time
        config = load(PlannerConfig, config_path(settings.planner_config))
        obstacles = load(GuardConfig, config_path(settings.guard_config)).obstacles
        self._checkpoint = _load_checkpoint(settings.checkpoint, self._arm, time)
        self._period_ms = time.control_dt * 1000.0
        self._is_lock_step = settings.lock_step
        self._is_dry_run = settings.dry_run
        if self._is_lock_step:
            config = replace(config, deadline_ms=float('inf'))
        self._deadline_ms = config.deadline_ms
        self._beat = None if self._is_lock_step else Beat(TAKE_S, 0.0, self._on_beat)

        with ExitStack() as stack:
            self._observer = Observer(
                self._arm.joint_names,
                self._arm.fastest,
                self._checkpoint.contract.camera,
                self._steady(settings.max_image_age),
                self._steady(settings.max_joint_age),
                settings.max_clipped,
                self._arm.tip_position,
                node.resolve_topic_name,
            )
            self._guard = GuardView(len(self._arm.joint_names))
            self._goals = GoalServer(node, NOT_ACTIVE, self._hurry)
            stack.callback(self._goals.destroy)
            corners = np.stack([self._arm.workspace_min, self._arm.workspace_max])
            self._view = PlanView(node, self._arm.config.base_link, corners, obstacles)
            self._show_imagined()
            self._loop = PlanningLoop(
                self._checkpoint,
                self._arm,
                config,
                obstacles,
                settings.seed,
                self._observer,
                self._guard,
                self._goals,
                self._view,
                send=None if settings.dry_run else self._send,
                patience=self._patience(settings),
                rest=nullcontext if self._beat is None else self._beat.rest,
                sees_all=self._is_lock_step,
                keep=partial(self._keep_belief, settings),
                logger=node.get_logger(),
            )
            stack.callback(self._loop.stop)
            self._at_end = stack.pop_all()
        self.set_live(
            {'goal_tolerance': settings.goal_tolerance, 'deadline_ms': settings.deadline_ms}
        )
        self._listen()
        self._ending_since = 0.0

    def _steady(self, limit: float) -> float:
        """A limit on the steady clock, which means nothing in lock-step."""
        return float('inf') if self._is_lock_step else limit

    def _patience(self, settings: PlannerSettings) -> Patience:
        return Patience(
            blind=self._steady(settings.observation_timeout),
            unseen=0.0 if self._is_lock_step else settings.max_blackout,
            stuck=settings.progress_timeout,
            unguarded=self._steady(settings.guard_timeout),
            surprised=settings.surprise_timeout,
            level=settings.surprise_level,
        )

    def set_live(self, values: Mapping[str, Any]) -> None:
        """Another tolerance for goals to come, another deadline for plans to come."""
        limits = self._loop.limits
        limits.tolerance = values.get('goal_tolerance', limits.tolerance)
        if 'deadline_ms' in values and not self._is_lock_step:
            self._loop.deadline_ms = values['deadline_ms'] or self._deadline_ms

    def activate(self) -> None:
        """Takes goals from now on, and shows where the tip may be."""
        self._goals.closed = ''
        self._view.clear()

    def deactivate(self) -> None:
        """Ends every goal and takes no more."""
        self._goals.closed = NOT_ACTIVE
        self._goals.end_all(Outcome.CANCELED, 'the planner was deactivated; the arm stops')

    def close(self) -> None:
        """Stops the planning thread and takes the action out of service."""
        self._at_end.close()

    def end(self) -> bool:
        """Ends goals after a signal came; True when the process may end."""
        if not self._ending_since:
            self._ending_since = monotonic()
            self._goals.end_all(Outcome.CANCELED, 'the planner was shut down')
        passed = monotonic() - self._ending_since
        return passed > (LAST_WORDS_S if self._goals.is_idle else LONGEST_WORDS_S)

    def _show_imagined(self) -> None:
        """Pictures for people: a decoder that cannot be used keeps no arm from planning."""
        try:
            ImaginedView(self._node, self._checkpoint, self._view)
        except CheckpointError as error:
            self._node.get_logger().error(f'nothing on planner/imagined: {error}')

    def _listen(self) -> None:
        self._connections = Connections(self._node)
        self._joints_stamp = -np.inf
        serve = self._node.create_service
        subscribe = partial(self._node.create_subscription, callback_group=self._beat)
        subscribe(JointState, 'joint_states', self._on_joints, JOINTS, raw=True)
        subscribe(Image, 'camera/image_raw', self._observer.put_image, SENSOR)
        subscribe(CameraInfo, 'camera/camera_info', self._observer.put_camera_info, SENSOR)
        if self._checkpoint.contract.camera.wrist is not None:
            subscribe(Image, WRIST_IMAGES, self._observer.put_wrist_image, SENSOR)
            self._connections.need(WRIST_IMAGES)
        events = self._connections.hear('guard/status')
        subscribe(
            GuardStatus, 'guard/status', self._guard.put, GUARD_STATUS, event_callbacks=events
        )
        self._connections.need('joint_states', 'camera/image_raw', 'guard/status')
        serve(SaveState, '~/save_state', self._on_save_state)
        serve(Imagine, '~/imagine', self._on_imagine)
        serve(Trigger, '~/hold', self._on_hold)
        topic = 'planner/joint_trajectory'  # the last: who sees it finds all else, too
        publisher = self._node.create_lifecycle_publisher(JointTrajectory, topic, COMMAND)
        self._proposal_pub = publisher

    def _keep_belief(self, settings: PlannerSettings, agent: Agent) -> BeliefKeeper:
        name, file = self._node.get_fully_qualified_name(), settings.belief_file
        owner = f'{name} of domain {os.environ.get("ROS_DOMAIN_ID", "0")}'
        path, age = Path(file).expanduser() if file else None, settings.max_belief_age
        logger = self._node.get_logger()
        return BeliefKeeper(path, agent, self._checkpoint, age, owner, logger)

    def _on_beat(self, take: Callable[[], None]) -> None:
        assert self._beat is not None
        self._beat.pace(IDLE_TAKE_S if self._goals.is_idle else TAKE_S)
        take()

    def _hurry(self) -> None:
        """Takes what comes from now on at once."""
        if self._beat is not None:
            self._beat.pace(TAKE_S)

    def _on_joints(self, raw: bytes) -> None:
        """Takes a joint state; without a goal not each: most of the work is to read it."""
        is_idle = self._goals.active is None and not self._is_lock_step
        try:
            stamp = convert.raw_stamp(raw)
            if is_idle and 0.0 < stamp - self._joints_stamp < IDLE_JOINTS_S:
                return
            joints = convert.from_raw(raw, JointState)
        except convert.ConversionError as error:
            text = f'{self._node.resolve_topic_name("joint_states")}: {error}'
            self._node.get_logger().warning(text, throttle_duration_sec=1.0)
            return
        self._joints_stamp = stamp
        waited = 0.0 if self._beat is None else self._beat.waited
        self._observer.put_joints(joints, waited)

    def _send(self, proposal: Proposal | None) -> None:
        """Proposes, or says that no goal is pursued any more: a trajectory without points.

        Not in lock-step, where no tick waits for that: the plan runs out.
        """
        if proposal is not None:
            self._proposal_pub.publish(convert.proposal_to_msg(proposal))
        elif not self._is_lock_step:
            over = JointTrajectory(joint_names=list(self._arm.joint_names))
            self._proposal_pub.publish(over)

    def _on_save_state(
        self, request: SaveState.Request, response: SaveState.Response
    ) -> SaveState.Response:
        saved = self._loop.saved
        if not request.name.strip() or len(request.name) > LONGEST_NAME:
            response.message = f'name: expected one of 1 to {LONGEST_NAME} characters'
            return response
        if len(saved) >= MOST_SAVED and request.name not in saved:
            response.message = f'expected at most {MOST_SAVED} saved states; use a name again'
            return response
        try:
            saved[request.name] = self._observer.observe()
        except NoObservation as problem:
            response.message = str(problem)
            return response
        response.success, response.message = True, f'saved are: {sorted(saved)}'
        return response

    def _on_hold(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._goals.end_all(Outcome.CANCELED, 'hold was requested; the arm comes to a stop')
        response.success = True
        return response

    async def _on_imagine(
        self, request: Imagine.Request, response: Imagine.Response
    ) -> Imagine.Response:
        done: Future = Future()
        self._loop.put(lambda: self._imagine(request, response, done))
        await done
        return response

    def _imagine(self, request: Imagine.Request, response: Imagine.Response, done: Future) -> None:
        """On the planning thread."""
        seen = list(self._loop.recent)
        try:
            if not seen:
                raise ValueError('no observation has come yet')
            actions = np.array(request.actions)
            found = imagine(self._checkpoint, self._arm, seen[0], seen[-1], actions)
            response.stamps = found.stamps.tolist()
            response.tip_positions = found.tips.ravel().tolist()
            response.object_positions = found.objects.ravel().tolist()
            response.success = True
        except ValueError as error:
            response.message = str(error)
        done.set_result(None)

    def problems(self) -> list[str]:
        """What is wrong, for ``/diagnostics``."""
        if not self._loop.is_alive:
            raise RuntimeError('the planning thread ended; its error is above')
        reason = self._view.last.reason
        problems = [reason] if reason else []
        problems += self._loop.keeper.problems
        slowest, self._loop.telling.slowest_ms = self._loop.telling.slowest_ms, 0.0
        if slowest > self._period_ms:
            problems.append(
                f'planning overran: {slowest:.0f} ms, expected <= {self._period_ms:.0f} ms'
            )
        if not self._observer.has_intrinsics:
            name = self._node.resolve_topic_name('camera/camera_info')
            problems.append(f'no intrinsics in {name}: they were not checked')
        return [*problems, *self._connections.problems()]

    def is_stuck(self) -> bool:
        """Whether there is a goal that it does not pursue."""
        is_pursuing = self._goals.active is not None and not self._is_dry_run
        return is_pursuing and self._view.last.state != PlannerStatus.PLANNING

    def values(self) -> dict[str, object]:
        """What else there is to know, for ``/diagnostics``."""
        last, pursuit = self._view.last, self._goals.active
        latencies, deadline = list(self._loop.telling.latencies_ms), self._loop.deadline_ms
        return {
            'checkpoint': self._checkpoint.folder.name,
            'goal': 'none' if pursuit is None or pursuit.goal is None else str(pursuit.goal),
            'distance m': f'{last.distance:.3f}',
            'surprise': f'{last.surprise:.2f}',
            'images Hz': f'{self._observer.image_rate.hz():.1f}',
            'newest image ms ago': f'{self._observer.image_rate.ago_ms():.0f}',
            'joint states read Hz': f'{self._observer.joint_rate.hz():.0f}',
            'guard status Hz': f'{self._guard.rate.hz():.0f}',
            'plan p50 / p99 ms': percentiles(latencies),
            'candidates a sweep': self._loop.candidates,
            'deadline ms': f'{deadline:g}',
            'of the deadline p50 / p99 %': percentiles(100.0 * ms / deadline for ms in latencies),
            'late plans': self._loop.telling.late_plans,
            'observation age ms': f'{last.observation_age_ms:.1f}',
            'kept belief': self._loop.keeper.state,
            'saved states': ', '.join(sorted(self._loop.saved)) or 'none',
        }


def _load_checkpoint(name: str, arm: Arm, time: TimeConfig) -> Checkpoint:
    try:
        checkpoint = load_checkpoint(checkpoint_path(name))
        check_contract(checkpoint.contract, make_contract(arm.config, time))
    except CheckpointError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise ConfigError('; '.join(lines)) from None
    return checkpoint


def main() -> None:
    """Entry point of the executable."""
    prepare_ros()
    run_managed('planner', PlannerSettings.read, PlannerPart)
    gc.freeze()  # to look through it once more at the end takes seconds


if __name__ == '__main__':
    main()
