"""A planner that dies while the camera is blind goes on from the belief that it had kept."""

import signal
import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from jepa_arm_msgs.msg import PlannerStatus
from jepa_arm_msgs.srv import InjectFault
from lifecycle_msgs.msg import Transition
from planner_bench import FAR, Bench, Outcome, pose, save_untrained
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from test_lifecycle import Manager

from jepa_arm.core.files import CHECKPOINTS
from jepa_arm.ros.runtime.qos import STATUS_QOS

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]
BLACKOUT_S = 60.0


class Restarted:
    """A graph whose camera went blind, whose planner was killed after a goal and waits again."""

    def __init__(self, bench, monkeypatch):
        self.bench, self.harness, self.name = bench, bench.harness, 'planner'
        self.told = self.harness.record(DiagnosticArray, '/diagnostics', STATUS_QOS)
        bench.result(bench.send(pose(*FAR[0]), timeout=1.0))
        bench.wait_rest(3.0)
        seen = len(bench.status)
        self.harness.wait(lambda: len(bench.status) > seen + 3, 'images of the arm at rest')
        request = InjectFault.Request(fault='camera_black', duration=BLACKOUT_S)
        assert self.harness.call(InjectFault, 'sim/inject_fault', request).success
        self.harness.wait(lambda: 'black' in bench.status[-1][1].reason, 'blindness')
        bench.process.send_signal(signal.SIGKILL)
        monkeypatch.setattr('jepa_arm.ros.graph.description.MIN_UPTIME_S', 0.0)
        self.harness.wait(lambda: bench.graph.poll_ended() == 'planner', 'its end')
        assert bench.graph.respawn('planner')
        bench.process = bench.graph.processes['planner']
        self.wait_state('inactive')

    change, state = Manager.change, Manager.state

    def wait_state(self, label):
        self.harness.wait(lambda: self.state() == label, label)

    def belief(self):
        """What the planner says last of the belief that was kept, and its message."""
        for _, msg in reversed(self.told):
            for status in msg.status:
                values = {pair.key: pair.value for pair in status.values}
                if 'saved belief' in values:
                    return values['saved belief'], status.message
        return '', ''

    def wait_belief(self, words):
        return self.harness.wait(
            lambda: words in self.belief()[0] and self.belief(), f'{words}, not {self.belief()}'
        )

    def set(self, name, value):
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        assert (
            self.harness.call(SetParameters, 'planner/set_parameters', request)
            .results[0]
            .successful
        )


def test_a_planner_killed_in_a_blackout_goes_on_from_its_belief_and_another_model_does_not(
    harness, arm, arm_config, sim_config, tmp_path, monkeypatch
):
    bench = Bench(
        harness,
        arm,
        CHECKPOINTS / 'compact',
        tmp_path,
        belief_file=str(tmp_path / 'belief.safetensors'),
        max_blackout=50.0,
        observation_timeout=3.0,  # a busy machine may plan for longer than 1 s
    )
    planner = Restarted(bench, monkeypatch)
    planner.wait_belief('waits for an image or a goal')
    assert planner.change(Transition.TRANSITION_ACTIVATE)
    assert bench.client.wait_for_server(20.0)
    near = arm.tip_position(np.array(bench.joints[-1][1].position)) + [0.0, -0.06, 0.02]
    seen = len(bench.status)
    _, result = bench.result(bench.send(pose(*near), 0.015))
    assert result.outcome == Outcome.SUCCEEDED, result.message
    plans = [m for _, m in bench.status[seen:] if m.state == PlannerStatus.PLANNING]
    assert plans and all(m.reason.endswith('from the belief') for m in plans)
    assert np.linalg.norm(arm.tip_position(np.array(bench.joints[-1][1].position)) - near) < 0.02
    planner.wait_belief('restored, ')

    other = save_untrained(tmp_path / 'other', arm_config, sim_config)
    assert planner.change(Transition.TRANSITION_DEACTIVATE)
    assert planner.change(Transition.TRANSITION_CLEANUP)
    planner.set('checkpoint', str(other))
    assert planner.change(Transition.TRANSITION_CONFIGURE)
    assert planner.change(Transition.TRANSITION_ACTIVATE)
    _, problem = planner.wait_belief('not restored: it is of another checkpoint')
    assert 'another checkpoint' in problem
    bench.wait_rest(2.0)
    start = np.array(bench.joints[-1][1].position)
    _, result = bench.result(bench.send(pose(*FAR[1])))
    assert result.outcome == Outcome.NO_OBSERVATION
    time.sleep(0.2)
    np.testing.assert_allclose(bench.joints[-1][1].position, start, atol=2e-3)
