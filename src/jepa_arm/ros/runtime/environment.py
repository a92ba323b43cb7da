"""Environment of a ROS 2 process: discovery, transport, domain, logs, and exit with its starter.

Makes ROS 2 work in a process that was started without sourcing a setup file. Does not import
rclpy, which reads most of these variables only once.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jepa_arm.config import ConfigError
from jepa_arm.core.files import config_path
from jepa_arm.core.installation import ROS

MESSAGES = 'jepa_arm_msgs'
RANGES = ('LOCALHOST', 'SUBNET', 'SYSTEM_DEFAULT')
"""Values of ROS_AUTOMATIC_DISCOVERY_RANGE with which nodes find each other."""
MAX_DOMAIN = 232
"""Largest domain id: beyond it the ports exceed 65535."""
FREE_DOMAINS = range(20, 100)
"""Domain ids to choose from: neither common ones nor on ports of the ephemeral range."""
MAX_PARTICIPANTS = 32
"""Largest number of processes per domain that discover each other with ``LOCAL_PROFILE``."""
STARTER_VARIABLE = 'JEPA_ARM_ENDS_WITH'
"""Environment variable with the process id of a node's starter; the node ends with it."""
PR_SET_PDEATHSIG = 1
DDS_NAMES = 'FASTRTPS', 'FASTDDS'
"""Prefixes of Fast DDS variables: up to Jazzy, since Kilted."""
LOCAL_PROFILE = 'fastdds_localhost.xml'


def prepare_ros(shares_memory: bool = True) -> None:
    """Set the environment that ROS 2 needs; call it in ``main`` before rclpy is imported.

    Variables that are already set are kept; see ``choose_transport`` for exceptions. Nodes only
    communicate on this machine unless ``ROS_AUTOMATIC_DISCOVERY_RANGE`` is set or
    ``ROS_LOCALHOST_ONLY`` is 0. Fast DDS gets profiles with faster discovery and without a memory
    pool for large messages.

    Args:
        shares_memory: use shared memory between the nodes of this machine. A killed process can
            then block nodes that send to it for 1 s and, judging by the source of Fast DDS,
            forever. Otherwise only UDP is used, which is slower, especially for images.

    Raises:
        SystemExit: rclpy or our messages are missing; one line says what to do.
    """
    _add_own_prefix()
    limit_discovery()
    choose_transport(shares_memory)
    problem = ros_problem()
    if problem is not None:
        sys.exit(f'jepa_arm: {problem}')


def limit_discovery() -> None:
    """Limit discovery to this machine unless the environment says otherwise."""
    if os.environ.get('ROS_LOCALHOST_ONLY') == '0':
        return
    span = os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    if span == 'LOCALHOST' and rclpy_major() < 4:
        os.environ['ROS_LOCALHOST_ONLY'] = '1'  # Humble knows only this; Kilted ignores it


def choose_transport(shares_memory: bool) -> None:
    """Choose the transport of Fast DDS unless the user has set a profile.

    With the range LOCALHOST, rmw_fastrtps always adds shared memory. To avoid it, the range is
    set to SYSTEM_DEFAULT and a profile limits discovery to this machine.
    """
    variable = f'{DDS_NAMES[rclpy_major() >= 8]}_DEFAULT_PROFILES_FILE'
    local, wide = (str(config_path(name)) for name in (LOCAL_PROFILE, 'fastdds.xml'))
    if os.environ.get(variable, wide) not in (local, wide):
        return
    os.environ.setdefault('RMW_FASTRTPS_USE_QOS_FROM_XML', '1')  # for the profile's memory policy
    span, os.environ[variable] = discovery_range(), wide
    if span != 'LOCALHOST':
        if not shares_memory:
            os.environ.setdefault('FASTDDS_BUILTIN_TRANSPORTS', 'UDPv4')
        return
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = span
    can_be_limited = (
        not os.environ.get('ROS_STATIC_PEERS')  # ignored by the range SYSTEM_DEFAULT
        and 'fastrtps' in os.environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp')
        and rclpy_major() > 3  # Humble has no ranges
    )
    if can_be_limited and not shares_memory:
        os.environ[variable], os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = local, 'SYSTEM_DEFAULT'


def discovery_range() -> str:
    """Return the discovery range of this process: one of ``RANGES``, or 'unset'."""
    span = os.environ.get('ROS_AUTOMATIC_DISCOVERY_RANGE', 'unset')
    profiles = (os.environ.get(f'{dds}_DEFAULT_PROFILES_FILE', '') for dds in DDS_NAMES)
    is_limited = any(Path(file).name == LOCAL_PROFILE for file in profiles)
    return 'LOCALHOST' if span == 'SYSTEM_DEFAULT' and is_limited else span


def choose_network(domain_id: int | None, span: str | None) -> None:
    """Set domain and discovery range of this process and its children, before ``prepare_ros``.

    Args:
        domain_id: ROS domain; None keeps the environment's.
        span: discovery range, one of ``RANGES``; None keeps the environment's, by default this
            machine.

    Raises:
        ConfigError: the domain or range does not exist, or nodes could not find each other.
    """
    if domain_id is not None:
        if not 0 <= domain_id <= MAX_DOMAIN:
            raise ConfigError(f'domain id: expected 0 to {MAX_DOMAIN}, got {domain_id}')
        os.environ['ROS_DOMAIN_ID'] = str(domain_id)
    if span is None:
        return
    if span == 'OFF':
        raise ConfigError('discovery range: with OFF the nodes would not find each other')
    if span not in RANGES:
        raise ConfigError(f'discovery range: expected one of {", ".join(RANGES)}, got {span!r}')
    if span != 'LOCALHOST' and os.environ.get('ROS_LOCALHOST_ONLY') == '1':
        raise ConfigError(f'discovery range: {span} contradicts ROS_LOCALHOST_ONLY=1; unset that')
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = span


def find_free_domain() -> int:
    """Return a ROS domain id that no process of this machine uses.

    Raises:
        ConfigError: all ids are in use.
    """
    first = os.getpid() % len(FREE_DOMAINS)
    for domain in (*FREE_DOMAINS[first:], *FREE_DOMAINS[:first]):
        if _is_free(domain):
            return domain
    first, last = FREE_DOMAINS.start, FREE_DOMAINS.stop - 1
    raise ConfigError(f'ROS domains {first} to {last} are all in use on this machine')


@contextmanager
def isolated_domain() -> Iterator[int]:
    """Set ROS_DOMAIN_ID of this process and its children to a free domain, and yield it."""
    before = os.environ.get('ROS_DOMAIN_ID')
    domain = find_free_domain()
    os.environ['ROS_DOMAIN_ID'] = str(domain)
    try:
        yield domain
    finally:
        del os.environ['ROS_DOMAIN_ID']
        if before is not None:
            os.environ['ROS_DOMAIN_ID'] = before


def _is_free(domain: int) -> bool:
    """Return whether no process listens on a port of the domain's participants.

    Checking the first port is not enough: its participant may have ended before others.
    """
    first = 7400 + 250 * domain + 10
    for port in range(first, first + 2 * MAX_PARTICIPANTS, 2):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(('', port))
            except OSError:
                return False
    return True


def ros_log_folder() -> Path:
    """Return the log folder of ROS: ROS_LOG_DIR, else ``log`` in ROS_HOME, else ~/.ros/log."""
    home = os.environ.get('ROS_HOME') or '~/.ros'
    return Path(os.environ.get('ROS_LOG_DIR') or f'{home}/log').expanduser()


def run_log_folder() -> Path:
    """Return a new log folder for one run, named as by ``ros2 launch``; it is not created."""
    now = datetime.now()
    return ros_log_folder() / f'{now:%Y-%m-%d-%H-%M-%S-%f}-{socket.gethostname()}-{os.getpid()}'


def rclpy_major() -> int:
    """Return rclpy's major version from its metadata; 9 if unknown.

    3: Humble, 7: Jazzy, 9: Kilted, higher: Lyrical.
    """
    try:
        return int(version('rclpy').partition('.')[0])
    except PackageNotFoundError:
        return 9


def end_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when its parent dies (Linux only)."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def end_with_this_process() -> dict[str, str]:
    """Return the environment variables of a node that shall end with this process."""
    return {STARTER_VARIABLE: str(os.getpid())}


def end_with_starter() -> None:
    """End this process when its starter (``STARTER_VARIABLE``) ends, at once if it has ended."""
    starter = os.environ.get(STARTER_VARIABLE)
    if not starter or sys.platform != 'linux':
        return
    end_with_parent()
    try:
        state = Path(f'/proc/{starter}/stat').read_text().rsplit(')', 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        state = 'X'
    if state in 'XZ':
        os.kill(os.getpid(), signal.SIGTERM)


def ros_problem() -> str | None:
    """Return why this Python cannot use ROS 2 and what to do; None if it can."""
    for module, remedy in ROS.items():
        try:
            importlib.import_module(f'{module}.msg' if module == MESSAGES else module)
        except ImportError as error:
            first_line = str(error).partition('\n')[0]
            return f'{sys.executable} cannot import {module} ({first_line}); {remedy}'
    return None


def require_rerun() -> None:
    """Check that Rerun is installed; call this before starting anything to view.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec('rerun') is None:
        raise ConfigError(
            'viewer: needs the package rerun-sdk, which is not installed: '
            "pip install -e '.[rerun]' in the repository"
        )


def _add_own_prefix() -> None:
    """Make messages installed in this environment known to ament and to the dynamic loader.

    The type support library of a message is loaded by name, but LD_LIBRARY_PATH cannot be set from
    inside the process. The libraries are therefore preloaded, so that the loader finds them.
    """
    prefix = Path(sys.prefix)
    known = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    installed = (prefix / 'share' / MESSAGES).is_dir()
    if str(prefix) not in known and (installed or known == ['']):
        os.environ['AMENT_PREFIX_PATH'] = os.pathsep.join(filter(None, [str(prefix), *known]))
    if installed:
        for library in sorted((prefix / 'lib').glob(f'lib{MESSAGES}__*_c.so')):
            with suppress(OSError):  # ROS itself is missing, which ros_problem() reports
                ctypes.CDLL(str(library))
