"""Findings about machine and checkpoint."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

import jepa_arm
from jepa_arm.config import PlannerConfig, load
from jepa_arm.core.files import checkpoint_path, config_path
from jepa_arm.core.installation import Finding, Level, examine_machine, format_findings
from jepa_arm.evaluation.offline_checks import examine_arm, examine_checkpoint


def test_this_machine_can_run_the_tests_and_says_so():
    found = list(examine_machine())
    assert {'python', 'packages', 'processor', 'shared memory'} <= {f.name for f in found}
    assert not [f for f in found if f.level is Level.FAIL]
    # Under one of its two names: Python 3.12 and newer have another package for the same module.
    simulator = next(f for f in found if f.name == 'simulator')
    assert (simulator.level is Level.OK) == (find_spec('pybullet') is not None), simulator


def test_a_module_counts_from_whatever_package_it_is(monkeypatch):
    found = {f.name: f for f in examine_machine()}
    assert (found['simulator'].level is Level.OK) == (find_spec('pybullet') is not None)

    def unknown(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'version', unknown)  # all of a Linux distribution
    [packages] = [f for f in examine_machine() if f.name == 'packages']
    assert packages.level is Level.OK and 'opencv-python' in packages.text
    monkeypatch.setattr('jepa_arm.core.installation.find_spec', lambda name: None)
    missing = next(f for f in examine_machine() if f.name == 'packages')
    assert missing.level is Level.FAIL and 'opencv-python' in missing.text


def run_without(module, code):
    """A Python in which ``module`` is not installed."""
    hidden = f'import sys; sys.modules[{module!r}] = None; {code}'
    folder = {'PYTHONPATH': str(Path(jepa_arm.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, '-c', hidden],
        env={**os.environ, **folder},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_missing_package_is_named_by_the_doctor_itself():
    """It died of it: ``doctor: No module named 'ruckig'``."""
    code = "from jepa_arm.cli.main import main; sys.exit(main(['doctor']))"
    done = run_without('ruckig', code)
    assert done.returncode == 1 and not done.stderr
    assert 'missing: ruckig' in done.stdout and '-m pip install ruckig' in done.stdout


@pytest.mark.parametrize('module', ['ruckig', 'rclpy'])
def test_a_node_without_a_module_ends_with_one_line(module):
    done = run_without(module, 'from jepa_arm.ros.executables import guard; guard()')
    assert done.returncode == os.EX_CONFIG
    [line] = done.stderr.splitlines()
    assert line.startswith('guard: ') and f'has no module {module}: ' in line


def test_every_failure_tells_what_to_do():
    text = format_findings([
        Finding('good', Level.OK, 'fine'),
        Finding('broken thing', Level.FAIL, 'it is broken', 'mend it'),
    ])  # fmt: skip
    assert text.splitlines() == [
        'ok    good          fine',
        'FAIL  broken thing  it is broken',
        ' ' * 18 + '  -> mend it',
    ]


def test_every_arm_that_is_shipped_is_found_good(each_arm_config, guard_config, sim_config):
    found = list(examine_arm(each_arm_config, guard_config, sim_config))
    assert {f.name for f in found} == {'arm', 'home', 'workspace', 'stop'}
    assert all(f.level is Level.OK for f in found), format_findings(found)


@pytest.mark.parametrize(
    ('changes', 'name', 'text'),
    [
        ({'tip_link': 'nose'}, 'arm', 'nose'),
        ({'home': (0.0, 0.3, 0.0, -3.0, 0.0, 0.5, 0.0)}, 'home', 'touch'),
        ({'workspace_max': (0.95, 0.27, 0.25)}, 'workspace', 'not reached'),
        ({'workspace_min': (0.0, -0.27, 0.015)}, 'workspace', 'positions are not'),
        ({'velocity_scale': 1.0}, 'stop', 'panda_joint2'),
    ],
)
def test_what_does_not_fit_in_an_arms_file_is_named(
    changes, name, text, arm_config, guard_config, sim_config
):
    arm = replace(arm_config, **changes)
    found = {f.name: f for f in examine_arm(arm, guard_config, sim_config)}
    assert found[name].level is not Level.OK and text in found[name].text
    assert found[name].advice


def test_a_checkpoint_that_does_not_fit_is_named(arm_config, sim_config, tmp_path):
    planner = load(PlannerConfig, config_path('planner.yaml'))
    folder = checkpoint_path('compact')
    other = replace(arm_config, camera=replace(arm_config.camera, fov_deg=50.0))
    (found,) = examine_checkpoint(folder, other, sim_config, planner)
    assert found.level is Level.FAIL and 'camera.fov_deg' in found.text
    broken = shutil.copytree(folder, tmp_path / 'broken')
    (broken / 'model.safetensors').write_bytes(b'short')
    (found,) = examine_checkpoint(broken, arm_config, sim_config, planner)
    assert found.level is Level.FAIL and 'model.safetensors' in found.text


@pytest.mark.extended
def test_the_latency_of_plans_is_measured(arm_config, sim_config):
    planner = load(PlannerConfig, config_path('planner.yaml'))
    folder = checkpoint_path('compact')
    found = {f.name: f for f in examine_checkpoint(folder, arm_config, sim_config, planner)}
    assert found['checkpoint'].level is Level.OK
    assert 'ms (median)' in found['plan latency'].text
