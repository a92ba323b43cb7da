"""Strict loading of YAML into dataclasses.

Unknown keys, missing keys and values of the wrong type are errors.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from jepa_arm.core.files import FileError, read_text

from .rules import ConfigError

T = TypeVar('T')


def load(cls: type[T], path: Path) -> T:
    """Load the YAML file ``path`` into the dataclass ``cls``.

    Raises:
        ConfigError: file missing or too large, not YAML, unknown or missing key, wrong type or
            value. YAML aliases are refused because a few of them can expand to gigabytes.
    """
    values = read_plain(path)
    try:
        return from_dict(cls, values)
    except ConfigError as error:
        raise ConfigError(f'{path}: {error}') from None


def read_plain(path: Path) -> Any:
    """Return the plain values (mappings, lists, scalars) in the YAML file ``path``.

    Raises:
        ConfigError: file missing or too large, or not YAML; see ``load``.
    """
    try:
        return _PlainLoader(read_text(path)).get_single_data()
    except FileNotFoundError as error:
        there = sorted(p.name for p in path.parent.glob('*.yaml'))
        raise ConfigError(f'no {path.name} in {path.parent}; there are: {there}') from error
    except (yaml.YAMLError, FileError, RecursionError) as error:
        raise ConfigError(f'{path}: not YAML that can be used: {error}') from error


class _PlainLoader(yaml.SafeLoader):
    """YAML loader that refuses aliases and tags that construct objects."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError('expected plain values, got an alias')
        return super().compose_node(parent, index)


def from_dict(cls: type[T], values: Any, where: str = '') -> T:
    """Build the dataclass ``cls`` from plain values; errors prefix its keys with ``where``."""
    if not isinstance(values, dict):
        raise ConfigError(f'{where or cls.__name__}: expected a mapping, got {values!r}')
    kinds = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f'unknown key {where}{unknown[0]}; expected one of {sorted(fields)}')
    required = [name for name, f in fields.items() if f.default is dataclasses.MISSING]
    missing = [name for name in required if name not in values]
    if missing:
        raise ConfigError(f'missing key {where}{missing[0]}')
    converted = {k: convert(kinds[k], v, f'{where}{k}') for k, v in values.items()}
    try:
        return cls(**converted)
    except ConfigError as error:
        raise ConfigError(f'{where.rstrip(".")}: {error}' if where else str(error)) from None


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain values for YAML or JSON."""
    return dataclasses.asdict(config)


def convert(kind: Any, value: Any, where: str) -> Any:
    """Convert ``value`` to the type ``kind``; ``where`` is its key, which errors name."""
    if dataclasses.is_dataclass(kind):
        return from_dict(typing.cast(type, kind), value, f'{where}.')
    if isinstance(kind, types.UnionType):
        if value is None and types.NoneType in kind.__args__:
            return None
        return convert(_best_match(kind, value), value, where)
    if typing.get_origin(kind) is tuple:
        return _tuple(kind, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in (float, int, str, bool) and type(value) is kind:
        return value
    raise ConfigError(f'{where}: expected {getattr(kind, "__name__", kind)}, got {value!r}')


def _best_match(kind: types.UnionType, value: Any) -> Any:
    """Return the dataclass in the union ``kind`` that has most keys in common with ``value``.

    Error messages then refer to the intended class. If the union has no dataclass, as in
    ``float | None``, its first type is returned.
    """
    keys = set(value) if isinstance(value, dict) else set()
    classes = [c for c in kind.__args__ if dataclasses.is_dataclass(c)]
    if not classes:
        return kind.__args__[0]
    return max(classes, key=lambda c: len(keys & {f.name for f in dataclasses.fields(c)}))


def _tuple(kind: Any, value: Any, where: str) -> tuple[Any, ...]:
    args = typing.get_args(kind)
    if not isinstance(value, list | tuple):
        raise ConfigError(f'{where}: expected a list, got {value!r}')
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(args) != len(value):
        raise ConfigError(f'{where}: expected {len(args)} values, got {len(value)}')
    pairs = zip(args, value, strict=True)
    return tuple(convert(a, v, f'{where}[{i}]') for i, (a, v) in enumerate(pairs))
