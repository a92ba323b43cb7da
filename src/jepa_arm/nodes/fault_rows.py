"""Every fault that is tried, and what must happen: the table behind ``jepa-arm faults``."""

from __future__ import annotations

import signal

from . import fault_disk as disk
from . import fault_plans as plans
from . import fault_processes as processes
from .fault_row import (
    BLACKOUT_S,
    BLOCKED_S,
    COMMAND_S,
    JOINTS_S,
    LATCHED_S,
    SHORT_S,
    SILENCE_S,
    STOP_S,
    Row,
    camera,
    clock,
    joints,
    plan,
    send_signal,
)
from .fault_scenarios import Stop

LONG_S = 2.5
"""s that a fault lasts which a goal does not outlive, and diagnostics tell."""
ALL = ('planner', 'guard', 'sim')
DISK_NOTE = 'the disk is full by a limit of file size (EFBIG), which needs no rights'

ROWS: tuple[Row, ...] = (
    Row(1, 'camera_stops', 'the camera stops', camera('camera_stop', 'no image for')),
    Row(
        1,
        'camera_gone',
        'the camera stops for good',
        Stop(
            lambda stage: stage.inject('camera_stop'),
            ('planner: no image for', 'goal: NO_OBSERVATION', 'diagnostics planner: no image'),
            BLACKOUT_S,
            BLACKOUT_S + STOP_S,
            after='new goal',
            mend=lambda stage: stage.inject_end('camera_stop', after=LONG_S),
        ),
    ),
    Row(
        2,
        'camera_frozen',
        'the camera repeats an image with new stamps while the arm moves',
        camera('camera_freeze', 'the image has not changed'),
    ),
    Row(
        3,
        'camera_delayed',
        'images come 300 ms late',
        camera('camera_delay', 'the newest image is 0.', 0.3),
    ),
    Row(4, 'camera_black', 'black images', camera('camera_black', 'the image is')),
    Row(4, 'camera_white', 'overexposed images', camera('camera_white', 'the image is')),
    Row(4, 'camera_covered', 'half of the image is black', camera('camera_half', 'the image is')),
    Row(5, 'image_size', 'images of half the size', camera('camera_size', 'image: expected 80x')),
    Row(
        5,
        'image_encoding',
        'images in an unknown encoding',
        camera('camera_encoding', 'image: expected encoding'),
    ),
    Row(
        6,
        'image_past',
        'stamps of images one second in the past',
        camera('camera_past', 'the newest image is 1.'),
    ),
    Row(
        6,
        'image_future',
        'stamps of images one second in the future',
        camera('camera_future', 'the newest image is from the future'),
    ),
    Row(
        7,
        'joints_stop',
        'joint states stop',
        Stop(
            lambda stage: stage.lose_joints(SHORT_S),
            ('guard: joints_stale', 'planner: no joint state for'),
            JOINTS_S,
            JOINTS_S + STOP_S,
        ),
        note='from the arrival of the last joint state',
    ),
    Row(
        8,
        'joints_nan',
        'joint states are NaN',
        joints('joints_nan', 'guard: joints_invalid', 'planner: joint states are not finite'),
    ),
    Row(
        8,
        'joints_inf',
        'joint states are infinite',
        joints('joints_inf', 'guard: joints_invalid', 'planner: joint states are not finite'),
    ),
    Row(
        9,
        'joint_missing',
        'one joint is missing',
        joints('joint_missing', 'guard: joints_invalid', 'planner: joint state: expected joints'),
    ),
    Row(9, 'joints_permuted', 'joint states in another order', plans.GoesOn('joints_permuted')),
    Row(
        10,
        'encoder_jump',
        'an encoder jumps by 0.3 rad',
        Stop(
            lambda stage: stage.inject('encoder_jump', 1.0, 0.3),
            ('guard: tracking', 'goal: GUARD_STOPPED'),
            COMMAND_S,
            COMMAND_S + STOP_S,
            after='reset',
            mend=lambda stage: stage.inject_end('encoder_jump'),
            trusts_joints=False,
        ),
    ),
    Row(
        11,
        'planner_killed',
        'SIGKILL of the planner, which is started anew',
        Stop(
            send_signal('planner', signal.SIGKILL),
            ('guard: plan_expired',),
            SILENCE_S,
            SILENCE_S,
            after='new goal',
            mend=lambda stage: stage.restore(),
        ),
    ),
    Row(
        12,
        'planner_stopped',
        'SIGSTOP of the planner, later SIGCONT',
        Stop(
            send_signal('planner', signal.SIGSTOP),
            ('guard: plan_expired',),
            SILENCE_S,
            SILENCE_S,
            mend=send_signal('planner', signal.SIGCONT),
        ),
    ),
    Row(13, 'plan_nan', 'a plan with NaN', plan(plans.nan, 'non_finite', 'reset')),
    Row(14, 'plan_outside', 'a plan beyond a joint limit', plan(plans.outside, 'position_limit')),
    Row(15, 'plan_fast', 'a plan too fast', plan(plans.fast, 'velocity_limit')),
    Row(15, 'plan_far', 'a plan that begins far away', plan(plans.far, 'step')),
    Row(
        15,
        'plan_zigzag',
        'a plan as sharp as its speeds allow',
        plans.Zigzag(),
        note='within the speed limits it is followed, along a path that keeps the jerk limit',
    ),
    Row(
        16,
        'plan_self_collision',
        'self-collision half-way, the end is fine',
        plan(plans.self_colliding, 'self_collision'),
    ),
    Row(17, 'plan_table', 'a plan into the table', plan(plans.into_table, 'table')),
    Row(17, 'plan_workspace', 'a plan out of the workspace', plan(plans.out_of_box, 'workspace')),
    Row(18, 'plan_names', 'a plan with a wrong joint name', plan(plans.names, 'schema')),
    Row(18, 'plan_count', 'a plan with six of seven joints', plan(plans.count, 'schema')),
    Row(18, 'plan_times', 'a plan whose times go back', plan(plans.times, 'schema')),
    Row(19, 'plan_old', 'a plan one second old', plan(plans.old, 'stale')),
    Row(19, 'plan_future', 'a plan from the future', plan(plans.future, 'future')),
    Row(20, 'plan_twice', 'the same plan twice', plan(plans.twice, 'not_newer')),
    Row(20, 'plan_repeated', 'bad plans without end', plan(plans.many, 'repeated', 'reset')),
    Row(
        20,
        'second_publisher',
        'somebody else publishes commands',
        Stop(
            plans.publish_commands,
            ('guard: held: another publisher',),
            COMMAND_S,
            COMMAND_S + STOP_S,
            after='resume',
            mend=plans.end_publishing,
        ),
    ),
    Row(20, 'second_guard', 'a second guard is started', processes.SecondGuard()),
    Row(
        21,
        'guard_killed',
        'SIGKILL of the guard, which is started anew',
        Stop(
            send_signal('guard', signal.SIGKILL),
            ('goal: GUARD_STOPPED',),
            SILENCE_S,
            SILENCE_S,
            after='new goal',
            mend=lambda stage: stage.restore(),
            by_joints=True,
        ),
        note='the robot side holds at the last command, without a ramp',
    ),
    Row(
        21,
        'guard_stopped',
        'SIGSTOP of the guard, later SIGCONT',
        Stop(
            send_signal('guard', signal.SIGSTOP),
            ('guard: paused',),
            SILENCE_S,
            SILENCE_S,
            mend=send_signal('guard', signal.SIGCONT),
            by_joints=True,
        ),
        note='the robot side holds at the last command, without a ramp',
    ),
    Row(
        22,
        'arm_blocked',
        'the arm is blocked',
        Stop(
            lambda stage: stage.inject('arm_blocked'),
            ('guard: tracking',),
            BLOCKED_S,
            LATCHED_S,
            after='reset or new goal',
            mend=lambda stage: stage.inject_end('arm_blocked'),
        ),
        note='seen once the arm is 0.05 rad from all commands of the last 0.2 s; it yields, the '
        'planner tries again, and after five yields the guard latches, if the goal has not ended '
        'before as the arm that is held surprises the planner',
    ),
    Row(
        23,
        'clock_pause',
        'the clock and all stamps stand still',
        camera('clock_pause', 'images have had the same stamp'),
    ),
    Row(23, 'clock_back', 'the clock jumps 2 s back', clock('clock_back', 'back')),
    Row(23, 'clock_ahead', 'the clock jumps 2 s ahead', clock('clock_ahead', 'ahead')),
    Row(24, 'overrun', 'planning takes longer than it may', processes.Overrun()),
    Row(
        25,
        'other_arm',
        'a checkpoint of another arm',
        processes.WrongCheckpoint('arm', 'another'),
    ),
    Row(
        25,
        'other_camera',
        'a checkpoint of another camera',
        processes.WrongCheckpoint('camera.fov_deg', 50.0),
    ),
    Row(26, 'collect_full', 'disk full while collecting', disk.FullWhileCollecting(), DISK_NOTE),
    Row(26, 'train_full', 'disk full while training', disk.FullWhileTraining(), DISK_NOTE),
    Row(26, 'record_full', 'disk full while recording', disk.FullWhileRecording(), DISK_NOTE),
    Row(27, 'unreachable', 'the object is to be in the air', processes.Unreachable()),
    Row(
        28,
        'sigint',
        'SIGINT to planner, guard and simulator in motion',
        processes.Ended(ALL, signal.SIGINT),
    ),
    Row(
        28,
        'sigterm',
        'SIGTERM to planner, guard and simulator in motion',
        processes.Ended(ALL, signal.SIGTERM),
    ),
    Row(
        28,
        'sigterm_guard',
        'SIGTERM to the guard alone in motion',
        processes.Ended(('guard',), signal.SIGTERM),
    ),
)
