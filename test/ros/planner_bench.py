"""The real graph with a client of the planner, and a checkpoint to run it with."""

import time
from dataclasses import replace

import numpy as np
import torch
import yaml
from jepa_arm_msgs.action import MoveToGoal
from jepa_arm_msgs.msg import Goal, GuardStatus, PlannerStatus
from jepa_arm_msgs.srv import ResetScene
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from jepa_arm.config import ModelFile, load
from jepa_arm.core.files import CHECKPOINTS, config_path
from jepa_arm.model.checkpoint import save_checkpoint
from jepa_arm.model.checkpoint_files import add_module
from jepa_arm.model.heads.actor_critic import ActorCritic
from jepa_arm.model.heads.probes import Probes
from jepa_arm.model.world_model import Normaliser, WorldModel
from jepa_arm.robot.action_space import make_contract
from jepa_arm.ros.graph.description import SimulationGraph
from jepa_arm.ros.graph.supervisor import Supervisor
from jepa_arm.ros.runtime.node_contract import GraphError
from jepa_arm.ros.runtime.qos import STATUS_QOS

Outcome = MoveToGoal.Result
EVERY = QoSProfile(depth=500, reliability=ReliabilityPolicy.BEST_EFFORT)
FAR = (0.62, 0.20, 0.06), (0.36, -0.20, 0.12)
"""Places for the tip that are not reached in the time the tests take."""
AT_REST = 0.05
"""rad/s; the virtual servo's spring is slower than this once its command has stopped."""


def save_untrained(folder, arm_config, sim_config):
    """A valid checkpoint that knows nothing: its arm moves, but nowhere in particular."""
    torch.manual_seed(0)
    config = load(ModelFile, config_path('model/compact.yaml')).model
    contract = make_contract(arm_config, sim_config.time)
    mean = (*arm_config.home, 0.5, 0.0, 0.1, 0.0, 0.0, 0.0)
    normaliser = Normaliser(0.5, 0.25, mean, (0.3,) * contract.proprio_width)
    model = WorldModel(config, contract, normaliser).eval()
    probes = Probes(model.latent_dim)
    for probe in (probes.tip_target, probes.object_position):
        probe.mean.copy_(torch.tensor([0.49, 0.0, 0.1]))
        probe.std.fill_(0.02)
        probe.error_scale.fill_(0.002)
    error = {'median_cm': 0.2, 'p90_cm': 0.4}
    gates = {'mse': [0.01], 'probes': {'tip_target': error, 'object_position': error}}
    save_checkpoint(folder, model, probes, {'gates': gates})
    add_module(
        folder,
        'actor_critic',
        ActorCritic(model.latent_dim, model.block_width, 40),
        {'max_steps': 40},
    )
    return folder


def usable_checkpoint(folder, arm_config, sim_config):
    """The checkpoint that is shipped, or an untrained one in ``folder``."""
    shipped = CHECKPOINTS / 'compact'
    if shipped.is_dir():
        return shipped
    return save_untrained(folder / 'untrained', arm_config, sim_config)


def pose(x, y, z, frame='', kind=Goal.TIP_POSE, yaw_tolerance=0.0, turn=(0.0, 0.0, 0.0, 1.0)):
    goal = Goal(kind=kind, yaw_tolerance=yaw_tolerance)
    q = goal.pose.pose.orientation
    q.x, q.y, q.z, q.w = turn
    goal.pose.header.frame_id = frame
    goal.pose.pose.position.x, goal.pose.pose.position.y, goal.pose.pose.position.z = x, y, z
    return goal


START_S = 60.0
"""For which a planner that is ready may still compile its plans, for fewer candidates where it is
on a slow machine."""


def quick_planner(folder):
    """A configuration whose planner is ready seconds sooner: nothing is fitted, nor compiled."""
    shipped = yaml.safe_load(config_path('planner.yaml').read_text())
    quick = {'candidates': 16, 'min_candidates': 16, 'backend': 'torch'}
    path = folder / 'quick_planner.yaml'
    path.write_text(yaml.safe_dump({**shipped, **quick}))
    return str(path)


def planner_with(specs, **parameters):
    """The nodes of ``specs``, of which the last is a planner, with further parameters of it."""
    *others, planner = specs
    return [*others, replace(planner, parameters={**planner.parameters, **parameters})]


class Bench:
    """Simulator, guard and planner, and a client of the planner.

    The planner is quick to start, unless there is a ``planner_config`` among its parameters.
    """

    def __init__(self, harness, arm, checkpoint, log_dir, guard_config='', **parameters):
        self.harness, self.arm = harness, arm
        self.joints = harness.record(JointState, 'joint_states', EVERY)
        self.guard = harness.record(GuardStatus, 'guard/status', STATUS_QOS)
        self.status = harness.record(PlannerStatus, 'planner/status', STATUS_QOS)
        specs = SimulationGraph(
            checkpoint=str(checkpoint), task='push', seed=1, guard_config=guard_config
        ).nodes
        if 'planner_config' not in parameters:
            parameters['planner_config'] = quick_planner(log_dir)
        nodes = planner_with(specs, **parameters)
        self.graph = Supervisor(nodes, log_dir=log_dir, observer=harness.node)
        harness.cleanup.append(self.close)  # also if what follows fails
        self.graph.start()
        self.graph.wait_ready()
        self.process = self.graph.processes['planner']
        self.client = harness.execute(
            lambda: ActionClient(harness.node, MoveToGoal, 'move_to_goal')
        )
        harness.cleanup.append(lambda: harness.execute(self.client.destroy))
        assert self.client.wait_for_server(20.0)
        self.wait_status(PlannerStatus.IDLE, START_S)
        self.seed = 2

    def close(self):
        self.graph.stop()

    def send(self, goal, tolerance=0.0, timeout=20.0):
        """The handle of an accepted goal."""
        request = MoveToGoal.Goal(goal=goal, tolerance=tolerance, timeout=timeout)
        future = self.client.send_goal_async(request)
        self.harness.wait(future.done, 'acceptance')
        assert future.result().accepted
        return future.result()

    def result(self, handle, timeout=20.0):
        """(status, result) of a goal."""
        future = handle.get_result_async()
        self.harness.wait(future.done, 'result', timeout)
        return future.result().status, future.result().result

    def go(self, position=FAR[0], tolerance=1e-4, **limits):
        """The handle of a goal for the tip that it never meets, with the arm on its way."""
        handle = self.send(pose(*position), tolerance, **limits)
        self.wait_status(PlannerStatus.PLANNING)
        self.harness.wait(lambda: self.speed() > 5 * AT_REST, 'motion')
        return handle

    def wait_status(self, state, timeout=10.0):
        count = len(self.status)

        def is_there():
            return any(msg.state == state for _, msg in self.status[count:])

        try:
            return self.harness.wait(is_there, f'state {state}', timeout)
        except GraphError as error:
            planner, guard = self.status[-1][1], self.guard[-1][1]
            raise GraphError(
                f'{error}; planner: state {planner.state}, {planner.reason!r}; guard: state '
                f'{guard.state}, {guard.reasons}; log:\n{self.graph.tail("planner")}'
            ) from None

    def wait_reason(self, words, seen=0):
        """How many states had been told when one of them, after ``seen``, had these words."""

        def count():
            reasons = [msg.reason for _, msg in self.status[seen:]]
            return next((seen + i + 1 for i, said in enumerate(reasons) if words in said), 0)

        return self.harness.wait(count, f'the reason {words!r}')

    def speed(self):
        return np.abs(self.joints[-1][1].velocity).max()

    def wait_messages(self, messages, count):
        known = len(messages)
        self.harness.wait(lambda: len(messages) >= known + count, f'{count} messages')

    def wait_rest(self, timeout):
        self.harness.wait(
            lambda: all(np.abs(m.velocity).max() < AT_REST for _, m in self.joints[-10:]),
            'rest',
            timeout,
        )

    def reset(self, seed=None, task='push'):
        """The scene's answer, with guard and planner in the new scene.

        Without a ``seed`` it differs from the last one, so that the first image is a new one.
        """
        self.seed = 5 - self.seed
        request = ResetScene.Request(seed=seed or self.seed, task=task)
        response = self.harness.call(ResetScene, 'sim/reset', request)
        assert response.success

        def is_ready():
            self.harness.call(Trigger, 'guard/reset')
            return self.guard[-1][1].state == GuardStatus.IDLE

        self.harness.wait(is_ready, 'guard after the reset')
        time.sleep(0.6)
        return response
