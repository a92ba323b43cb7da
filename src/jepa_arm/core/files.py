"""Files of the package: configuration, robot descriptions, checkpoints, and provenance.

They are found in a checkout, a colcon workspace and a Python environment alike. The provenance of
a result is the commit of the source and the machine.
"""

from __future__ import annotations

import os
import platform
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .errors import JepaArmError

PACKAGE = 'jepa_arm'
CHECKPOINT_FILES = ('model.safetensors', 'config.json')
TEXT_LIMIT = 1_000_000
"""Largest text file that is read, in bytes."""
_HERE = Path(__file__).resolve().parents[1]
CHECKPOINTS = _HERE / 'checkpoints'
"""Folder with one subfolder per shipped checkpoint."""


class FileError(JepaArmError, ValueError):
    """A file that is refused because it is not a plain file, too large, or not text."""


def read_text(path: Path, limit: int = TEXT_LIMIT) -> str:
    """Return the text of the plain file ``path`` of at most ``limit`` bytes.

    Raises:
        FileError: not a plain file, larger than ``limit``, or not UTF-8.
        OSError: missing or unreadable.
    """
    with path.open('rb') as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FileError(f'{path}: expected a plain file')
        data = file.read(limit + 1)
    if len(data) > limit:
        raise FileError(f'{path}: expected at most {limit} bytes, got more')
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FileError(f'{path}: expected text in UTF-8: {error}') from error


def git_hash() -> str:
    """Return the commit of the running source, '-dirty' if changed, 'unknown' outside git."""
    command = ['git', 'describe', '--always', '--dirty', '--abbrev=12', '--exclude=*']
    try:
        result = subprocess.run(command, cwd=_HERE, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return 'unknown'
    return result.stdout.strip() or 'unknown'


def machine() -> str:
    """Return the processor model and core count of this machine."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith('model name'):
                name = line.split(':', 1)[1].strip()
                break
    return f'{name}, {os.cpu_count()} cores'


def share_dir() -> Path:
    """Return the folder that holds ``config/``, ``urdf/`` and ``launch/``.

    This is the repository if the package runs from it, else the ament share folder, else
    ``share/jepa_arm`` of the Python environment.

    Raises:
        FileNotFoundError: the package was installed without these folders.
    """
    tried = []
    for folder in _share_candidates():
        if (folder / 'config').is_dir() and (folder / 'urdf').is_dir():
            return folder
        tried.append(str(folder))
    raise FileNotFoundError(
        f'expected the folders config/ and urdf/ of {PACKAGE} in one of: {", ".join(tried)}; '
        'install the package anew (make setup, pip install -e . or colcon build)'
    )


def config_path(name: str) -> Path:
    """Return the path of ``config/<name>``, or ``name`` itself if it is absolute.

    Raises:
        FileNotFoundError: no such file, or ``name`` leads out of the folder; the message lists
            the existing files.
    """
    return _existing_file('config', name)


def config_names(folder: str) -> list[str]:
    """Return the names of the YAML files in ``config/<folder>`` without their suffix."""
    try:
        return sorted(path.stem for path in (share_dir() / 'config' / folder).glob('*.yaml'))
    except FileNotFoundError:
        return []


def arm_path(name: str) -> Path:
    """Return the path of ``config/arms/<name>.yaml``, or ``name`` itself if it ends in .yaml.

    Raises:
        FileNotFoundError: see ``config_path``.
    """
    own = os.path.abspath(os.path.expanduser(name))
    return config_path(own if name.endswith('.yaml') else f'arms/{name}.yaml')


def given_path(name: str) -> Path:
    """Return the path of a file that a user names: in the working directory, else ``config/``.

    Raises:
        FileNotFoundError: the file is in neither; the message names both places.
    """
    own = os.path.abspath(os.path.expanduser(name))
    if os.path.isfile(own):
        return Path(own)
    try:
        return config_path(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'no file {own[:200]}; {error}') from None


def urdf_path(name: str) -> Path:
    """Return the path of ``urdf/<name>``, or ``name`` itself if it is absolute.

    Raises:
        FileNotFoundError: no such file, or ``name`` leads out of the folder; the message lists
            the existing files.
    """
    return _existing_file('urdf', name)


def checkpoint_path(name: str) -> Path:
    """Return the folder of a checkpoint, given its path or the name of a shipped one.

    Only the presence of its files is checked, not their contents.

    Raises:
        FileNotFoundError: no such folder, or one of its files is missing.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = CHECKPOINTS / name
    if not folder.is_dir():
        there = sorted(path.name for path in CHECKPOINTS.glob('*') if path.is_dir())
        raise FileNotFoundError(
            f'checkpoint: expected a folder or one of {there or "none shipped"}, got {name!r}; '
            'train one with: make model'
        )
    missing = [file for file in CHECKPOINT_FILES if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f'checkpoint {folder}: expected {", ".join(CHECKPOINT_FILES)}, '
            f'missing {", ".join(missing)}; copy the whole folder or train one with: make model'
        )
    return folder


def _share_candidates() -> Iterator[Path]:
    repository = _HERE.parents[1]
    if (repository / 'package.xml').is_file():
        yield repository
    # without ROS 2, without the package in its index, or without AMENT_PREFIX_PATH
    with suppress(ImportError, LookupError, OSError):
        from ament_index_python.packages import get_package_share_directory

        yield Path(get_package_share_directory(PACKAGE))
    yield Path(sys.prefix) / 'share' / PACKAGE


def _existing_file(kind: str, name: str) -> Path:
    folder = share_dir() / kind
    path = folder / name
    if '..' in Path(name).parts:
        raise FileNotFoundError(f'expected a file below {kind}/ or an absolute path, got {name!r}')
    try:
        if path.is_file():
            return path
    except OSError as error:  # the system refuses the name, e.g. as too long
        raise FileNotFoundError(f'no such file {kind}/{name[:100]}...: {error.strerror}') from None
    if path.is_absolute() and folder not in path.parents:
        raise FileNotFoundError(f'no file {path}; those of {PACKAGE} are below {folder}')
    beside = path.parent if path.parent.is_dir() else folder
    there = sorted(
        file.relative_to(folder).as_posix() for file in beside.iterdir() if file.is_file()
    )
    raise FileNotFoundError(
        f'expected a file {kind}/{name} in {folder.parent}, or the whole path of one of your own; '
        f'{kind}/ holds: {", ".join(there)}'
    )
