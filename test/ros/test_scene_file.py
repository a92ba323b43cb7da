"""Scenes with obstacles over ROS 2: guard, planner and simulator know those of each scene."""

import numpy as np
import pytest
from jepa_arm_msgs.msg import GuardStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from planner_bench import usable_checkpoint
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from jepa_arm.collision import Scene
from jepa_arm.config import GuardConfig, ObstacleConfig, load
from jepa_arm.evaluation_report import summarise
from jepa_arm.nodes import conversions as convert
from jepa_arm.nodes.conversions import PlanMarker
from jepa_arm.nodes.graph import GraphError, Supervisor
from jepa_arm.nodes.parameters import COMMAND, STATUS
from jepa_arm.nodes.scene_file import Readers, SceneFile
from jepa_arm.nodes.session import Session
from jepa_arm.resources import config_path
from jepa_arm.sim.tasks import joints_at
from jepa_arm.types import Proposal

pytestmark = [pytest.mark.ros, pytest.mark.sim]
SEEDS = 50_000, 50_008
"""The obstacle of neither scene is in the way to that of the other."""


def test_a_file_declares_the_obstacles_of_one_scene_after_the_other():
    one = ObstacleConfig('obstacle', 'box', (0.1, 0.2, 1 / 3), (1e-6, 0.0, 0.1), (0.0, 0.0, 0.7))
    other = ObstacleConfig('obstacle', 'sphere', (0.04,), (0.45, 0.10, 0.04))
    file, declared = SceneFile((one,)), load(GuardConfig, config_path('guard.yaml'))
    assert load(GuardConfig, file.path).obstacles == (one,)
    file.declare((other,))
    assert load(GuardConfig, file.path).obstacles == (other,)
    assert load(GuardConfig, file.path).max_step == declared.max_step
    file.close()
    assert not file.path.parent.exists()


class Nodes:
    """Guard and planner as their services show them; some answers get lost, one may be stuck."""

    ENDS = {  # noqa: RUF012
        Transition.TRANSITION_CONFIGURE: State.PRIMARY_STATE_INACTIVE,
        Transition.TRANSITION_ACTIVATE: State.PRIMARY_STATE_ACTIVE,
        Transition.TRANSITION_DEACTIVATE: State.PRIMARY_STATE_INACTIVE,
        Transition.TRANSITION_CLEANUP: State.PRIMARY_STATE_UNCONFIGURED,
    }

    def __init__(self, stuck=''):
        self.states = dict.fromkeys(('guard', 'planner'), State.PRIMARY_STATE_ACTIVE)
        self.stuck, self.made = stuck, []

    def call(self, client, request, service):
        assert client.srv_name.endswith(service)
        name, _, verb = service.partition('/')
        if verb == 'get_state':
            return GetState.Response(current_state=State(id=self.states[name]))
        wanted = request.transition.id
        if name != self.stuck:
            self.states[name] = self.ENDS[wanted]
            self.made.append((name, wanted))
        return ChangeState.Response(success=name != self.stuck and len(self.made) % 2 == 0)


def test_the_guard_goes_down_last_and_comes_up_first_though_answers_are_lost(harness):
    nodes = Nodes()
    readers = Readers(harness.node, Supervisor([]), nodes.call)
    readers.take_down()
    assert set(nodes.states.values()) == {State.PRIMARY_STATE_UNCONFIGURED}
    readers.take_up()
    assert set(nodes.states.values()) == {State.PRIMARY_STATE_ACTIVE}
    order = [name for name, _ in nodes.made]
    assert order == ['planner'] * 2 + ['guard'] * 4 + ['planner'] * 2


def test_a_guard_that_cannot_be_taken_down_ends_the_session(harness):
    readers = Readers(harness.node, Supervisor([]), Nodes(stuck='guard').call)
    with pytest.raises(GraphError, match='guard .* cannot be taken down'):
        readers.take_down()


def refusal(session, arm, target):
    """What the guard says of obstacles on the straight way to ``target`` (J,); '': nothing."""
    publisher = session._node.create_publisher(
        JointTrajectory, 'planner/joint_trajectory', COMMAND
    )
    said = []

    def is_refused():
        here, guard = session._joints, session._guard
        said.extend(r for r in guard.reasons if r.startswith('obstacle'))
        if guard.state in (GuardStatus.IDLE, GuardStatus.HOLDING):
            start = np.array(guard.command)
            way = start + np.linspace(0.0, 1.0, 41)[1:, None] * (target - start)
            stamp = convert.to_seconds(here.header.stamp)
            plan = Proposal(arm.joint_names, way, 0.1 * np.arange(1, 41), stamp, 1.0)
            publisher.publish(convert.proposal_to_msg(plan))
        return bool(said)

    session._comes(is_refused, 30.0)
    return ''.join(said[:1])


@pytest.mark.slow
def test_guard_and_planner_know_the_obstacle_of_each_scene_of_a_task(
    tmp_path, arm, arm_config, sim_config
):
    checkpoint = usable_checkpoint(tmp_path, arm_config, sim_config)
    results, obstacles, drawn = [], [], []
    with Session('avoid_reach', checkpoint) as session:
        session._node.create_subscription(
            MarkerArray, 'planner/plan_markers', lambda msg: drawn.extend(msg.markers), STATUS
        )
        for seed in SEEDS:
            results.append(session.run_episode(seed, limit=1.0))
            scene = session.task.sample(seed)
            place = next(m for m in reversed(drawn) if m.id >= PlanMarker.OBSTACLE).pose.position
            np.testing.assert_allclose([place.x, place.y, place.z], scene.obstacles[0].xyz)
            np.testing.assert_allclose(results[-1].goal, scene.goal)
            np.testing.assert_allclose(
                results[-1].tip_path[0], arm.tip_position(scene.joints), atol=1e-3
            )
            into = joints_at(arm, np.array(scene.obstacles[0].xyz))
            before = Scene(arm, tuple(obstacles))
            way = np.linspace(session._guard.command, into, 60)
            assert min(before.obstacle_distance(q) for q in way) > 0.03
            assert 'and obstacle before' in refusal(session, arm, into)
            obstacles += scene.obstacles
    report = summarise(results, session.task, 'local', len(results), 0)
    assert report['untouched_rate'] == 1.0
