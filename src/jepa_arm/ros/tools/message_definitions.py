"""Message definitions for recordings, from the installed interface files."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory

from jepa_arm.core.errors import JepaArmError

NESTED = re.compile(r'\w+/\w+')
"""Matches the type, package/Name, of a field that is itself a message."""
SEPARATOR = '\n' + '=' * 80 + '\n'


class DefinitionError(JepaArmError, LookupError):
    """A message type that is not installed, or that belongs to a service or an action."""


def message_class(kind: str) -> Any:
    """Return the Python class of a message type such as ``std_msgs/msg/String``.

    Raises:
        DefinitionError: the type is not installed, or not a plain message.
    """
    package, space, name = kind.split('/')
    if space != 'msg':
        raise DefinitionError(f'{kind}: expected a plain message; those of actions have no text')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError):
        raise DefinitionError(f'{kind} is not installed: build it and source its setup') from None


def definition(kind: str) -> str:
    """Return the definition of ``kind`` with those of all nested types, in ros2msg format.

    Raises:
        DefinitionError: a type or its interface file is not installed.
    """
    root, texts = kind.replace('/msg/', '/'), dict[str, str]()
    pending = [root]
    while pending:
        part = pending.pop()
        if part not in texts:
            texts[part] = _text(part)
            fields = message_class(part.replace('/', '/msg/')).get_fields_and_field_types()
            pending += NESTED.findall(' '.join(fields.values()))
    parts = [f'MSG: {part}\n{text}' for part, text in texts.items() if part != root]
    return SEPARATOR.join([texts[root], *parts])


def _text(name: str) -> str:
    package, _, short = name.partition('/')
    try:
        return (Path(get_package_share_directory(package)) / f'msg/{short}.msg').read_text()
    except (LookupError, OSError):
        raise DefinitionError(f'{name}: its interface file is not installed') from None
