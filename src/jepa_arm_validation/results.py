"""Result files: one JSON file per run, written atomically, so that interrupted work can resume."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from jepa_arm.config import ConfigError


def select(what: str, names: Collection[str], known: Iterable[str]) -> list[str]:
    """Return the ``known`` names that are in ``names``, or all of them if ``names`` is empty.

    Raises:
        ConfigError: a name is unknown; ``what`` says in the message what the names stand for.
    """
    known = list(known)
    if unknown := sorted(set(names) - set(known)):
        raise ConfigError(f'{what}: expected some of {", ".join(known)}, got {unknown[0]}')
    return [name for name in known if not names or name in names]


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Return the results in ``folder``, in the order of their file names.

    Raises:
        OSError: the folder does not exist, or a file cannot be read.
        ValueError: a file is not JSON.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'no folder {folder}: expected results of an earlier run')
    return [json.loads(path.read_text()) for path in sorted(folder.glob('*.json'))]


def load_result(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result in ``path``, or None if the file does not exist.

    Raises:
        ConfigError: the result was made with other settings than ``settings``.
    """
    if not path.exists():
        return None
    result = json.loads(path.read_text())
    if result['settings'] != settings:
        raise ConfigError(
            f'{path} was made with other settings: expected {settings}, got '
            f'{result["settings"]}; use another folder or remove the file'
        )
    return result


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Replace the file ``path`` atomically: a killed process leaves the old or the new file."""
    partial = path.with_name(path.name + '.partial')
    partial.write_text(json.dumps(result) + '\n')
    os.replace(partial, path)
