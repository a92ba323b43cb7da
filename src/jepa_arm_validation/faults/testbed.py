"""Fault testbed: the running graph, with a client that moves the arm and injects faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from jepa_arm_msgs.msg import GuardStatus, PlannerStatus
from jepa_arm_msgs.srv import InjectFault
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.config import ArmConfig, SimConfig, load
from jepa_arm.core.files import arm_path, config_path
from jepa_arm.core.goals import PositionGoal
from jepa_arm.core.types import FloatArray, GuardState, Proposal
from jepa_arm.robot.arm import Arm
from jepa_arm.ros.client import GraphClient, SentGoal
from jepa_arm.ros.graph.description import SimulationGraph
from jepa_arm.ros.graph.supervisor import Supervisor
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.node_contract import COMMAND_TOPIC, GraphError
from jepa_arm.ros.runtime.qos import COMMAND_QOS, STATUS_QOS
from jepa_arm_validation.graph import running_graph

from .measurements import RecordedMotion, StopRecording

NODES = 'sim', 'guard', 'planner'
"""Nodes in the order in which they are started."""
TIP_GOALS = (0.60, 0.18, 0.08), (0.38, -0.18, 0.12)
"""Positions (m) of the tip; to move from one to the other takes more than a second."""
FINE_TOLERANCE_M, GOAL_TIMEOUT_S = 0.001, 20.0
"""Goal tolerance so small that the arm keeps moving, and time limit of a goal."""
MOVING_VELOCITY = 0.25
"""Velocity of the fastest joint above which the arm counts as moving, rad/s."""
MIDWAY_M = 0.05
"""Distance of the tip from its start at which a fault is injected."""
SETTLE_S = 0.5
"""Time (s) given to the nodes to notice the end of a fault."""
SCENE_SEED = 6
"""Seed of a scene whose object lies 21 cm off the tip's paths: a contact would move the joints."""
STEP_RAD, WAYPOINTS = 0.06, 3
"""Step of the first joint per waypoint, and number of waypoints, of the testbed's proposals."""
ROGUE_FRAME = 'rogue'
"""``frame_id`` of commands that the testbed publishes in place of the guard."""


@contextmanager
def running_testbed(checkpoint: Path, arm: str) -> Iterator[FaultTestbed]:
    """Start simulator, guard and planner in a ROS domain of their own; stop them at the end.

    Raises:
        GraphError: the graph did not start.
    """
    graph = SimulationGraph(arm, str(checkpoint), task='push', seed=SCENE_SEED)
    with running_graph(graph, 'faults') as (processes, client):
        yield FaultTestbed(processes, client, checkpoint, arm)


class FaultTestbed:
    """Running graph in which faults are injected.

    Attributes:
        graph: the running processes. client: client connected to them.
        checkpoint: folder of the planner's model.
        arm_name, arm, time: the arm of the graph, and the timing.
        swing: direction (1 or -1) in which ``proposal`` turns the first joint.
        last_proposal: the last proposal that was sent.
    """

    def __init__(
        self, graph: Supervisor, client: GraphClient, checkpoint: Path, arm_name: str
    ) -> None:
        """Record the topics of the graph from now on."""
        self.graph, self.client = graph, client
        self.checkpoint, self.arm_name = checkpoint, arm_name
        self.arm = Arm(load(ArmConfig, arm_path(arm_name)))
        self.time = load(SimConfig, config_path('sim.yaml')).time
        self.swing, self.last_proposal = 1.0, JointTrajectory()
        every = QoSProfile(depth=500, reliability=ReliabilityPolicy.RELIABLE)
        samples = QoSProfile(depth=500, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._commands = client.record(JointTrajectory, COMMAND_TOPIC, every)
        self._joints = client.record(JointState, 'joint_states', samples)
        self._guard = client.record(GuardStatus, 'guard/status', STATUS_QOS)
        self._planner = client.record(PlannerStatus, 'planner/status', STATUS_QOS)
        self._diagnostics = client.record(DiagnosticArray, '/diagnostics', STATUS_QOS)
        topic = 'planner/joint_trajectory'
        self._proposals = client.publisher(JointTrajectory, topic, COMMAND_QOS)
        self._wait_for_messages(set(graph.processes))

    def restore(self) -> None:
        """Restart the processes that have ended."""
        ended = set(iter(self.graph.poll_ended, None))
        for name in NODES:
            if name in ended:
                self.graph.start_node(name)
        self._wait_for_messages(ended)

    def prepare(self) -> None:
        """Bring the graph to rest: scene reset, guard idle, no goal, all processes running."""
        client = self.client
        self.restore()
        client.call(Trigger, 'planner/hold')  # ends the goal of the last case
        client.reset(SCENE_SEED)
        client.wait(lambda: self._planner[-1][1].state == PlannerStatus.IDLE, 'an idle planner')
        for log in (
            self._commands, self._joints, self._guard, self._planner, self._diagnostics
        ):  # fmt: skip
            del log[:-1]

    # Motion.

    def start_moving(self) -> SentGoal:
        """Send a goal for the tip; return it once the arm is on its way."""
        start = self.tip()
        goal = self.client.send_goal(self.distant_goal(), FINE_TOLERANCE_M, GOAL_TIMEOUT_S)
        self.client.wait(
            lambda: (
                np.linalg.norm(self.tip() - start) > MIDWAY_M and self.speed() > MOVING_VELOCITY
            ),
            'motion towards a goal',
        )
        return goal

    def distant_goal(self) -> PositionGoal:
        """Return the goal for the tip that is farthest from where the tip is."""
        tip = self.tip()
        farthest = max(TIP_GOALS, key=lambda p: float(np.linalg.norm(np.array(p) - tip)))
        return PositionGoal('tip', np.array(farthest))

    def proposal(self, **changes: Any) -> JointTrajectory:
        """Return a valid proposal that turns the first joint, with ``changes`` to its fields."""
        start = self.command()
        numbers = np.arange(1, WAYPOINTS + 1)
        steps = numbers[:, None] * (STEP_RAD * self.swing * np.eye(len(start))[0])
        values: dict[str, Any] = {
            'joint_names': self.arm.joint_names,
            'positions': start + steps,
            'times': numbers * self.time.control_dt,
            'stamp': self.now(),
            'valid_for': 0.25,
        }
        return convert.proposal_to_msg(Proposal(**{**values, **changes}))

    def inward(self) -> float:
        """Return the direction (1 or -1) of the first joint that moves the tip towards y = 0."""
        return -1.0 if self.tip()[1] > 0.0 else 1.0

    def drive(self, seconds: float = 0.5) -> None:
        """Move the arm by proposals of the testbed, in place of the planner.

        Raises:
            GraphError: the guard does not follow.
        """
        self.swing = self.inward()
        for _ in range(round(seconds / self.time.control_dt)):
            self.send_proposal(self.proposal())
            sleep(self.time.control_dt)
        if self.state() is not GuardState.FOLLOWING:
            raise GraphError(f'the guard does not follow proposals: {self._guard[-1][1].reasons}')

    def send_proposal(self, msg: JointTrajectory) -> None:
        """Publish a proposal in place of the planner."""
        self._proposals.publish(msg)
        self.last_proposal = msg

    # Faults.

    def inject(self, fault: str, duration: float = 0.0, value: float = 0.0) -> float:
        """Start a fault of the virtual arm; return the time just before, s.

        Args:
            fault: its name. duration: s; 0 for no end. value: size of the fault.
        """
        began = monotonic()
        request = InjectFault.Request(fault=fault, duration=duration, value=value)
        response = self.client.call(InjectFault, 'sim/inject_fault', request)
        if not response.success:
            raise GraphError(f'sim/inject_fault: {response.message}')
        return began

    def end_fault(self, fault: str, after: float = 0.0) -> None:
        """Wait ``after`` s, end a fault of the virtual arm and let the nodes notice it."""
        sleep(after)
        self.inject(fault, self.time.stream_dt / 10.0)
        sleep(SETTLE_S)

    def stop_joints(self, duration: float) -> float:
        """Stop the joint states for ``duration`` s; return the time (s) of the last one."""
        self.inject('joints_stop', duration)
        sleep(5 * self.time.stream_dt)
        return self._joints[-1][0]

    def signal(self, name: str, number: int) -> float:
        """Send a signal to the process of a node; return the time just before, s."""
        began = monotonic()
        self.graph.processes[name].send_signal(number)
        return began

    # State.

    def tip(self) -> FloatArray:
        """Return the position (3,) m of the tip at the newest valid joint positions."""
        for _, msg in reversed(self._joints):
            if len(msg.position) and np.all(np.isfinite(msg.position)):
                if set(self.arm.joint_names) <= set(msg.name):
                    sample = convert.joints_from_msg(msg, self.arm.joint_names)
                    return self.arm.tip_position(sample.position)
        raise GraphError('no valid joint state was received')

    def speed(self) -> float:
        """Return the velocity of the fastest measured joint, rad/s."""
        return float(np.abs(self._joints[-1][1].velocity).max())

    def command(self) -> FloatArray:
        """Return the newest command (J,), rad."""
        return np.array(self._commands[-1][1].points[0].positions)

    def now(self) -> float:
        """Return the ROS time (s), extrapolated from the newest joint state's stamp."""
        arrived, msg = self._joints[-1]
        return convert.to_seconds(msg.header.stamp) + monotonic() - arrived

    def state(self) -> GuardState:
        """Return the newest state of the guard."""
        return GuardState(self._guard[-1][1].state) if self._guard else GuardState.INACTIVE

    def becomes(self, condition: Callable[[], Any], timeout: float) -> bool:
        """Return True as soon as ``condition`` holds, False after ``timeout`` s."""
        return bool(self.client.poll(condition, timeout))

    def reported_reasons(self, since: float) -> list[str]:
        """Return the distinct reasons from guard, planner and diagnostics since ``since`` (s)."""
        reasons = [f'guard: {r}' for t, m in list(self._guard) if t >= since for r in m.reasons]
        reasons += [f'planner: {m.reason}' for t, m in list(self._planner) if t >= since]
        for t, msg in list(self._diagnostics):
            if t >= since:
                reasons += [
                    f'diagnostics {s.name}: {text}'
                    for s in msg.status
                    if s.level != s.OK
                    for text in s.message.split('; ')
                ]
        return [r for r in dict.fromkeys(reasons) if not r.endswith(': ')]

    def recording(self) -> StopRecording:
        """Return the recorded topics as arrays, without commands published by the testbed."""
        names = self.arm.joint_names
        commands = [
            (t, m.points[0].positions, m.points[0].velocities)
            for t, m in list(self._commands)
            if m.points and m.header.frame_id != ROGUE_FRAME
        ]
        joints = [
            (t, sample.position, sample.velocity)
            for t, m in list(self._joints)
            if set(names) <= set(m.name)
            for sample in [convert.joints_from_msg(m, names)]
        ]
        guard = np.array([(t, m.state) for t, m in list(self._guard)]).reshape(-1, 2)
        motions = _motion(commands, len(names)), _motion(joints, len(names))
        return StopRecording(*motions, guard_times=guard[:, 0], guard_state=guard[:, 1])

    def outcome(self, goal: SentGoal, timeout: float = 0.1) -> str:
        """Return outcome and message of a goal, or 'no result' after ``timeout`` s."""
        if not self.becomes(lambda: goal.is_done, timeout):
            return 'no result'
        result = goal.result()
        return f'{result.outcome}: {result.message}'

    def _wait_for_messages(self, names: set[str]) -> None:
        """Wait for messages of the nodes ``names``, and for the guard to become active."""
        logs = {'sim': self._joints, 'guard': self._guard, 'planner': self._planner}
        counts = {name: len(logs[name]) for name in names}
        self.client.wait(
            lambda: all(len(logs[name]) > count + 2 for name, count in counts.items()),
            f'messages of {sorted(names)}',
            60.0,
        )
        if 'guard' in names:  # a goal that is sent to an inactive guard ends at once
            self.client.wait(lambda: self.state() is not GuardState.INACTIVE, 'an active guard')


def _motion(rows: Sequence[tuple[Any, ...]], width: int) -> RecordedMotion:
    """Return times, positions (N, width) and velocities (N, width) of ``rows`` as arrays."""
    times, *columns = ([row[i] for row in rows] for i in range(3))
    position, velocity = (np.array(c, dtype=float).reshape(len(rows), width) for c in columns)
    return RecordedMotion(np.array(times), position, velocity)
