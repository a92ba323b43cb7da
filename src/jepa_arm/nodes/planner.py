"""The planner on ROS 2: images and joints in, proposals for the guard out.

Callbacks only store what comes; ``PlanningLoop`` does the rest on its own thread.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from time import monotonic

import numpy as np
from jepa_arm_msgs.msg import GuardStatus
from jepa_arm_msgs.srv import Imagine, SaveState
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from ..config import ConfigError, PlannerConfig, TimeConfig, load
from ..model.checkpoint import Checkpoint, CheckpointError, check_contract, load_checkpoint
from ..motion import make_contract
from ..resources import checkpoint_path, config_path
from ..types import Proposal
from . import conversions as convert
from .environment import prepare_ros
from .goal_server import GoalServer, Outcome
from .guard_view import GuardView
from .imagination import imagine
from .observer import NoObservation, Observer
from .parameters import COMMAND, SENSOR, STATUS, declare, declare_arm, declare_sim_config
from .plan_view import PlanView
from .planning_loop import Patience, PlanningLoop
from .process import Diagnostics, run

MOST_SAVED, LONGEST_NAME = 100, 100
LAST_WORDS_S, LONGEST_WORDS_S = 0.3, 1.0
"""For which results of goals may still be sent when the process ends, at least and at most."""


class PlannerNode(Node):
    """Parameters, topics, services and the action of the planner."""

    def __init__(self) -> None:
        super().__init__('planner')
        self._at_end = ExitStack()
        self._arm = declare_arm(self)
        time = declare_sim_config(self).time
        name = declare(self, 'planner_config', 'planner.yaml', 'search: config/<file>, or a path')
        config = load(PlannerConfig, config_path(str(name)))
        self._checkpoint = self._load_checkpoint(time)
        self._period_ms = time.control_dt * 1000.0
        seed = int(declare(self, 'seed', 0, 'of the random numbers of the search'))
        dry_run = bool(declare(self, 'dry_run', False, 'plan, but send nothing to the guard'))
        description = 'time passes only in sim/step: silence means nothing, a plan may take long'
        self._lock_step = bool(declare(self, 'lock_step', False, description))
        if self._lock_step:
            config = replace(config, deadline_ms=float('inf'))
        self._observer = Observer(
            self._arm.joint_names,
            self._checkpoint.contract.camera,
            self._steady('max_image_age', 0.2, 'oldest image to plan from'),
            self._steady('max_joint_age', 0.1, 'oldest joint state to plan from'),
            self._share('max_clipped', 0.3, 'of black or of overexposed pixels in an image'),
        )
        self._guard, self._goals = GuardView(len(self._arm.joint_names)), GoalServer(self)
        self._view = PlanView(self, self._arm.config.base_link)
        topic = 'planner/joint_trajectory'
        self._proposal_pub = self.create_publisher(JointTrajectory, topic, COMMAND)
        self._loop = PlanningLoop(
            self._checkpoint,
            self._arm,
            config,
            seed,
            self._observer,
            self._guard,
            self._goals,
            self._view,
            send=None if dry_run else self._send,
            patience=Patience(
                blind=self._steady('observation_timeout', 1.0, 'a goal ends when blind so long'),
                stuck=self._seconds('progress_timeout', 8.0, 'a goal ends when no nearer so long'),
                unguarded=self._steady('guard_timeout', 3.0, 'a goal ends when it is silent'),
            ),
            logger=self.get_logger(),
        )
        self._at_end.callback(self._goals.destroy)
        self._at_end.callback(self._loop.stop)
        self._listen()
        self._ending_since = 0.0

    def end(self) -> bool:
        """Ends goals after a signal came; True when the process may end."""
        if not self._ending_since:
            self._ending_since = monotonic()
            self._goals.end_all(Outcome.CANCELED, 'the planner was shut down')
        passed = monotonic() - self._ending_since
        return passed > (LAST_WORDS_S if self._goals.is_idle else LONGEST_WORDS_S)

    def destroy_node(self) -> None:
        """Stops the planning thread first."""
        self._at_end.close()
        super().destroy_node()

    def _load_checkpoint(self, time: TimeConfig) -> Checkpoint:
        description = 'name of one that came with the package, or a path to a folder'
        name = declare(self, 'checkpoint', 'compact', description)
        try:
            checkpoint = load_checkpoint(checkpoint_path(str(name)))
            check_contract(checkpoint.contract, make_contract(self._arm.config, time))
        except CheckpointError as error:
            lines = [line.strip() for line in str(error).splitlines()]
            raise ConfigError('; '.join(lines)) from None
        return checkpoint

    def _seconds(self, name: str, default: float, description: str) -> float:
        value = float(declare(self, name, default, f's, {description}'))
        if not 0.0 < value < float('inf'):
            raise ConfigError(f'{name}: expected a positive number of seconds, got {value}')
        return value

    def _share(self, name: str, default: float, description: str) -> float:
        value = float(declare(self, name, default, f'share, {description}, at most'))
        if not 0.0 < value <= 1.0:
            raise ConfigError(f'{name}: expected a share in (0, 1], got {value}')
        return value

    def _steady(self, name: str, default: float, description: str) -> float:
        """A limit on the steady clock, which means nothing in lock-step."""
        limit = self._seconds(name, default, description)
        return float('inf') if self._lock_step else limit

    def _listen(self) -> None:
        subscribe = self.create_subscription
        subscribe(JointState, 'joint_states', self._observer.put_joints, SENSOR)
        subscribe(Image, 'camera/image_raw', self._observer.put_image, SENSOR)
        subscribe(CameraInfo, 'camera/camera_info', self._observer.put_camera_info, SENSOR)
        subscribe(GuardStatus, 'guard/status', self._guard.put, STATUS)
        self.create_service(SaveState, '~/save_state', self._on_save_state)
        self.create_service(Imagine, '~/imagine', self._on_imagine)
        self.create_service(Trigger, '~/hold', self._on_hold)
        self._diagnostics = Diagnostics(self, self._problems, self._values)

    def _send(self, proposal: Proposal) -> None:
        self._proposal_pub.publish(convert.proposal_to_msg(proposal))

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

    def _problems(self) -> list[str]:
        if not self._loop.is_alive:
            raise RuntimeError('the planning thread ended; its error is above')
        reason = self._view.last.reason
        problems = [reason] if reason else []
        slowest, self._loop.slowest_ms = self._loop.slowest_ms, 0.0
        if slowest > self._period_ms:
            problems.append(
                f'planning overran: {slowest:.0f} ms, expected <= {self._period_ms:.0f} ms'
            )
        if not self._observer.has_intrinsics:
            problems.append('no intrinsics in camera/camera_info: they were not checked')
        return problems

    def _values(self) -> dict[str, object]:
        last, pursuit = self._view.last, self._goals.active
        return {
            'checkpoint': self._checkpoint.folder.name,
            'goal': 'none' if pursuit is None or pursuit.goal is None else str(pursuit.goal),
            'distance m': f'{last.distance:.3f}',
            'surprise': f'{last.surprise:.2f}',
            'plan ms': f'{last.plan_ms:.1f}',
            'late plans': self._loop.late_plans,
            'observation age ms': f'{last.observation_age_ms:.1f}',
            'saved states': ', '.join(sorted(self._loop.saved)) or 'none',
        }


def main() -> None:
    """Entry point of the executable."""
    prepare_ros()
    run('planner', PlannerNode, PlannerNode.end)


if __name__ == '__main__':
    main()
