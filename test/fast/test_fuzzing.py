"""Guard fuzzing: the guard withstands hostile inputs, and the oracles catch broken guards."""

import subprocess
import sys

import numpy as np
import pytest

from jepa_arm.cli.main import main
from jepa_arm.config import ArmConfig, SimConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.core.types import Command, GuardState, Verdict
from jepa_arm.guard.guard import Guard
from jepa_arm.robot.arm import Arm
from jepa_arm.robot.trajectory import JointStreamer
from jepa_arm_validation.fuzzing.guard_fuzzer import fuzz_core
from jepa_arm_validation.monitors.stream_oracle import StreamOracle

pytestmark = pytest.mark.extended
ARM = Arm(load(ArmConfig, config_path('arms/panda.yaml')))
DT = load(SimConfig, config_path('sim.yaml')).time.stream_dt
SEED = 122


def run(count=1000, seed=SEED):
    return fuzz_core(count, seed, progress=False)


def test_three_thousand_hostile_messages_do_no_harm():
    report = run(3000)
    assert report['violations'] == 0, report['examples']
    assert report['messages'] >= 3000 and report['counts']['state/FOLLOWING'] > 300
    assert report['counts']['answer/accepted'] > 100


def test_an_episode_depends_on_its_seed_alone():
    alone, together = run(1000, SEED + 1)['counts'], run(2000, SEED)['counts']
    first = run(1000, SEED)['counts']
    assert {k: alone.get(k, 0) + first.get(k, 0) for k in together} == together


def streamed(ticks=40, change=None):
    """Return the kinds of violations in the commands of a fast motion, each ``change``d."""
    streamer, oracle, violations = JointStreamer(ARM, DT), StreamOracle(ARM, DT), []
    for i in range(ticks):
        command = streamer.step(ARM.home + 0.5)
        violations += oracle.judge(change(i, command) if change else command)
    return [text.partition(':')[0] for text in violations]


def test_a_jerk_limited_motion_is_no_violation():
    assert streamed() == []


def moved(command, position=0.0, velocity=0.0, acceleration=0.0):
    return Command(
        command.position + position,
        command.velocity + velocity,
        command.acceleration + acceleration,
    )


@pytest.mark.parametrize(
    ('change', 'kinds'),
    [
        (lambda i, c: moved(c, position=1e-3 * (i == 20)), {'acceleration', 'jerk'}),
        (lambda i, c: moved(c, position=0.03 * (i >= 20)), {'velocity', 'acceleration', 'jerk'}),
        (lambda i, c: moved(c, acceleration=8.0 * (i >= 20)), {'acceleration', 'jerk'}),
        (lambda i, c: moved(c, velocity=0.2 * (i == 20)), {'acceleration'}),
        (lambda i, c: moved(c, position=np.nan * (i == 20)), {'the command is not finite'}),
        (lambda i, c: moved(c, position=10.0 * (i == 39)), {'position', 'velocity', 'jerk'}),
    ],
)
def test_the_oracle_reports_commands_beyond_a_limit(change, kinds):
    assert kinds <= set(streamed(change=change))


@pytest.mark.parametrize(
    ('method', 'broken', 'seen'),
    [
        ('tick', lambda verdict: Verdict(verdict.command, verdict.state, ()), 'without a reason'),
        (
            'submit',
            lambda verdict: Verdict(None, GuardState.FOLLOWING, verdict.reasons),
            'follows after a refusal',
        ),
        ('submit', lambda verdict: 1 / 0, 'exception in submit'),
        ('resume', lambda verdict: [][0], 'exception in resume'),
    ],
)
def test_a_guard_that_breaks_its_contract_is_caught(method, broken, seen, monkeypatch):
    good = getattr(Guard, method)
    monkeypatch.setattr(Guard, method, lambda *args, **kwargs: broken(good(*args, **kwargs)))
    assert any(seen in text for text in run()['examples'])


def test_a_guard_that_opens_its_latch_by_itself_is_caught(monkeypatch):
    good = Guard.tick

    def tick(guard, now):
        if guard.state is GuardState.LATCHED and guard.reset_latch(now).reasons == ():
            return guard._verdict(guard.command)
        return good(guard, now)

    monkeypatch.setattr(Guard, 'tick', tick)
    assert any('the latch opened by itself' in text for text in run(5000)['examples'])


def test_the_command_writes_a_report_and_fails_on_a_violation(tmp_path, capsys, monkeypatch):
    file = tmp_path / 'fuzz.json'
    words = ['fuzz', 'core', '--count', '1000', '--seed', str(SEED), '--json', str(file)]
    assert main(words) == 0
    assert '"violations": 0' in file.read_text()
    monkeypatch.setattr(Guard, 'submit', lambda *args: 1 / 0)
    assert main(words) == 1
    assert f'seed {SEED}, message' in capsys.readouterr().out


PARENT = """
from jepa_arm_validation.fuzzing import guard_fuzzer as core

def report(counts):
    print('running', flush=True)

core.FuzzCounts.add = lambda self, other: report(other)
if __name__ == '__main__':
    core.fuzz_core(100_000_000, 0, workers=2, progress=False)
"""


def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / 'parent.py'
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b'running\n'
        parent.kill()
        parent.communicate(timeout=30.0)  # returns when no worker holds the pipe any more
