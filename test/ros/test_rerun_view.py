"""``jepa-arm view``: what is published is in the recording, read back by Rerun's own reader."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from geometry_msgs.msg import PoseArray
from jepa_arm_msgs.msg import GuardStatus, PlannerStatus
from sensor_msgs.msg import Image, JointState
from visualization_msgs.msg import Marker, MarkerArray

from jepa_arm.core.types import JointSample
from jepa_arm.ros.runtime import conversions as convert
from jepa_arm.ros.runtime.conversions import PlanMarker
from jepa_arm.ros.runtime.qos import SENSOR_QOS, STATUS_QOS

chunk = pytest.importorskip(
    'rerun.chunk', reason="Rerun is not installed: pip install -e '.[rerun]' brings it"
)

pytestmark = [
    pytest.mark.ros,
    pytest.mark.extended,
    pytest.mark.filterwarnings('ignore:RRD file has no footer'),  # while it is written
]
STAMP = convert.to_time(12.5)
PATH = np.array([[0.4, 0.0, 0.1], [0.5, 0.1, 0.1], [0.5, 0.2, 0.2]])
GOAL = np.array([0.5, 0.2, 0.05])
SHOWN = {
    *('/arm/capsules', '/arm/cylinders', '/camera/image', '/object', '/workspace'),
    *('/plan/path', '/plan/candidates', '/plan/goal'),
    *('/status/distance', '/status/plan_ms', '/status/obs_to_command_ms'),
    *('/log/planner', '/log/guard'),
}


def read(path):
    """Rows of a recording by entity; none of a file that has not begun."""
    found = {}
    try:
        chunks = chunk.RrdReader(path).stream().to_chunks()
    except (OSError, RuntimeError, ValueError):
        return found
    for part in chunks:
        assert part.is_static or part.timeline_names == ['ros_time']
        found.setdefault(part.entity_path, []).extend(part.to_record_batch().to_pylist())
    return found


def has_all(found):
    """Whether all that is published is in a recording."""
    if not found.keys() >= SHOWN:
        return False
    texts = {row['TextLog:text'][0] for row in found['/log/guard']}
    return texts >= {'guard 77: ?', 'guard HOLDING: held by somebody'}


def marker(number, kind, points=(), size=0.01, frame='panda_link0'):
    msg = Marker(id=int(number), type=kind)
    msg.header.stamp, msg.header.frame_id = STAMP, frame
    msg.points = [convert.point_to_msg(point) for point in points]
    msg.pose.position, msg.pose.orientation.w = convert.point_to_msg(GOAL), 1.0
    msg.scale.x = size
    return msg


def stamped(msg):
    msg.header.stamp = STAMP
    return msg


def good(arm, q, pixels):
    """What a graph says, by topic."""
    lines = marker(PlanMarker.CANDIDATES, Marker.LINE_LIST, [*PATH, PATH[0]])
    plan = [
        marker(PlanMarker.PATH, Marker.LINE_STRIP, PATH),
        marker(PlanMarker.GOAL, Marker.SPHERE, size=0.06),
        lines,
    ]
    held = GuardStatus(state=GuardStatus.HOLDING, reasons=['held by somebody'])
    held.obs_to_command_ms = 31.0
    pursued = PlannerStatus(state=PlannerStatus.PLANNING, distance=0.25, plan_ms=20.0)
    pursued.surprise = np.nan
    return {
        'joint_states': convert.joints_to_msg(JointSample(q, 0.0 * q, 12.5), arm.joint_names),
        'camera/image_raw': convert.image_to_msg(pixels, STAMP, 'camera'),
        'ground_truth/objects': convert.poses_to_msg([(GOAL, np.eye(4)[3])], '', STAMP),
        'planner/plan_markers': MarkerArray(markers=plan),
        'planner/status': stamped(pursued),
        'guard/status': stamped(held),
    }


def bad(arm, pixels):
    """What nobody should say, with the topics."""
    elsewhere = marker(PlanMarker.PATH, Marker.LINE_STRIP, PATH, frame='elsewhere')
    odd = marker(PlanMarker.CANDIDATES, Marker.LINE_LIST, PATH)
    foreign = convert.image_to_msg(pixels, STAMP, 'camera')
    foreign.encoding = 'bayer_rggb8'
    unturned = convert.poses_to_msg([(GOAL, np.zeros(4))], '', STAMP)
    unknown = PlannerStatus(state=99)
    unknown.header.stamp.sec = -5
    nowhere = np.full(len(arm.joint_names), np.nan)
    return [
        ('joint_states', JointState(name=['a'], position=[1.0])),
        (
            'joint_states',
            convert.joints_to_msg(JointSample(nowhere, nowhere, 1.0), arm.joint_names),
        ),
        ('camera/image_raw', foreign),
        ('ground_truth/objects', unturned),
        ('planner/plan_markers', MarkerArray(markers=[elsewhere])),
        ('planner/plan_markers', MarkerArray(markers=[odd])),
        ('planner/status', unknown),
        ('guard/status', GuardStatus(state=77, reasons=['?'])),
    ]


def test_what_is_published_is_recorded_and_what_is_malformed_ends_nothing(harness, arm, tmp_path):
    path = tmp_path / 'new' / 'run.rrd'
    command = [sys.executable, '-m', 'jepa_arm', 'view', '--save', str(path)]
    view = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    harness.cleanup.append(view.kill)
    kinds = JointState, Image, PoseArray, MarkerArray, PlannerStatus, GuardStatus
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    q = arm.home + 0.2
    said = good(arm, q, pixels)
    publishers = {
        topic: harness.publisher(kind, topic, SENSOR_QOS if i < 3 else STATUS_QOS)
        for i, (topic, kind) in enumerate(zip(said, kinds, strict=True))
    }
    malformed, sent = bad(arm, pixels), []

    def publish():
        topic, msg = malformed[len(sent) % len(malformed)]
        publishers[topic].publish(msg)
        for topic, msg in said.items():
            publishers[topic].publish(msg)
        sent.append(topic)

    harness.node.create_timer(0.05, publish)
    harness.wait(lambda: has_all(read(path)), 'all of it in the recording')
    before = len(sent)  # it hears all topics now: each malformed message comes once more
    harness.wait(lambda: len(sent) > before + len(malformed), 'all malformed messages')
    view.send_signal(signal.SIGINT)
    errors = view.communicate(timeout=20.0)[1]
    assert view.returncode == 0, errors
    assert 'expected' in errors, 'nothing was said of the malformed ones'

    assert len(chunk.RrdReader(path).store()), 'it was not completed'
    found = {entity: rows[-1] for entity, rows in read(path).items()}
    # The pusher's lower end is the tip.
    pusher = found['/arm/cylinders']
    down = arm.tip_pose(q)[:3, 2] * pusher['Cylinders3D:lengths'][0] / 2.0
    centre = np.array(pusher['Cylinders3D:centers'][0])
    np.testing.assert_allclose(centre + down, arm.tip_position(q), atol=1e-5)
    assert len(found['/arm/capsules']['Capsules3D:translations']) == 9
    assert bytes(found['/camera/image']['Image:buffer'][0]) == pixels.tobytes()
    np.testing.assert_allclose(found['/plan/path']['LineStrips3D:strips'][0], PATH, atol=1e-6)
    assert len(found['/plan/candidates']['LineStrips3D:strips']) == 2
    np.testing.assert_allclose(found['/plan/goal']['Ellipsoids3D:centers'][0], GOAL, atol=1e-6)
    np.testing.assert_allclose(found['/object']['Boxes3D:centers'][0], GOAL, atol=1e-6)
    assert found['/status/distance']['Scalars:scalars'] == [0.25]
    assert '/status/surprise' not in found, 'NaN is no number'
    assert found['/log/planner']['TextLog:text'] == ['planner PLANNING']
    assert found['/plan/path']['ros_time'].timestamp() % 60.0 == 12.5
