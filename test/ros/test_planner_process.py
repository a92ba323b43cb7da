"""How the planner's process starts and ends, and what happens to the arm when it dies."""

import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from jepa_arm_msgs.msg import GuardStatus, PlannerStatus
from jepa_arm_msgs.srv import InjectFault
from lifecycle_msgs.srv import GetState
from planner_bench import AT_REST, FAR, Bench, Outcome, pose, save_untrained, usable_checkpoint
from trajectory_msgs.msg import JointTrajectory

from jepa_arm.config import PlannerConfig, load
from jepa_arm.nodes import conversions as convert
from jepa_arm.nodes.description import SETTING_REFUSED
from jepa_arm.nodes.parameters import COMMAND, STATUS
from jepa_arm.resources import config_path

pytestmark = [pytest.mark.ros, pytest.mark.sim, pytest.mark.slow]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory, arm_config, sim_config):
    return usable_checkpoint(tmp_path_factory.mktemp('model'), arm_config, sim_config)


@pytest.fixture
def bench(harness, arm, checkpoint, tmp_path):
    """A graph for one test."""
    bench = Bench(harness, arm, checkpoint, tmp_path)
    yield bench
    bench.close()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_goal_and_the_process_cleanly(bench, number):
    handle = bench.go()
    future = handle.get_result_async()
    bench.wait_status(PlannerStatus.PLANNING)  # the request has had time to arrive
    bench.process.send_signal(number)
    assert bench.process.wait(10.0) == 0
    bench.harness.wait(future.done, 'result')
    assert future.result().result.outcome == Outcome.CANCELED


def test_a_dry_run_plans_and_sends_nothing(harness, arm, checkpoint, tmp_path):
    bench = Bench(harness, arm, checkpoint, tmp_path, dry_run=True)
    try:
        shown = harness.record(JointTrajectory, 'planner/plan_preview', COMMAND)
        sent = harness.record(JointTrajectory, 'planner/joint_trajectory', COMMAND)
        handle = bench.send(pose(*FAR[0]), timeout=2.0)
        harness.wait(lambda: bench.status[-1][1].reason.startswith('dry run'), 'a plan')
        assert bench.status[-1][1].plan_ms > 0.0
        harness.wait(lambda: shown, 'what would be proposed')
        assert shown[-1][1].joint_names == list(arm.joint_names) and not sent
        assert bench.result(handle)[1].outcome == Outcome.TIMED_OUT
        assert bench.guard[-1][1].accepted == bench.guard[-1][1].rejected == 0
        assert bench.speed() < AT_REST
    finally:
        bench.close()


def test_a_goal_ends_in_a_world_that_surprises_on_and_on(harness, arm, checkpoint, tmp_path):
    """Every image surprises where the level is 0; the jump of a clock is no time of surprise."""
    bench = Bench(harness, arm, checkpoint, tmp_path, surprise_level=0.0, surprise_timeout=2.0)
    try:
        began = bench.status[-1][1].header.stamp
        _, result = bench.result(bench.send(pose(*FAR[0]), 1e-4))
        assert result.outcome == Outcome.SURPRISED and 'look at the scene' in result.message
        took = convert.to_seconds(bench.status[-1][1].header.stamp) - convert.to_seconds(began)
        assert 2.0 < took < 5.0
        bench.wait_rest(2.0)

        handle = bench.send(pose(*FAR[0]), 1e-4)
        bench.wait_status(PlannerStatus.PLANNING)
        jump = InjectFault.Request(fault='clock_ahead', value=1.9)
        assert harness.call(InjectFault, 'sim/inject_fault', jump).success
        jumped = time.monotonic()
        _, result = bench.result(handle)
        assert result.outcome == Outcome.SURPRISED and time.monotonic() - jumped > 1.0
    finally:
        bench.close()


def run_planner(*parameters):
    arguments = [word for p in parameters for word in ('-p', p)]
    return subprocess.run(
        [sys.executable, '-m', 'jepa_arm.nodes.planner', '--ros-args', *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    'parameter, word',
    [
        ('checkpoint:=nowhere', 'nowhere'),
        ('arm:=scara', 'scara'),
        ('planner_config:=none.yaml', 'none.yaml'),
        ('max_image_age:=-1.0', 'max_image_age'),
        ('seed:=text', 'seed'),
    ],
)
def test_a_setting_that_cannot_be_used_ends_the_process_with_one_line(parameter, word, checkpoint):
    is_about_model = parameter.startswith('checkpoint')
    parameters = [parameter] if is_about_model else [f'checkpoint:={checkpoint}', parameter]
    ended = run_planner(*parameters)
    assert ended.returncode == SETTING_REFUSED
    assert word in ended.stderr and 'Traceback' not in ended.stderr


def test_a_checkpoint_for_another_camera_is_refused_with_the_difference(
    tmp_path, arm_config, sim_config
):
    other = replace(arm_config, camera=replace(arm_config.camera, fov_deg=50.0))
    folder = save_untrained(tmp_path / 'other', other, sim_config)
    ended = run_planner(f'checkpoint:={folder}')
    assert ended.returncode == SETTING_REFUSED
    assert 'camera.fov_deg: trained with 50.0, here 26.0' in ended.stderr
    assert 'Traceback' not in ended.stderr


# The last one here: for 20 s the graph still lists a node that was killed.
def test_sudden_death_of_the_planner_stops_the_arm_in_time(bench, arm, monkeypatch):
    start = np.array(bench.joints[-1][1].position)
    bench.go()

    def is_midway():
        travel = np.abs(np.array(bench.joints[-1][1].position) - start).max()
        return travel > 0.15 and bench.speed() > 5 * AT_REST

    bench.harness.wait(is_midway, 'mid-motion')
    bench.process.send_signal(signal.SIGKILL)
    died = time.monotonic()
    bench.wait_rest(2.0)
    moving = [at for at, msg in bench.joints if np.abs(msg.velocity).max() >= AT_REST]
    assert moving[-1] - died <= 0.3
    holding = [at for at, msg in bench.guard if at > died and msg.state == GuardStatus.HOLDING]
    assert holding[0] - died <= 0.3, 'the command was not at rest'
    velocities = np.array([msg.velocity for at, msg in bench.joints if at >= died])
    assert np.all(np.abs(velocities) <= arm.velocity_limit / arm.config.velocity_scale)

    monkeypatch.setattr('jepa_arm.nodes.description.LIVED_S', 0.0)
    bench.harness.wait(lambda: bench.graph.ended() == 'planner', 'its end')
    assert bench.graph.respawn('planner')
    lifecycle = 'planner/get_state'
    bench.harness.wait(
        lambda: bench.harness.call(GetState, lifecycle).current_state.label == 'inactive',
        'a planner that waits to be activated',
    )
    assert bench.speed() < AT_REST


def test_a_machine_too_slow_for_the_deadline_prices_fewer_candidates_and_says_so(
    harness, arm, checkpoint, tmp_path
):
    config = load(PlannerConfig, config_path('planner.yaml'))
    most, fewest = config.candidates, config.fewest_candidates
    assert fewest < most
    told = harness.record(DiagnosticArray, '/diagnostics', STATUS)
    bench = Bench(
        harness, arm, checkpoint, tmp_path, deadline_ms=1.0, planner_config='planner.yaml'
    )
    try:
        bench.go()
        planned = [m for _, m in bench.status if m.state == PlannerStatus.PLANNING]
        assert planned and {(m.candidates, m.sweeps) for m in planned} == {(fewest, 1)}
        log = bench.graph.log_file('planner').read_text()
        assert log.count('plans: ') == 1
        assert f'plans: {fewest} candidates a sweep, not {most}' in log

        def said():
            of = [s for _, msg in told for s in msg.status if s.name == 'planner']
            return {v.key: v.value for v in of[-1].values} if of else {}

        value = f'{fewest} of {most}'
        harness.wait(lambda: said().get('candidates a sweep') == value, 'diagnostics')
    finally:
        bench.close()


def test_a_guard_that_is_stopped_passes_its_deadline_and_a_dead_one_is_missed(bench):
    log = bench.harness.record(DiagnosticArray, '/diagnostics', STATUS)
    guard = bench.graph.processes['guard']

    def says(words):
        statuses = [status for _, msg in log[-6:] for status in msg.status]
        return any(words in s.message for s in statuses if s.name == 'planner')

    bench.harness.wait(lambda: log, 'diagnostics')
    assert not says('guard/status')
    guard.send_signal(signal.SIGSTOP)
    try:
        bench.harness.wait(lambda: says('/guard/status: nothing came within its deadline'), 'it')
    finally:
        guard.send_signal(signal.SIGCONT)
    bench.harness.wait(lambda: not says('guard/status'), 'its end')
    guard.kill()
    bench.harness.wait(lambda: says('/guard/status: its publisher is not heard any more'), 'death')
