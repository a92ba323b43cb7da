"""Random messages: messages of any type, generated from the type's description, or mutated."""

from __future__ import annotations

import importlib
from array import array
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from rosidl_parser.definition import (
    AbstractNestedType,
    AbstractString,
    Array,
    BasicType,
    BoundedSequence,
    NamespacedType,
)

FLOATS = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-308, 5e-324, 1e308, -1e308, 1e9, 1.0, -1.0)
TEXTS = ('', ' ', 'rgb8', 'bgr8', 'mono16', 'panda_joint1', 'panda_link0', '%s%n', '../../x', 'é☃')
LENGTHS = (0, 1, 2, 3, 6, 7, 8, 100)
HUGE_LENGTH, HUGE_SHARE = 60_000, 0.02
"""Length of huge arrays and texts, and their share."""
MAX_NESTED = 8
"""Largest length of sequences of messages or texts, exceeded in ``HUGE_SHARE`` of them."""
TYPE_CODES = {'float': 'f', 'double': 'd', 'int8': 'b', 'uint8': 'B', 'int16': 'h', 'uint16': 'H'}
TYPE_CODES |= {'int32': 'i', 'uint32': 'I', 'int64': 'q', 'uint64': 'Q'}
"""``array`` type codes of the numeric types of the interface language."""


class RandomMessages:
    """Source of random messages, determined by ``rng``."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def draw(self, kind: type) -> Any:
        """Return a message of class ``kind`` with random values in every field."""
        msg = kind()
        for name, slot in _slots(msg):
            setattr(msg, name, self._value(slot))
        return msg

    def mutate(self, msg: Any, times: int = 1) -> Any:
        """Return a copy of ``msg`` with ``times`` of its values, at any depth, made random."""
        msg = deepcopy(msg)
        for _ in range(times):
            self._mutate_in_place(msg)
        return msg

    def _mutate_in_place(self, msg: Any) -> None:
        slots = _slots(msg)
        if not slots:
            return
        name, slot = slots[int(self._rng.integers(len(slots)))]
        value, goes_deep = getattr(msg, name), self._rng.random() < 0.8
        if goes_deep and isinstance(slot, NamespacedType):
            self._mutate_in_place(value)
        elif goes_deep and isinstance(slot, AbstractNestedType) and len(value):
            i = int(self._rng.integers(len(value)))
            if isinstance(slot.value_type, NamespacedType):
                self._mutate_in_place(value[i])
            else:
                value[i] = self._value(slot.value_type)
        else:
            setattr(msg, name, self._value(slot))

    def _value(self, slot: Any) -> Any:
        if isinstance(slot, BasicType):
            return self._number(slot.typename)
        if isinstance(slot, AbstractString):
            is_long = self._rng.random() < HUGE_SHARE
            return 'x' * HUGE_LENGTH if is_long else str(self._rng.choice(TEXTS))
        if isinstance(slot, NamespacedType):
            return self.draw(_class(slot))
        return self._sequence(slot)

    def _sequence(self, slot: Any) -> Any:
        inner, rng = slot.value_type, self._rng
        if isinstance(slot, Array):
            return self._elements(inner, slot.size)
        length = int(rng.choice(LENGTHS))
        if isinstance(inner, BasicType) and rng.random() < HUGE_SHARE:
            length = HUGE_LENGTH
        if not isinstance(inner, BasicType) and rng.random() > HUGE_SHARE:
            length = min(length, MAX_NESTED)
        if isinstance(slot, BoundedSequence):
            length = min(length, slot.maximum_size)
        return self._elements(inner, length)

    def _elements(self, inner: Any, length: int) -> Any:
        if isinstance(inner, BasicType) and inner.typename in TYPE_CODES:
            code = TYPE_CODES[inner.typename]
            return array(code, self._rng.bytes(length * array(code).itemsize))
        return [self._value(inner) for _ in range(length)]

    def _number(self, name: str) -> Any:
        rng = self._rng
        if name == 'boolean':
            return bool(rng.integers(2))
        if name in ('octet', 'char'):
            return bytes([rng.integers(256)]) if name == 'octet' else int(rng.integers(256))
        if name in ('float', 'double'):
            value = float(rng.choice(FLOATS))
            is_too_large = name == 'float' and np.isfinite(value) and abs(value) > 3e38
            return 0.5 if is_too_large else value
        info = np.iinfo(name)
        edges = (info.min, info.max, 0, 1, info.max // 2)
        return int(edges[rng.integers(len(edges))])


def interface_class(name: str) -> type:
    """Return the class of an interface by its name in the graph, like 'sensor_msgs/msg/Image'.

    Also resolves the services of actions, like 'p/action/A_SendGoal'.
    """
    package, folder, name = name.split('/')
    module = importlib.import_module(f'{package}.{folder}')
    if folder != 'action':
        return getattr(module, name)
    action, _, service = name.rpartition('_')
    return getattr(getattr(module, action).Impl, f'{service}Service')


def _slots(msg: Any) -> Sequence[tuple[str, Any]]:
    names = msg.get_fields_and_field_types()
    return list(zip(names, msg.SLOT_TYPES, strict=True))


def _class(slot: NamespacedType) -> type:
    module = importlib.import_module('.'.join(slot.namespaces))
    if hasattr(module, slot.name):
        return getattr(module, slot.name)
    action, _, part = slot.name.rpartition('_')
    return getattr(getattr(module, action), part)
