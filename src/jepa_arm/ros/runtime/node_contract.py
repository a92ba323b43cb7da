"""Node contract: constants shared by the nodes and the programs that start or command them."""

from __future__ import annotations

import os
import signal

from jepa_arm.core.errors import JepaArmError

FOLLOW_TRAJECTORY = 'follow_joint_trajectory'
"""The only controller that is commanded by an action; the others listen to a topic."""
CONTROLLERS = {
    'joint_trajectory': 'joint_trajectory_controller/joint_trajectory',
    'joint_trajectory_with_stop': 'joint_trajectory_controller/joint_trajectory',
    FOLLOW_TRAJECTORY: 'joint_trajectory_controller/follow_joint_trajectory',
    'forward_position': 'forward_position_controller/commands',
    'forward_velocity': 'forward_velocity_controller/commands',
}
"""Topic or action of each controller, by the value of the guard's parameter ``controller``."""
COMMAND_TOPIC = CONTROLLERS['joint_trajectory']
"""Topic of the commands of the default controller."""
EXIT_BAD_SETTING = os.EX_CONFIG
"""Exit code of a node that cannot use one of its settings; starting it again does not help."""
DUMP_STACKS_SIGNAL = signal.SIGUSR1
"""Signal on which a node writes the stack of each of its threads to its log and goes on."""
DISCOVERY_LEASE_S = 22.0
"""Longest time for which a killed node is still listed in the ROS graph."""


class GraphError(JepaArmError, RuntimeError):
    """The graph did not start, ended, or did not answer; the message names the node or service."""
