"""Where the output of nodes goes: a folder a run among ROS's logs."""

from __future__ import annotations

import os
import socket
from datetime import datetime
from pathlib import Path


def ros_log_folder() -> Path:
    """ROS's own: ``ROS_LOG_DIR``, else ``log`` in ``ROS_HOME``, else ``~/.ros/log``."""
    home = os.environ.get('ROS_HOME') or '~/.ros'
    return Path(os.environ.get('ROS_LOG_DIR') or f'{home}/log').expanduser()


def run_log_folder() -> Path:
    """A folder in it for one run, named as ``ros2 launch`` names its own; it is not made."""
    now = datetime.now()
    return ros_log_folder() / f'{now:%Y-%m-%d-%H-%M-%S-%f}-{socket.gethostname()}-{os.getpid()}'
