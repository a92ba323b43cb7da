"""Scenes with obstacles over ROS 2: guard, planner and simulator know those of each scene."""

import numpy as np
import pytest
from jepa_arm_msgs.msg import GuardStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from planner_bench import usable_checkpoint
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from jepa_arm.config import GuardConfig, ObstacleConfig, load
from jepa_arm.core.files import config_path
from jepa_arm.core.types import Proposal
from jepa_arm.robot.collision import CollisionModel
from jepa_arm.ros.graph.episode_runner import GraphEpisodeRunner
from jepa_arm.ros.graph.scene_obstacles import SceneObstacles
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.conversions import PlanMarker
from jepa_arm.ros.runtime.node_contract import GraphError
from jepa_arm.ros.runtime.qos import COMMAND_QOS, STATUS_QOS
from jepa_arm.sim.scene_sampling import joints_for_tip

pytestmark = [pytest.mark.ros, pytest.mark.sim]
SEEDS = 50_000, 50_008
"""The obstacle of neither scene is in the way to that of the other."""
BOX = ObstacleConfig('obstacle', 'box', (0.1, 0.2, 1 / 3), (1e-6, 0.0, 0.1), (0.0, 0.0, 0.7))
BALL = ObstacleConfig('obstacle', 'sphere', (0.04,), (0.45, 0.10, 0.04))


@pytest.fixture
def obstacles():
    file = SceneObstacles((BOX,))
    yield file
    file.close()


def test_the_file_declares_the_obstacles_of_one_scene_after_the_other(obstacles):
    shipped = load(GuardConfig, config_path('guard.yaml'))
    assert load(GuardConfig, obstacles.path).obstacles == (BOX,)
    obstacles.declare((BALL,))
    assert load(GuardConfig, obstacles.path).obstacles == (BALL,)
    assert load(GuardConfig, obstacles.path).max_joint_step == shipped.max_joint_step
    obstacles.close()
    assert not obstacles.path.parent.exists()


class LifecycleNodes:
    """Guard and planner as their services show them; every other answer is lost."""

    ENDS = {  # noqa: RUF012
        Transition.TRANSITION_CONFIGURE: State.PRIMARY_STATE_INACTIVE,
        Transition.TRANSITION_ACTIVATE: State.PRIMARY_STATE_ACTIVE,
        Transition.TRANSITION_DEACTIVATE: State.PRIMARY_STATE_INACTIVE,
        Transition.TRANSITION_CLEANUP: State.PRIMARY_STATE_UNCONFIGURED,
    }

    def __init__(self, stuck=''):
        self.states = dict.fromkeys(('guard', 'planner'), State.PRIMARY_STATE_ACTIVE)
        self.stuck, self.order = stuck, []

    def call(self, kind, service, request=None):
        name = service.partition('/')[0]
        if kind is GetState:
            return GetState.Response(current_state=State(id=self.states[name]))
        if name != self.stuck:
            self.states[name] = self.ENDS[request.transition.id]
            self.order.append(name)
        return ChangeState.Response(success=name != self.stuck and len(self.order) % 2 == 0)


def test_the_guard_goes_down_last_and_comes_up_first_though_answers_are_lost(obstacles):
    nodes = LifecycleNodes()
    with obstacles.redeclare((BALL,), nodes):
        assert set(nodes.states.values()) == {State.PRIMARY_STATE_UNCONFIGURED}
        assert load(GuardConfig, obstacles.path).obstacles == (BALL,)
    assert set(nodes.states.values()) == {State.PRIMARY_STATE_ACTIVE}
    assert nodes.order == ['planner'] * 2 + ['guard'] * 4 + ['planner'] * 2


def test_no_scene_is_declared_to_a_guard_that_cannot_be_taken_down(obstacles):
    with pytest.raises(GraphError, match='guard'):
        with obstacles.redeclare((BALL,), LifecycleNodes(stuck='guard')):
            pass
    assert load(GuardConfig, obstacles.path).obstacles == (BOX,)


def refusal(client, arm, target):
    """The guard's reason against the straight path to joints ``target`` (J,); '' for none."""
    publisher = client.publisher(JointTrajectory, 'planner/joint_trajectory', COMMAND_QOS)
    reasons = []

    def is_refused():
        guard = client.guard
        reasons.extend(r for r in guard.reasons if r.startswith('obstacle'))
        if guard.state in (GuardStatus.IDLE, GuardStatus.HOLDING):
            start = np.array(guard.command)
            way = start + np.linspace(0.0, 1.0, 41)[1:, None] * (target - start)
            stamp = convert.to_seconds(client.joints.header.stamp)
            plan = Proposal(arm.joint_names, way, 0.1 * np.arange(1, 41), stamp, 1.0)
            publisher.publish(convert.proposal_to_msg(plan))
        return bool(reasons)

    client.poll(is_refused, 30.0)
    return ''.join(reasons[:1])


@pytest.mark.slow
@pytest.mark.extended
def test_guard_and_planner_know_the_obstacle_of_each_scene_of_a_task(
    tmp_path, arm, arm_config, sim_config
):
    checkpoint = usable_checkpoint(tmp_path, arm_config, sim_config)
    obstacles, drawn = [], []
    with GraphEpisodeRunner('avoid_reach', checkpoint) as runner:
        client = runner.client
        client.subscribe(
            MarkerArray,
            'planner/plan_markers',
            lambda msg: drawn.extend(msg.markers),
            STATUS_QOS,
        )
        for seed in SEEDS:
            result = runner.run_episode(seed, time_limit=1.0)
            scene = runner.task.sample(seed)
            place = next(m for m in reversed(drawn) if m.id >= PlanMarker.OBSTACLE).pose.position
            np.testing.assert_allclose([place.x, place.y, place.z], scene.obstacles[0].xyz)
            np.testing.assert_allclose(
                result.tip_path[0], arm.tip_position(scene.joints), atol=1e-3
            )
            assert not result.touched
            into = joints_for_tip(arm, np.array(scene.obstacles[0].xyz))
            before = CollisionModel(arm, tuple(obstacles))
            way = np.linspace(client.guard.command, into, 60)
            assert min(before.obstacle_distance(q) for q in way) > 0.03
            assert 'and obstacle before' in refusal(client, arm, into)
            obstacles += scene.obstacles
