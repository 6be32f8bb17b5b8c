"""The rows of a request that an intervention is for, and how strong it is over them, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """Which rows of a request are edited: those of the prompt, those of generated tokens, or both."""

    ALL = "all"
    PROMPT = "prompt"
    GENERATED = "generated"


@dataclass(frozen=True, slots=True)
class PositionRange:
    """Positions from `start` to before `end`; negative ones count from the prompt's end, None is no end."""

    start: int
    end: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """The rows of a request that an intervention touches: all that is given must hold of a row.

    Special tokens (chat markers) only when asked. `first_n` are the phase's first rows and `last_n` the
    prompt's last ones, 0 for no bound. Empty tuples say nothing. Generated tokens are the assistant's.
    """

    phase: Phase = Phase.ALL
    include_special_tokens: bool = False
    first_n: int = 0
    last_n: int = 0
    positions: tuple[PositionRange, ...] = ()
    token_ids: frozenset[int] = frozenset()
    excluded_token_ids: frozenset[int] = frozenset()
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How strong an intervention is on row t of its phase, 0 the first: full strength when all is 0.

    Nothing while t < start_after; then 1/ramp, 2/ramp .. 1 over `ramp` rows; then halved every `half_life`
    rows, 0 for never. `at_most` rows are edited, 0 for no bound: rows of the scope with a strength above 0
    where the condition holds.
    """

    start_after: int = 0
    ramp: int = 0
    half_life: float = 0.0
    at_most: int = 0


@dataclass(frozen=True, slots=True)
class RoleSpan:
    """The prompt's positions [start, end) that hold the content of one message of a role."""

    role: str
    start: int
    end: int
