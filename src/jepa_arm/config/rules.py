"""Rules for the values of configuration fields, stated in their annotations."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, NamedTuple

from jepa_arm.core.errors import JepaArmError


class ConfigError(JepaArmError, ValueError):
    """An unusable configuration; the message says what to change and where."""


class Rule(NamedTuple):
    """Condition on a field's value, or on each value of a tuple, given in its ``Annotated``.

    Attributes:
        expected: description of the allowed values.
        allows: predicate that is true for an allowed value; it must be false for NaN.
    """

    expected: str
    allows: Callable[[Any], bool]


def one_of(*names: str) -> Rule:
    """Return the rule that a value is one of ``names``."""
    return Rule(f'one of {", ".join(names)}', names.__contains__)


def at_least(low: int) -> Rule:
    """Return the rule that a value is ``low`` or larger."""
    return Rule(f'>= {low}', lambda value: value >= low)


def between(low: float, high: float, unit: str = '') -> Rule:
    """Return the rule that a value, in ``unit``, is in the closed range ``low`` to ``high``."""
    return Rule(f'{low:g} to {high:g} {unit}'.rstrip(), lambda value: low <= value <= high)


FINITE = Rule('finite', math.isfinite)
POSITIVE = Rule('positive and finite', lambda value: 0.0 < value < math.inf)
Count = Annotated[int, at_least(1)]
Positive = Annotated[float, POSITIVE]
NonNegative = Annotated[float, Rule('finite and >= 0', lambda value: 0.0 <= value < math.inf)]
Share = Annotated[float, Rule('a share in [0, 1]', lambda value: 0.0 <= value <= 1.0)]
Fraction = Annotated[float, Rule('a fraction in (0, 1]', lambda value: 0.0 < value <= 1.0)]
OPEN_SHARE = Rule('a share in (0, 1)', lambda value: 0.0 < value < 1.0)
YAW_TOLERANCE = Rule(
    'more than 0 and less than 45 (a cube looks the same after a quarter turn)',
    lambda value: 0.0 < value < 45.0,
)


class Checked:
    """Base of configuration dataclasses: refuses values that the fields' rules forbid."""

    def __post_init__(self) -> None:
        """Check every field that has a rule; None always passes.

        Raises:
            ConfigError: a value is not allowed.
        """
        for name, rule in _rules(type(self)).items():
            value = getattr(self, name)
            values = value if isinstance(value, tuple) else (value,)
            is_allowed = value is None or all(map(rule.allows, values))
            require(is_allowed, name, rule.expected, value)


def require(holds: bool, field: str, expected: str, got: Any) -> None:
    """Raise a ConfigError that names ``field`` and what was expected, unless ``holds``."""
    if not holds:
        raise ConfigError(f'{field}: expected {expected}, got {got!r}')


@cache
def _rules(kind: type) -> dict[str, Rule]:
    hints = typing.get_type_hints(kind, include_extras=True)
    rules = {name: getattr(hint, '__metadata__', (None,))[0] for name, hint in hints.items()}
    return {name: rule for name, rule in rules.items() if isinstance(rule, Rule)}
