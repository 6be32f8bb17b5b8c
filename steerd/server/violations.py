"""Collects every broken rule of a request, so that a client learns them all from one answer."""

from __future__ import annotations

import math
from collections.abc import Sized
from typing import Any

from steerd.errors import FieldViolation, Forbidden, InvalidRequest, NotFound

_MAX_SHOWN_CHARACTERS = 60


class Violations:
    """Broken rules so far. A rule says what must hold; field, bound and value go into its sentence."""

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []
        self._not_found: list[NotFound] = []
        self._forbidden: list[Forbidden] = []

    def add(self, field: str, description: str) -> None:
        self._violations.append(FieldViolation(field, description))

    def add_all(self, error: InvalidRequest) -> None:
        self._violations.extend(error.violations)

    def add_not_found(self, error: NotFound) -> None:
        self._not_found.append(error)

    def add_forbidden(self, error: Forbidden) -> None:
        self._forbidden.append(error)

    def must(self, holds: bool, field: str, bound: str, value: object) -> bool:
        """Record `must be BOUND; got VALUE` unless the rule holds; returns whether it holds."""
        if not holds:
            self.add(field, f"must be {bound}; got {shown(value)}")
        return holds

    def must_be_between(self, field: str, value: float, low: float, high: float) -> bool:
        """Bounds are inclusive; NaN and infinities are outside any."""
        return self.must(low <= value <= high, field, f"between {_number(low)} and {_number(high)}", value)

    def must_be_at_most(self, field: str, count: int, limit: int, what: str) -> bool:
        """A count of things against a limit."""
        return self.must(count <= limit, field, f"at most {limit} {what}", count)

    def must_not_be_empty(self, field: str, value: Sized) -> bool:
        """Text or a list with something in it."""
        if not value:
            self.add(field, "must not be empty")
        return bool(value)

    def must_be_text(self, field: str, text: str) -> bool:
        """Text that no tokenizer, log or terminal chokes on: no NUL character."""
        return self.must("\0" not in text, field, "free of NUL characters", text)

    def raise_if_any(self) -> None:
        """Raise InvalidRequest with every broken rule, or else NotFound with the first unknown name, or else
        Forbidden with the first refusal of a policy."""
        refusals: list[NotFound | Forbidden] = [*self._not_found, *self._forbidden]
        if self._violations:
            others = [FieldViolation(error.field, str(error)) for error in refusals]
            raise InvalidRequest([*self._violations, *others])
        if refusals:
            raise refusals[0]


def shown(value: object) -> str:
    """A value as a message shows it: quoted if text, and short."""
    if isinstance(value, float) and math.isfinite(value):
        return _number(value)
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}..."


def _number(value: Any) -> str:
    return f"{value:.7g}"
