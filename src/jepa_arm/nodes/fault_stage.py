"""The live graph on which faults are tried, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from jepa_arm_msgs.action import MoveToGoal
from jepa_arm_msgs.msg import Goal, GuardStatus, PlannerStatus
from jepa_arm_msgs.srv import InjectFault, ResetScene
from rclpy.action.client import ActionClient, ClientGoalHandle
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from ..arm import Arm
from ..config import ArmConfig, SimConfig, load
from ..fault_measures import AT_REST_JOINTS, Recording
from ..goals import PositionGoal
from ..resources import arm_path, config_path
from ..types import FloatArray, GuardState, Proposal
from . import conversions as convert
from .client import GraphClient
from .description import simulation
from .domain import own_domain
from .goal_server import OUTCOME_NAMES
from .graph import GraphError, Supervisor
from .parameters import COMMAND, COMMAND_TOPIC, STATUS

FAR = (0.60, 0.18, 0.08), (0.38, -0.18, 0.12)
"""m, places for the tip; from each the other is more than a second away."""
FINE = 0.001
"""m, tolerance that keeps the arm on its way."""
MOVING_RAD_S = 0.25
MIDWAY_M = 0.05
SETTLE_S = 0.5
"""s of images after a reset, so that the belief holds nothing of the scene before."""
SCENE = 6
"""Its object lies 21 cm off the ways of the tip: a contact moves joints whatever is commanded."""
STEP_RAD, WAYPOINTS = 0.06, 3
"""Motion of the first joint in a control step, and control steps in a proposal, when the stage
proposes by itself."""
ROGUE_FRAME = 'rogue'
"""frame_id of commands that the stage itself publishes: they are not the guard's."""


class Stage:
    """Simulator, guard and planner, and a client that moves the arm and breaks things.

    Attributes:
        arm, time: of the graph. graph: its processes. client: of the topics.
        commands, joints, guard, planner, diagnostics: what was heard, since ``prepare``.
        swing: 1 or -1, where ``proposal`` turns the first joint. last_proposal: sent last.
        touching: (J,) rad, a pose of self-collision, once looked for.
        rogue: a publisher of commands beside the guard's.
    """

    def __init__(self, checkpoint: Path, arm: str = 'panda') -> None:
        self.checkpoint, self.arm_name = checkpoint, arm
        self.arm = Arm(load(ArmConfig, arm_path(arm)))
        self.time = load(SimConfig, config_path('sim.yaml')).time
        self._specs = simulation(arm, str(checkpoint), 'push', SCENE)
        self._stack = ExitStack()
        self.swing, self.last_proposal = 1.0, JointTrajectory()
        self.touching: FloatArray | None = None
        self.rogue: Publisher | None = None

    def __enter__(self) -> Stage:
        with ExitStack() as stack:
            stack.enter_context(own_domain())
            self.client = GraphClient('faults')
            stack.callback(self.client.close)
            stack.callback(lambda: self.graph.stop())
            self._listen()
            self.graph = Supervisor(self._specs)
            self.graph.start()
            self.graph.wait_ready()
            self._await_news({spec.name for spec in self._specs})
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def restore(self) -> None:
        """Starts anew what has ended."""
        gone = {s.name for s in self._specs} - set(self.graph.processes)
        gone |= {n for n, p in self.graph.processes.items() if p.poll() is not None}
        for spec in self._specs:
            if spec.name in gone:
                self.graph.processes.pop(spec.name, None)
                self.graph.start_node(spec.name)
        self._await_news(gone)

    def prepare(self) -> None:
        """A scene at rest: guard idle, planner without a goal, nothing broken."""
        self.restore()
        self.client.call(Trigger, 'planner/hold')  # ends what the row before pursued
        self._wait(lambda: self.state() not in MOVING, 'the arm at rest')
        response = self.client.call(ResetScene, 'sim/reset', ResetScene.Request(seed=SCENE))
        if not response.success:
            raise GraphError(f'sim/reset: {response.message}')
        fresh = convert.to_seconds(response.goal.image.header.stamp) + SETTLE_S
        self.client.call(Trigger, 'guard/resume')
        deadline = monotonic() + 20.0
        while not self._is_ready(fresh):
            if monotonic() > deadline:
                raise GraphError('guard and planner are not ready after a reset')
            if not self._is_guard_ready():
                self.client.call(Trigger, 'guard/reset')
            sleep(0.1)
        for log in (self.commands, self.joints, self.guard, self.planner, self.diagnostics):
            del log[:-1]

    # Moving the arm.

    def send(self, goal: Goal, tolerance: float = FINE, timeout: float = 20.0) -> Any:
        """The handle of an accepted goal."""
        if not self._action.wait_for_server(20.0):
            raise GraphError('move_to_goal is not served')
        request = MoveToGoal.Goal(goal=goal, tolerance=tolerance, timeout=timeout)
        future = self._action.send_goal_async(request)
        self.client.wait(future.done, 'acceptance of a goal')
        handle: ClientGoalHandle | None = future.result()
        if handle is None or not handle.accepted:
            raise GraphError('a goal was not accepted')
        return handle

    def go(self, goal: Goal | None = None) -> Any:
        """The future result of a goal for the tip, with the arm midway."""
        goal = goal or self.far_goal()
        start = self.tip()
        result = self.send(goal).get_result_async()
        self._wait(
            lambda: np.linalg.norm(self.tip() - start) > MIDWAY_M and self.speed() > MOVING_RAD_S,
            'motion towards a goal',
        )
        return result

    def far_goal(self) -> Goal:
        """A place for the tip that is far from where it is."""
        far = max(FAR, key=lambda p: float(np.linalg.norm(np.array(p) - self.tip())))
        stamp = convert.to_time(0.0)
        return convert.position_goal_to_msg(PositionGoal('tip', np.array(far)), '', stamp)

    def proposal(self, **changes: Any) -> JointTrajectory:
        """A fresh proposal that swings the first joint towards the middle, or is spoilt."""
        start = self.command()
        count = np.arange(1, WAYPOINTS + 1)
        steps = count[:, None] * (STEP_RAD * self.swing * np.eye(len(start))[0])
        values: dict[str, Any] = {
            'joint_names': self.arm.joint_names,
            'positions': start + steps,
            'times': count * self.time.control_dt,
            'stamp': self.now(),
            'valid_for': 0.25,
        }
        return convert.proposal_to_msg(Proposal(**{**values, **changes}))

    def inward(self) -> float:
        """Which way the first joint turns to move the tip towards the middle: 1 or -1."""
        return -1.0 if self.tip()[1] > 0.0 else 1.0

    def drive(self, seconds: float = 0.5) -> None:
        """Moves the arm by proposals, in the planner's place."""
        self.swing = self.inward()
        for _ in range(round(seconds / self.time.control_dt)):
            self.propose(self.proposal())
            sleep(self.time.control_dt)
        if self.state() != GuardState.FOLLOWING.value:
            raise GraphError(f'the guard does not follow proposals: {self.guard[-1][1].reasons}')

    def propose(self, msg: JointTrajectory) -> None:
        """Sends a proposal to the guard."""
        self._proposals.publish(msg)
        self.last_proposal = msg

    # Breaking things.

    def inject(self, fault: str, duration: float = 0.0, value: float = 0.0) -> float:
        """Has the virtual arm break something; monotonic s just before."""
        began = monotonic()
        request = InjectFault.Request(fault=fault, duration=duration, value=value)
        response = self.client.call(InjectFault, 'sim/inject_fault', request)
        if not response.success:
            raise GraphError(f'sim/inject_fault: {response.message}')
        return began

    def inject_end(self, fault: str, after: float = 0.0) -> None:
        """Ends a fault of the virtual arm ``after`` s, and gives the nodes time to see it."""
        sleep(after)
        self.inject(fault, self.time.stream_dt / 10.0)
        sleep(SETTLE_S)

    def lose_joints(self, duration: float) -> float:
        """Has the joint states stop; monotonic s when the last one came."""
        self.inject('joints_stop', duration)
        sleep(5 * self.time.stream_dt)
        return self.joints[-1][0]

    def signal(self, name: str, number: int) -> float:
        """Sends a signal to the process of a node; monotonic s just before."""
        began = monotonic()
        self.graph.processes[name].send_signal(number)
        return began

    # What is known.

    def tip(self) -> FloatArray:
        """(3,) m, from the newest finite joints."""
        for _, msg in reversed(self.joints):
            if len(msg.position) and np.all(np.isfinite(msg.position)):
                names = [n for n in self.arm.joint_names if n in msg.name]
                if len(names) == len(self.arm.joint_names):
                    sample = convert.joints_from_msg(msg, self.arm.joint_names)
                    return self.arm.tip_position(sample.position)
        raise GraphError('no usable joint state has come')

    def speed(self) -> float:
        """rad/s, of the fastest measured joint."""
        return float(np.abs(self.joints[-1][1].velocity).max())

    def command(self) -> FloatArray:
        """(J,) rad, the newest command."""
        return np.array(self.commands[-1][1].points[0].positions)

    def now(self) -> float:
        """s, ROS time, by the newest joint state's stamp and arrival: finer than the clock."""
        at, msg = self.joints[-1]
        return convert.to_seconds(msg.header.stamp) + monotonic() - at

    def state(self) -> int:
        """The guard's, as it was heard last."""
        return self.guard[-1][1].state if self.guard else GuardState.INACTIVE.value

    def wait_state(self, *states: GuardState, timeout: float = 5.0) -> bool:
        """Whether the guard comes into one of ``states`` within ``timeout`` s."""
        wanted = [s.value for s in states]
        return self.holds(lambda: self.state() in wanted, timeout)

    def holds(self, condition: Any, timeout: float) -> bool:
        """Whether ``condition`` comes true within ``timeout`` s."""
        try:
            self._wait(condition, '', timeout)
        except GraphError:
            return False
        return True

    def said(self, since: float) -> list[str]:
        """What guard, planner and diagnostics gave as reasons after ``since``, each once."""
        words = [f'guard: {r}' for at, m in list(self.guard) if at >= since for r in m.reasons]
        words += [f'planner: {m.reason}' for at, m in list(self.planner) if at >= since]
        for at, msg in list(self.diagnostics):
            if at >= since:
                words += [
                    f'diagnostics {s.name}: {text}'
                    for s in msg.status
                    if s.level != s.OK
                    for text in s.message.split('; ')
                ]
        return [w for w in dict.fromkeys(words) if not w.endswith(': ')]

    def recording(self) -> Recording:
        """What was recorded, as arrays; commands of the stage itself left out."""
        commands = [
            (at, m.points[0])
            for at, m in list(self.commands)
            if m.points and m.header.frame_id != ROGUE_FRAME
        ]
        width = len(self.arm.joint_names)
        joints = [
            (at, convert.joints_from_msg(m, self.arm.joint_names))
            for at, m in list(self.joints)
            if set(self.arm.joint_names) <= set(m.name)
        ]
        guard = list(self.guard)
        return Recording(
            command_at=_times(commands),
            command_position=_rows([p.positions for _, p in commands], width),
            command_velocity=_rows([p.velocities for _, p in commands], width),
            joints_at=_times(joints),
            joint_position=_rows([m.position for _, m in joints], width),
            joint_velocity=_rows([m.velocity for _, m in joints], width),
            guard_at=_times(guard),
            guard_state=np.array([m.state for _, m in guard]),
        )

    def outcome(self, result: Any, timeout: float) -> str:
        """Outcome and message of a goal, or why there is none."""
        if not self.holds(result.done, timeout):
            return 'no result'
        ended = result.result().result
        return f'{OUTCOME_NAMES[ended.outcome]}: {ended.message}'

    def _listen(self) -> None:
        record = self.client.record
        every = QoSProfile(depth=500, reliability=ReliabilityPolicy.RELIABLE)
        samples = QoSProfile(depth=500, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.commands = record(JointTrajectory, COMMAND_TOPIC, every)
        self.joints = record(JointState, 'joint_states', samples)
        self.guard = record(GuardStatus, 'guard/status', STATUS)
        self.planner = record(PlannerStatus, 'planner/status', STATUS)
        self.diagnostics = record(DiagnosticArray, '/diagnostics', STATUS)
        node = self.client.node
        self._action = self.client.make(lambda: ActionClient(node, MoveToGoal, 'move_to_goal'))
        self._proposals = node.create_publisher(
            JointTrajectory, 'planner/joint_trajectory', COMMAND
        )

    def _await_news(self, names: set[str]) -> None:
        """Waits until the nodes of ``names`` are heard."""
        logs = {'sim': self.joints, 'guard': self.guard, 'planner': self.planner}
        counts = {name: len(logs[name]) for name in names}
        self._wait(
            lambda: all(len(logs[name]) > count + 2 for name, count in counts.items()),
            f'{sorted(names)} to be heard again',
            60.0,
        )
        if 'guard' in names:  # a goal that is sent to an inactive guard ends at once
            self._wait(lambda: self.state() != GuardState.INACTIVE.value, 'an active guard')

    def _wait(self, condition: Any, what: str, timeout: float = 20.0) -> None:
        self.client.wait(condition, what, timeout)

    def _is_ready(self, fresh: float) -> bool:
        planner = self.planner[-1][1]
        seen = convert.to_seconds(planner.observation_stamp)
        return self._is_guard_ready() and planner.state == PlannerStatus.IDLE and seen >= fresh

    def _is_guard_ready(self) -> bool:
        if self.state() != GuardState.IDLE.value:
            return False
        measured = convert.joints_from_msg(self.joints[-1][1], self.arm.joint_names).position
        return bool(np.abs(measured - self.command()).max() < AT_REST_JOINTS)


MOVING = (GuardState.FOLLOWING.value, GuardState.STOPPING.value)


def _times(log: Sequence[tuple[float, Any]]) -> FloatArray:
    return np.array([at for at, _ in log], dtype=float)


def _rows(values: Sequence[Any], width: int) -> FloatArray:
    return np.array([list(v) for v in values], dtype=float).reshape(len(values), width)
