"""What messages are made of, as text for a recording, from the installed interface files."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory

SEPARATOR = '\n' + '=' * 80 + '\n'
FIELD = re.compile(r'\s*([A-Za-z]\w*(?:/\w+)*)(?:<=\d+)?(?:\[[^\]]*\])?\s+[a-z]\w*')
"""Of a line with a field, its type."""
PRIMITIVES = {'bool', 'byte', 'char', 'string', 'wstring', 'float32', 'float64'} | {
    f'{sign}int{bits}' for sign in ('', 'u') for bits in (8, 16, 32, 64)
}


class DefinitionError(LookupError):
    """A message type that is not installed, or belongs to a service or an action."""


def message_class(kind: str) -> Any:
    """The Python class of a message type such as ``std_msgs/msg/String``.

    Raises:
        DefinitionError: it is not installed, or no plain message.
    """
    package, space, name = kind.split('/')
    if space != 'msg':
        raise DefinitionError(f'{kind}: expected a plain message; those of actions have no text')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError):
        raise DefinitionError(f'{kind} is not installed: build it and source its setup') from None


def definition(kind: str) -> str:
    """The text of message type ``kind``, followed by that of all types in it (ros2msg).

    Raises:
        DefinitionError: an interface file is not installed.
    """
    package, _, name = kind.split('/')
    root = f'{package}/{name}'
    texts = {root: _text(root)}
    waiting = [root]
    while waiting:
        inside = waiting.pop()
        for part in _parts(texts[inside], inside.partition('/')[0]):
            if part not in texts:
                texts[part] = _text(part)
                waiting.append(part)
    parts = [f'MSG: {part}\n{text}' for part, text in texts.items() if part != root]
    return SEPARATOR.join([texts[root], *parts])


def _text(name: str) -> str:
    package, _, short = name.partition('/')
    try:
        return (Path(get_package_share_directory(package)) / f'msg/{short}.msg').read_text()
    except (LookupError, OSError):
        raise DefinitionError(f'{name}: its interface file is not installed') from None


def _parts(text: str, package: str) -> list[str]:
    """Types, as package/Name, of the fields in ``text`` that are messages themselves."""
    matches = filter(None, map(FIELD.match, text.splitlines()))
    names = [match[1] for match in matches if match[1] not in PRIMITIVES]
    return [name if '/' in name else f'{package}/{name}' for name in names]
