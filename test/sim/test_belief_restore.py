"""Restored beliefs in the virtual world, rated by the first image after the restart."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from jepa_arm.agent.agent import Agent
from jepa_arm.agent.control_loop import ControlLoop
from jepa_arm.agent.decision import StepFeedback
from jepa_arm.belief.snapshot import BeliefSnapshot
from jepa_arm.config import ArmConfig, GuardConfig, PlannerConfig, SimConfig, load
from jepa_arm.core.files import checkpoint_path, config_path
from jepa_arm.core.types import JointSample
from jepa_arm.evaluation.episode_runner import EpisodeRunner, SimulationSetup
from jepa_arm.model.checkpoint import Checkpoint, load_checkpoint

SEED = 1_050_003
DOWN_S = 3.0
"""Time without a planner."""
BLIND_P90 = 0.0214
"""m, 90th percentile of the tip's error after blackouts of 3 s."""


@dataclass
class Crash:
    """A runner, and agents before and after a crash."""

    evaluator: EpisodeRunner
    checkpoint: Checkpoint
    before: Agent
    after: Agent

    def work(self, rests: bool) -> BeliefSnapshot:
        """Return the belief after some steps of a push, with the arm at rest or moving."""
        evaluator, agent = self.evaluator, self.before
        scene, ticks = evaluator.prepare(SEED), evaluator.world.config.time.ticks
        goal = agent.goal_images.read(evaluator.world.render_goal(scene, 'object'), 'object')
        evaluator.world.reset(scene)
        evaluator.guard.reset(scene.joints, now=0.0)
        agent.reset(scene.joints)
        agent.set_goal(goal)
        loop = ControlLoop(agent, evaluator.guard, evaluator.world, ticks)
        for _ in range(6):
            loop.step()
        if rests:
            agent.set_goal(None)
            for _ in range(12):
                loop.step()
                assert evaluator.guard.command is not None
            held = StepFeedback(evaluator.guard.command.position, is_continued=False)
            agent.step(evaluator.world.observe(), held)
        snapshot = agent.snapshot()
        assert snapshot is not None
        return snapshot

    def pass_time(self) -> JointSample:
        """Let the guard alone control the arm for ``DOWN_S``; return its joints then."""
        world, guard = self.evaluator.world, self.evaluator.guard
        for _ in range(round(DOWN_S / world.config.time.stream_dt)):
            guard.observe(JointSample(*world.joints(), world.time), now=world.time)
            command = guard.tick(now=world.time).command
            assert command is not None
            world.command(command.position, command.velocity)
            world.step()
        return JointSample(*world.joints(), world.time)

    def surprise(self) -> float:
        """Return the surprise of the first image after the restart."""
        return self.after.assess(self.after.step(self.evaluator.world.observe())).surprise


@pytest.fixture(scope='module')
def crash(
    arm_config: ArmConfig, sim_config: SimConfig, guard_config: GuardConfig
) -> Iterator[Crash]:
    """Return a crash with the shipped checkpoint."""
    evaluator = EpisodeRunner(SimulationSetup(arm_config, sim_config, guard_config), 'push')
    shipped = load(PlannerConfig, config_path('planner.yaml'))
    config = replace(shipped, backend='torch', deadline_ms=float('inf'))
    checkpoint = load_checkpoint(checkpoint_path('compact'))
    agents = [Agent(checkpoint, evaluator.arm, config) for _ in range(2)]
    yield Crash(evaluator, checkpoint, *agents)
    evaluator.world.close()


@pytest.mark.parametrize('is_moved', [False, True])
def test_the_first_image_after_a_restart_surprises_only_if_the_object_was_moved(
    crash: Crash, is_moved: bool
) -> None:
    snapshot = crash.work(rests=True)
    now = crash.pass_time()
    if is_moved:
        state = crash.evaluator.world.state()
        aside = np.array([0.0, -0.06 * np.sign(state.object_position[1])])
        crash.evaluator.world.move_object(state.object_position[:2] + aside, state.object_yaw)
    crash.after.reset(now.position)
    crash.after.restore(snapshot, now)
    assert (crash.surprise() > 1.0) == is_moved


def test_a_restored_belief_follows_the_arm_to_where_the_guard_stopped_it(
    crash: Crash,
) -> None:
    snapshot = crash.work(rests=False)
    now = crash.pass_time()
    crash.after.reset(now.position)
    crash.after.restore(snapshot, now)
    believed = crash.after.snapshot()
    assert believed is not None and not believed.has_image.any()
    tip = crash.evaluator.arm.tip_position(now.position)
    way = np.linalg.norm(tip - snapshot.proprio[-1, -6:-3].numpy())
    read, kept = (
        crash.checkpoint.probes.read('tip', z[-1:])[0].detach().numpy()
        for z in (believed.z, snapshot.z)
    )
    off = np.linalg.norm(read - tip)
    assert off < BLIND_P90 < way
    assert off < np.linalg.norm(kept - tip) / 3.0, 'as good as not carried on'
    assert np.isnan(crash.surprise()), 'judged by what no image told'
