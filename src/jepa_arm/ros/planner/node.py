"""Planner node: a managed node that turns images and joint states into proposals for the guard.

Callbacks only store messages; ``PlanningLoop`` does the rest on its own thread.
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
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.agent.agent import Agent
from jepa_arm.config import ConfigError, GuardConfig, PlannerConfig, TimeConfig, load
from jepa_arm.core.files import checkpoint_path, config_path
from jepa_arm.core.types import Proposal
from jepa_arm.datasets.recording import WRIST_IMAGE_TOPIC
from jepa_arm.model.checkpoint import Checkpoint, check_contract, load_checkpoint
from jepa_arm.model.checkpoint_files import CheckpointError
from jepa_arm.robot.action_space import make_contract
from jepa_arm.robot.arm import Arm
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.connections import ConnectionMonitor
from jepa_arm.ros.runtime.diagnostics import percentiles
from jepa_arm.ros.runtime.environment import prepare_ros
from jepa_arm.ros.runtime.executors import PollingGroup
from jepa_arm.ros.runtime.lifecycle import ManagedNode, run_managed
from jepa_arm.ros.runtime.parameters import load_arm, load_sim_config
from jepa_arm.ros.runtime.qos import COMMAND_QOS, GUARD_STATUS_QOS, JOINT_STATES_QOS, SENSOR_QOS

from .active_goal import Outcome
from .belief_file import BeliefFile
from .goal_server import GoalServer
from .guard_monitor import GuardMonitor
from .observer import NoObservation, Observer
from .plan_publisher import PlanPublisher, PredictedImagePublisher
from .planning_loop import PlannerConnections, PlanningLoop
from .settings import PlannerSettings

POLL_PERIOD_S, IDLE_POLL_PERIOD_S = 0.005, 0.1
"""Message polling periods with and without a goal; waking for each message costs more CPU."""
IDLE_JOINTS_PERIOD_S = 0.04
"""Period at which joint states are decoded while there is no goal."""
MAX_SAVED_STATES, MAX_NAME_LENGTH = 100, 100
MIN_END_S, MAX_END_S = 0.3, 1.0
"""Shortest and longest time for sending goal results before the process ends."""
NOT_ACTIVE = 'inactive: the planner is not active; activate it (ros2 lifecycle set)'


class PlannerComponent:
    """Topics, services and action of the planner, while the node is configured."""

    def __init__(self, node: ManagedNode, settings: PlannerSettings) -> None:
        """Load the checkpoint, start the planning thread and create all ROS entities.

        Raises:
            ConfigError, ArmError, FileNotFoundError: a setting is invalid.
        """
        self._is_lock_step = settings.lock_step
        if self._is_lock_step:
            settings = settings.without_steady_limits()
        self._node, self._settings = node, settings
        self._arm = load_arm(settings.arm)
        time = load_sim_config(settings.sim_config).time
        config = load(PlannerConfig, config_path(settings.planner_config))
        self._obstacles = load(GuardConfig, config_path(settings.guard_config)).obstacles
        self._checkpoint = _load_checkpoint(settings.checkpoint, self._arm, time)
        self._period_ms = time.control_dt * 1000.0
        if self._is_lock_step:
            config = replace(config, deadline_ms=float('inf'))
        self._config = config
        self._polling_group: PollingGroup | None = None
        if not self._is_lock_step:
            self._polling_group = PollingGroup(POLL_PERIOD_S, 0.0, self._on_poll)
        camera = self._checkpoint.contract.camera
        self._observer = Observer(self._arm, camera, settings, node.resolve_topic_name)
        self._guard = GuardMonitor(len(self._arm.joint_names))
        self._connections = ConnectionMonitor(node)
        self._last_joints_stamp, self._ending_since = -np.inf, 0.0
        with ExitStack() as stack:
            self._goals = GoalServer(node, NOT_ACTIVE, self._poll_fast)
            stack.callback(self._goals.destroy)
            corners = np.stack([self._arm.workspace_min, self._arm.workspace_max])
            self._view = PlanPublisher(node, self._arm.config.base_link, corners, self._obstacles)
            self._publish_predicted_image()
            self._loop = self._start_planning()
            stack.callback(self._loop.stop)
            self._resources = stack.pop_all()
        self._loop.criteria.tolerance = settings.goal_tolerance
        self._make_subscriptions()
        node.create_service(SaveState, '~/save_state', self._on_save_state)
        node.create_service(Imagine, '~/imagine', self._on_imagine)
        node.create_service(Trigger, '~/hold', self._on_hold)
        topic = 'planner/joint_trajectory'  # created last: it shows that everything else exists
        self._proposal_pub = node.create_lifecycle_publisher(JointTrajectory, topic, COMMAND_QOS)

    def _start_planning(self) -> PlanningLoop:
        """Start the planning thread with a new agent and return its loop."""
        settings, config, group = self._settings, self._config, self._polling_group
        candidates = None if config.deadline_ms == np.inf else config.candidate_range[0]
        agent = Agent(
            self._checkpoint, self._arm, config, settings.seed, candidates_per_iteration=candidates
        )
        agent.set_obstacles(self._obstacles)
        if settings.deadline_ms and not self._is_lock_step:
            agent.planners.deadline_ms = settings.deadline_ms
        connections = PlannerConnections(
            self._observer,
            self._guard,
            self._goals,
            self._view,
            send=None if settings.dry_run else self._send,
            uninterrupted=nullcontext if group is None else group.pause,
            logger=self._node.get_logger(),
        )
        return PlanningLoop(agent, connections, settings, self._open_belief_file(agent))

    def set_live(self, values: Mapping[str, Any]) -> None:
        """Change the default tolerance of later goals and the deadline of later plans."""
        criteria = self._loop.criteria
        criteria.tolerance = values.get('goal_tolerance', criteria.tolerance)
        if 'deadline_ms' in values and not self._is_lock_step:
            self._loop.set_deadline(values['deadline_ms'] or self._config.deadline_ms)

    def activate(self) -> None:
        """Accept goals and draw the workspace."""
        self._goals.rejection = ''
        self._view.clear()

    def deactivate(self) -> None:
        """End all goals and reject new ones."""
        self._goals.rejection = NOT_ACTIVE
        self._goals.end_all(Outcome.CANCELED, 'the planner was deactivated; the arm stops')

    def close(self) -> None:
        """Stop the planning thread and the action server."""
        self._resources.close()

    def end(self) -> bool:
        """End all goals and return whether their results have been sent."""
        if not self._ending_since:
            self._ending_since = monotonic()
            self._goals.end_all(Outcome.CANCELED, 'the planner was shut down')
        passed = monotonic() - self._ending_since
        return passed > (MIN_END_S if self._goals.is_idle else MAX_END_S)

    def _publish_predicted_image(self) -> None:
        """Create the publisher of predicted images; planning works even with a broken decoder."""
        try:
            PredictedImagePublisher(self._node, self._checkpoint, self._view)
        except CheckpointError as error:
            self._node.get_logger().error(f'nothing on planner/imagined: {error}')

    def _make_subscriptions(self) -> None:
        observer, connections = self._observer, self._connections
        subscribe = partial(self._node.create_subscription, callback_group=self._polling_group)
        subscribe(JointState, 'joint_states', self._on_joints, JOINT_STATES_QOS, raw=True)
        subscribe(Image, 'camera/image_raw', observer.put_image, SENSOR_QOS)
        subscribe(CameraInfo, 'camera/camera_info', observer.put_camera_info, SENSOR_QOS)
        if self._checkpoint.contract.camera.wrist is not None:
            subscribe(Image, WRIST_IMAGE_TOPIC, observer.put_wrist_image, SENSOR_QOS)
            connections.require(WRIST_IMAGE_TOPIC)
        events = connections.subscription_events('guard/status')
        subscribe(
            GuardStatus, 'guard/status', self._guard.put, GUARD_STATUS_QOS, event_callbacks=events
        )
        connections.require('joint_states', 'camera/image_raw', 'guard/status')

    def _open_belief_file(self, agent: Agent) -> BeliefFile:
        settings, name = self._settings, self._node.get_fully_qualified_name()
        name = f'{name} of domain {os.environ.get("ROS_DOMAIN_ID", "0")}'
        path = Path(settings.belief_file).expanduser() if settings.belief_file else None
        return BeliefFile(path, agent, name, settings.max_belief_age, self._node.get_logger())

    def _on_poll(self, take_messages: Callable[[], None]) -> None:
        assert self._polling_group is not None
        period = IDLE_POLL_PERIOD_S if self._goals.is_idle else POLL_PERIOD_S
        self._polling_group.set_period(period)
        take_messages()

    def _poll_fast(self) -> None:
        if self._polling_group is not None:
            self._polling_group.set_period(POLL_PERIOD_S)

    def _on_joints(self, raw: bytes) -> None:
        """Pass a joint state to the observer; without a goal skip most, as decoding is costly."""
        is_idle = self._goals.active is None and not self._is_lock_step
        try:
            stamp = convert.raw_stamp(raw)
            if is_idle and 0.0 < stamp - self._last_joints_stamp < IDLE_JOINTS_PERIOD_S:
                return
            joints = convert.from_raw(raw, JointState)
        except convert.ConversionError as error:
            text = f'{self._node.resolve_topic_name("joint_states")}: {error}'
            self._node.get_logger().warning(text, throttle_duration_sec=1.0)
            return
        self._last_joints_stamp = stamp
        group = self._polling_group
        self._observer.put_joints(joints, 0.0 if group is None else group.queue_delay)

    def _send(self, proposal: Proposal | None) -> None:
        """Send a proposal, or a trajectory without points at the end of a goal.

        In lock-step the empty trajectory is not sent: no tick waits for it, and the plan expires.
        """
        if proposal is not None:
            self._proposal_pub.publish(convert.proposal_to_msg(proposal))
        elif not self._is_lock_step:
            end = JointTrajectory(joint_names=list(self._arm.joint_names))
            self._proposal_pub.publish(end)

    def _on_save_state(
        self, request: SaveState.Request, response: SaveState.Response
    ) -> SaveState.Response:
        saved = self._loop.saved
        if not request.name.strip() or len(request.name) > MAX_NAME_LENGTH:
            response.message = f'name: expected one of 1 to {MAX_NAME_LENGTH} characters'
            return response
        if len(saved) >= MAX_SAVED_STATES and request.name not in saved:
            response.message = f'expected at most {MAX_SAVED_STATES} saved states; reuse a name'
            return response
        try:
            saved[request.name] = self._observer.observe()
        except NoObservation as problem:
            response.message = str(problem)
            return response
        response.success, response.message = True, f'saved states: {sorted(saved)}'
        return response

    def _on_hold(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._goals.end_all(Outcome.CANCELED, 'hold was requested; the arm comes to a stop')
        response.success = True
        return response

    async def _on_imagine(
        self, request: Imagine.Request, response: Imagine.Response
    ) -> Imagine.Response:
        actions = np.array(request.actions)
        try:
            motion = await self._loop.submit(lambda agent: agent.imagine(actions))
            assert motion is not None
        except Exception as error:  # neither a bad request nor a bug may stop the planner
            response.message = str(error) or type(error).__name__
            return response
        response.stamps = motion.times.tolist()
        response.tip_positions = motion.tips.ravel().tolist()
        response.object_positions = motion.objects.ravel().tolist()
        response.success = True
        return response

    def problems(self) -> list[str]:
        """Return the current problems, one sentence each."""
        if not self._loop.is_alive:
            raise RuntimeError('the planning thread ended; its error is above')
        reason = self._view.last.reason
        problems = [reason] if reason else []
        problems += self._loop.belief_file.problems
        slowest, self._loop.slowest_ms = self._loop.slowest_ms, 0.0
        if slowest > self._period_ms:
            problems.append(
                f'planning overran: {slowest:.0f} ms, expected <= {self._period_ms:.0f} ms'
            )
        if not self._observer.has_intrinsics:
            name = self._node.resolve_topic_name('camera/camera_info')
            problems.append(f'no intrinsics in {name}: they were not checked')
        return [*problems, *self._connections.problems()]

    def is_stuck(self) -> bool:
        """Return whether there is a goal but no proposals are sent."""
        is_pursuing = self._goals.active is not None and not self._settings.dry_run
        return is_pursuing and self._view.last.state != PlannerStatus.PLANNING

    def values(self) -> dict[str, object]:
        """Return further values by name."""
        last, active, loop = self._view.last, self._goals.active, self._loop
        planners, latencies = loop.planners, list(loop.latencies_ms)
        count, deadline = planners.candidates_per_iteration, planners.deadline_ms
        return {
            'checkpoint': self._checkpoint.folder.name,
            'goal': 'none' if active is None or active.goal is None else str(active.goal),
            'distance m': f'{last.distance:.3f}',
            'surprise': f'{last.surprise:.2f}',
            'images Hz': f'{self._observer.image_rate.hz():.1f}',
            'newest image ms ago': f'{self._observer.image_rate.age_ms():.0f}',
            'joint states read Hz': f'{self._observer.joint_rate.hz():.0f}',
            'guard status Hz': f'{self._guard.rate.hz():.0f}',
            'plan p50 / p99 ms': percentiles(latencies),
            'candidates per iteration': f'{count} of {self._config.candidates}',
            'deadline ms': f'{deadline:g}',
            'of the deadline p50 / p99 %': percentiles(100.0 * ms / deadline for ms in latencies),
            'late plans': loop.late_plans,
            'observation age ms': f'{last.observation_age_ms:.1f}',
            'saved belief': loop.belief_file.state,
            'saved states': ', '.join(sorted(loop.saved)) or 'none',
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
    """Run the planner node."""
    prepare_ros()
    run_managed('planner', PlannerSettings, PlannerComponent)
    gc.freeze()  # a last collection at exit would take seconds


if __name__ == '__main__':
    main()
