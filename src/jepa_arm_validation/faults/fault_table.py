"""Fault table: every fault that is tried, and the expected reaction."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from typing import Any

from jepa_arm.ros.runtime.node_contract import EXIT_BAD_SETTING

from . import processes, proposals
from .disk import full_while_collecting, full_while_recording, full_while_training
from .processes import termination, wrong_checkpoint
from .scenarios import Scenario, StopScenario
from .testbed import FaultTestbed

COMMAND_S = 0.15
"""Longest time (s) from the onset of a fault to the start of the stop, by default."""
JOINTS_S = 0.1
"""Longest time (s) without joint states before the stop starts."""
BLACKOUT_S = 0.5
"""Longest time (s) without usable images before the stop starts."""
STOP_S = 0.2
"""Longest duration (s) of a jerk-limited stop."""
SILENCE_S = 0.3
"""Longest time (s) to rest when the planner or the guard falls silent."""
BLOCKED_S = 0.5
"""Longest time (s) until a blocked arm is detected."""
LATCHED_S = 8.0
"""Longest time (s) until the guard gives up an arm that stays blocked."""
SHORT_S = 0.7
"""Duration (s) of faults short enough that the goal is kept."""
LONG_S = 2.5
"""Duration (s) of a fault that ends the goal and appears in the diagnostics."""
DISK_NOTE = 'a limit of file sizes (EFBIG) stands for the full disk, because it needs no rights'
NO_RAMP_NOTE = 'the robot side holds at the last command, without a ramp'
BLOCKED_NOTE = (
    'detected once the arm is 0.05 rad from all commands of the last 0.2 s. It yields, and the '
    'planner tries again; after five times the guard latches, unless the goal has ended before '
    'because the blocked arm surprises the planner'
)
ALL_NODES = 'planner', 'guard', 'sim'

ROGUE_PUBLISHER = proposals.RoguePublisher()


@dataclass(frozen=True)
class FaultCase:
    """A row of the fault table.

    Attributes:
        number: number of the group of faults. name: identifier.
        fault: description of the fault. scenario: procedure and expected reaction.
        note: remark for readers of the table.
    """

    number: int
    name: str
    fault: str
    scenario: Scenario | StopScenario
    note: str = ''


def stop(
    inject: Callable[[FaultTestbed], float],
    *reasons: str,
    within: float = COMMAND_S,
    **options: Any,
) -> StopScenario:
    """Return the scenario of a fault after which a stop must start ``within`` s.

    Rest must follow within another ``STOP_S``.
    """
    return StopScenario(inject, reasons, within, within + STOP_S, **options)


def silence(inject: Callable[[FaultTestbed], float], reason: str, **options: Any) -> StopScenario:
    """Return the scenario of a node that falls silent."""
    return StopScenario(inject, (reason,), SILENCE_S, SILENCE_S, **options)


def virtual(
    fault: str, duration: float = SHORT_S, value: float = 0.0
) -> Callable[[FaultTestbed], float]:
    """Return a function that injects a fault of the virtual arm for ``duration`` s (0: no end)."""
    return lambda testbed: testbed.inject(fault, duration, value)


def end(fault: str, after: float = 0.0) -> Callable[[FaultTestbed], None]:
    """Return a function that waits ``after`` s and ends a fault of the virtual arm."""
    return lambda testbed: testbed.end_fault(fault, after)


def send_signal(name: str, number: int) -> Callable[[FaultTestbed], float]:
    """Return a function that sends a signal to the process of a node."""
    return lambda testbed: testbed.signal(name, number)


def camera(fault: str, reason: str, value: float = 0.0) -> StopScenario:
    """Return the scenario of a camera fault after which the goal is continued."""
    return stop(virtual(fault, value=value), f'planner: {reason}', within=BLACKOUT_S)


def joints(fault: str, reason: str) -> StopScenario:
    """Return the scenario of invalid joint states after which the goal is continued."""
    reasons = 'guard: joints_invalid', f'planner: {reason}'
    return stop(virtual(fault), *reasons, trusts_joints=False)


def clock(fault: str, direction: str) -> StopScenario:
    """Return the scenario of a jump of the clock after which the goal is continued."""
    return stop(virtual(fault), f'guard: clock: ROS time jumped {direction}')


def plan(
    make: proposals.MakeProposals, reason: str, after: str = 'resumes', **options: Any
) -> StopScenario:
    """Return the scenario of an invalid proposal sent among valid ones that move the arm."""
    inject = partial(proposals.send, make)
    return stop(inject, f'guard: {reason}', after=after, moved_by_goal=False, **options)


# fmt: off
ROWS: tuple[tuple[Any, ...], ...] = (
    (1, 'camera_stops', 'the camera stops', camera('camera_stop', 'no image for')),
    (1, 'camera_gone', 'the camera stops for longer than a goal may wait',
     stop(virtual('camera_stop', 0.0), 'planner: no image for', 'goal: NO_OBSERVATION',
          'diagnostics planner: no image', within=BLACKOUT_S, after='new goal',
          end=end('camera_stop', after=LONG_S))),
    (2, 'camera_frozen', 'the camera repeats an image with new stamps while the arm moves',
     camera('camera_freeze', 'the image has not changed')),
    (3, 'camera_delayed', 'images arrive 300 ms late',
     camera('camera_delay', 'the newest image is 0.', 0.3)),
    (4, 'camera_black', 'black images', camera('camera_black', 'the image is')),
    (4, 'camera_white', 'overexposed images', camera('camera_white', 'the image is')),
    (4, 'camera_covered', 'half of the image is black', camera('camera_half', 'the image is')),
    (5, 'image_size', 'images of half the size', camera('camera_size', 'image: expected 80x')),
    (5, 'image_encoding', 'images in an unknown encoding',
     camera('camera_encoding', 'image: expected encoding')),
    (6, 'image_past', 'stamps of images one second in the past',
     camera('camera_past', 'the newest image is 1.')),
    (6, 'image_future', 'stamps of images one second in the future',
     camera('camera_future', 'the newest image is from the future')),
    (7, 'joints_stop', 'joint states stop',
     stop(lambda testbed: testbed.stop_joints(SHORT_S), 'guard: joints_stale',
          'planner: no joint state for', within=JOINTS_S),
     'times from the arrival of the last joint state'),
    (8, 'joints_nan', 'joint states are NaN', joints('joints_nan', 'joint states are not finite')),
    (8, 'joints_inf', 'joint states are infinite',
     joints('joints_inf', 'joint states are not finite')),
    (9, 'joint_missing', 'one joint is missing',
     joints('joint_missing', 'joint state: expected joints')),
    (9, 'joints_permuted', 'joint states in another order',
     Scenario('no stop; the goal is reached', proposals.permuted_joints)),
    (10, 'encoder_jump', 'an encoder jumps by 0.3 rad',
     stop(virtual('encoder_jump', 1.0, 0.3), 'guard: tracking', 'goal: GUARD_STOPPED',
          after='reset', end=end('encoder_jump'), trusts_joints=False)),
    (11, 'planner_killed', 'SIGKILL of the planner, which is restarted',
     silence(send_signal('planner', signal.SIGKILL), 'guard: plan_expired', after='new goal',
             end=FaultTestbed.restore)),
    (12, 'planner_stopped', 'SIGSTOP of the planner, later SIGCONT',
     silence(send_signal('planner', signal.SIGSTOP), 'guard: plan_expired',
             end=send_signal('planner', signal.SIGCONT))),
    (13, 'plan_nan', 'a plan with NaN', plan(proposals.with_nan, 'non_finite', 'reset')),
    (14, 'plan_outside', 'a plan beyond a joint limit',
     plan(proposals.beyond_joint_limit, 'position_limit')),
    (15, 'plan_fast', 'a plan that is too fast', plan(proposals.too_fast, 'velocity_limit')),
    (15, 'plan_far', 'a plan that begins far away', plan(proposals.far_start, 'step')),
    (15, 'plan_zigzag', 'a plan as sharp as the velocity limits allow',
     Scenario('followed within the limits of acceleration and jerk', proposals.zigzag),
     'it is followed, along a path that keeps the jerk limit'),
    (16, 'plan_self_collision', 'a plan with a self-collision half-way and a valid end',
     plan(proposals.through_self_collision, 'self_collision',
          prepare=proposals.self_collision_pose)),
    (17, 'plan_table', 'a plan into the table', plan(proposals.into_table, 'table')),
    (17, 'plan_workspace', 'a plan out of the workspace',
     plan(proposals.out_of_workspace, 'workspace')),
    (18, 'plan_names', 'a plan with a wrong joint name',
     plan(proposals.wrong_joint_name, 'schema')),
    (18, 'plan_count', 'a plan with six of seven joints', plan(proposals.missing_joint, 'schema')),
    (18, 'plan_times', 'a plan with decreasing times', plan(proposals.decreasing_times, 'schema')),
    (19, 'plan_old', 'a plan one second old', plan(proposals.stamped(-1.0), 'stale')),
    (19, 'plan_future', 'a plan from the future', plan(proposals.stamped(1.0), 'future')),
    (20, 'plan_twice', 'the same plan twice', plan(proposals.repeated, 'not_newer')),
    (20, 'plan_repeated', 'invalid plans without end',
     plan(proposals.stamped(-1.0, count=12), 'repeated', 'reset')),
    (20, 'second_publisher', 'another node publishes commands',
     stop(ROGUE_PUBLISHER.start, 'guard: held: another publisher', after='resume',
          end=ROGUE_PUBLISHER.stop)),
    (20, 'second_guard', 'a second guard is started',
     Scenario(f'the second ends with {EXIT_BAD_SETTING}, says why, commands nothing; the first '
              'continues',
              processes.second_guard)),
    (21, 'guard_killed', 'SIGKILL of the guard, which is restarted',
     silence(send_signal('guard', signal.SIGKILL), 'goal: GUARD_STOPPED', after='new goal',
             end=FaultTestbed.restore, by_joints=True), NO_RAMP_NOTE),
    (21, 'guard_stopped', 'SIGSTOP of the guard, later SIGCONT',
     silence(send_signal('guard', signal.SIGSTOP), 'guard: paused',
             end=send_signal('guard', signal.SIGCONT), by_joints=True), NO_RAMP_NOTE),
    (22, 'arm_blocked', 'the arm is blocked',
     StopScenario(virtual('arm_blocked', 0.0), ('guard: tracking',), BLOCKED_S, LATCHED_S,
                  after='reset or new goal', end=end('arm_blocked')), BLOCKED_NOTE),
    (23, 'clock_pause', 'the clock and all stamps are frozen',
     camera('clock_pause', 'images have had the same stamp')),
    (23, 'clock_back', 'the clock jumps back by 2 s', clock('clock_back', 'back')),
    (23, 'clock_ahead', 'the clock jumps ahead by 2 s', clock('clock_ahead', 'ahead')),
    (24, 'overrun', 'planning takes longer than allowed',
     Scenario('limits kept; reports that planning overran; continues by itself',
              processes.overrun)),
    (25, 'other_arm', 'a checkpoint of another arm', wrong_checkpoint('arm', 'another')),
    (25, 'other_camera', 'a checkpoint of another camera',
     wrong_checkpoint('camera.fov_deg', 50.0)),
    (26, 'collect_full', 'disk full while collecting',
     Scenario('ends with 1 and one clear line; an earlier file is intact; works again later',
              full_while_collecting), DISK_NOTE),
    (26, 'train_full', 'disk full while training',
     Scenario('ends with 1 and one clear line; the state saved before is intact',
              full_while_training), DISK_NOTE),
    (26, 'record_full', 'disk full while recording',
     Scenario('ends with 1 and one clear line; an earlier file is intact; the messages recorded '
              'until then can be recovered', full_while_recording), DISK_NOTE),
    (27, 'unreachable', 'the goal of the object is in the air',
     Scenario(f'goal: UNREACHABLE; the arm rests from {processes.BEFORE_END_S:g} s before',
              processes.unreachable_goal)),
    (28, 'sigint', 'SIGINT to planner, guard and simulator in motion',
     termination(ALL_NODES, signal.SIGINT)),
    (28, 'sigterm', 'SIGTERM to planner, guard and simulator in motion',
     termination(ALL_NODES, signal.SIGTERM)),
    (28, 'sigterm_guard', 'SIGTERM to the guard alone in motion',
     termination(('guard',), signal.SIGTERM)),
)
# fmt: on
FAULT_TABLE = tuple(starmap(FaultCase, ROWS))
