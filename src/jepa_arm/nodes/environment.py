"""Makes ROS 2 work in a process that was started without sourcing anything."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import signal
import sys
from pathlib import Path

from ..config import ConfigError
from ..installation import ROS
from ..resources import config_path

MESSAGES = 'jepa_arm_msgs'
RANGES = ('LOCALHOST', 'SUBNET', 'SYSTEM_DEFAULT')
"""Values of ROS_AUTOMATIC_DISCOVERY_RANGE with which nodes find each other."""
LAST_DOMAIN = 232
"""Beyond it the ports end."""
ENDS_WITH = 'JEPA_ARM_ENDS_WITH'
"""Variable of the environment: id of the process that starts a node and with which it ends."""
PR_SET_PDEATHSIG = 1
DDS_NAMES = 'FASTRTPS', 'FASTDDS'
"""In the variables of Fast DDS: up to Jazzy, since Kilted."""
LOCAL_PROFILE = 'fastdds_localhost.xml'


def prepare_ros(shares_memory: bool = True) -> None:
    """Sets what ROS 2 needs in this process; a ``main`` calls it before it imports rclpy.

    Variables that are set already are kept, but see ``choose_transport``. Nodes talk on this
    machine only, unless ``ROS_AUTOMATIC_DISCOVERY_RANGE`` is set or ``ROS_LOCALHOST_ONLY`` is 0;
    Fast DDS finds them sooner than by default and keeps no memory of large messages.

    Args:
        shares_memory: with the nodes of this machine. There a process that is killed can hold up
            those that send to it for 1 s, and by its source lock them out for good. Otherwise
            UDP alone is used, which takes longer: images on their way, above all.

    Raises:
        SystemExit: with one line that says what to do, if rclpy or our messages are missing.
    """
    _add_own_prefix()
    limit_discovery()
    choose_transport(shares_memory)
    problem = ros_problem()
    if problem is not None:
        sys.exit(f'jepa_arm: {problem}')


def limit_discovery() -> None:
    """To this machine, unless the environment says otherwise; before rclpy is imported."""
    if os.environ.get('ROS_LOCALHOST_ONLY') == '0':
        return
    reach = os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    if reach == 'LOCALHOST' and rclpy_major() < 4:
        os.environ['ROS_LOCALHOST_ONLY'] = '1'  # all that Humble heeds; Kilted heeds it no more


def choose_transport(shares_memory: bool) -> None:
    """How Fast DDS sends, unless it has a profile of the user's; before rclpy is imported.

    rmw_fastrtps always adds shared memory to the range LOCALHOST. Without it a profile limits
    discovery, alike but for that, and the range is SYSTEM_DEFAULT: what the profile says.
    """
    variable = f'{DDS_NAMES[rclpy_major() >= 8]}_DEFAULT_PROFILES_FILE'
    local, wide = (str(config_path(name)) for name in (LOCAL_PROFILE, 'fastdds.xml'))
    if os.environ.get(variable, wide) not in (local, wide):
        return
    os.environ.setdefault('RMW_FASTRTPS_USE_QOS_FROM_XML', '1')  # for its memory policy
    reach, os.environ[variable] = discovery_range(), wide
    if reach != 'LOCALHOST':
        if not shares_memory:
            os.environ.setdefault('FASTDDS_BUILTIN_TRANSPORTS', 'UDPv4')
        return
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = reach
    can_be_limited = (
        not os.environ.get('ROS_STATIC_PEERS')  # which the range SYSTEM_DEFAULT does not heed
        and 'fastrtps' in os.environ.get('RMW_IMPLEMENTATION', 'rmw_fastrtps_cpp')
        and rclpy_major() > 3  # Humble knows no ranges
    )
    if can_be_limited and not shares_memory:
        os.environ[variable], os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = local, 'SYSTEM_DEFAULT'


def discovery_range() -> str:
    """Where nodes of this process are found: one of ``RANGES``, or 'unset'."""
    reach = os.environ.get('ROS_AUTOMATIC_DISCOVERY_RANGE', 'unset')
    profiles = (os.environ.get(f'{dds}_DEFAULT_PROFILES_FILE', '') for dds in DDS_NAMES)
    is_limited = any(Path(file).name == LOCAL_PROFILE for file in profiles)
    return 'LOCALHOST' if reach == 'SYSTEM_DEFAULT' and is_limited else reach


def rclpy_major() -> int:
    """First number of rclpy's version, from the name of its metadata; 9 where there is none.

    3: Humble, 7: Jazzy, 9: Kilted, more: Lyrical.
    """
    spec = importlib.util.find_spec('rclpy')
    if spec is None or spec.origin is None:
        return 9
    for info in Path(spec.origin).parents[1].glob('rclpy-*.*-info'):  # rclpy-9.1.2-py3.13.egg-info
        return int(info.name.split('-')[1].partition('.')[0])
    return 9


def end_with_parent() -> None:
    """SIGTERM for this process when its parent dies, however that happens; on Linux alone."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def ending_with_this() -> dict[str, str]:
    """Environment for a node that is to end with this process."""
    return {ENDS_WITH: str(os.getpid())}


def end_with_starter() -> None:
    """The same where ``ENDS_WITH`` says so, also if that process is gone already."""
    starter = os.environ.get(ENDS_WITH)
    if not starter or sys.platform != 'linux':
        return
    end_with_parent()
    try:
        state = Path(f'/proc/{starter}/stat').read_text().rsplit(')', 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        state = 'X'
    if state in 'XZ':
        os.kill(os.getpid(), signal.SIGTERM)


def choose_network(domain_id: int | None, reach: str | None) -> None:
    """Sets where this process and those it starts look for others; call ``prepare_ros`` after it.

    Args:
        domain_id: of ROS; None: as in the environment.
        reach: the discovery range, one of ``RANGES``; None: as in the environment, else this
            machine only.

    Raises:
        ConfigError: no such domain or range, or one with which the nodes cannot meet.
    """
    if domain_id is not None:
        if not 0 <= domain_id <= LAST_DOMAIN:
            raise ConfigError(f'domain id: expected 0 to {LAST_DOMAIN}, got {domain_id}')
        os.environ['ROS_DOMAIN_ID'] = str(domain_id)
    if reach is None:
        return
    if reach == 'OFF':
        raise ConfigError('discovery range: with OFF the nodes would not find each other')
    if reach not in RANGES:
        raise ConfigError(f'discovery range: expected one of {", ".join(RANGES)}, got {reach!r}')
    if reach != 'LOCALHOST' and os.environ.get('ROS_LOCALHOST_ONLY') == '1':
        raise ConfigError(f'discovery range: {reach} contradicts ROS_LOCALHOST_ONLY=1; unset that')
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = reach


def ros_problem() -> str | None:
    """Why ROS 2 cannot be used in this Python and what to do, or None if it can."""
    for module, remedy in ROS.items():
        try:
            importlib.import_module(f'{module}.msg' if module == MESSAGES else module)
        except ImportError as error:
            first_line = str(error).partition('\n')[0]
            return f'{sys.executable} cannot import {module} ({first_line}); {remedy}'
    return None


def check_rerun() -> None:
    """Call it before anything is started that shows itself in Rerun.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec('rerun') is None:
        raise ConfigError(
            'viewer: needs the package rerun-sdk, which is not installed: '
            "pip install -e '.[rerun]' in the repository"
        )


def _add_own_prefix() -> None:
    """Makes messages that were installed into this environment known to ament and the loader.

    The type support of a message is loaded by library name. The loader knows a library that is
    loaded already, so no LD_LIBRARY_PATH is needed, which could not be set from inside.
    """
    prefix = Path(sys.prefix)
    known = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    installed = (prefix / 'share' / MESSAGES).is_dir()
    if str(prefix) not in known and (installed or known == ['']):
        os.environ['AMENT_PREFIX_PATH'] = os.pathsep.join(filter(None, [str(prefix), *known]))
    if installed:
        for library in sorted((prefix / 'lib').glob(f'lib{MESSAGES}__*_c.so')):
            _preload(library)


def _preload(library: Path) -> None:
    try:
        ctypes.CDLL(str(library))
    except OSError:  # ROS itself is missing: ros_problem() says it
        pass
