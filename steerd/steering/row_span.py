"""Which rows of a step belong to a request, and which of them a scope or a reading is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerd.steering.scope import Phase, Scope


@dataclass(frozen=True, slots=True)
class RowSpan:
    """The consecutive rows of one request in a step: one a token, at positions from `first_position`."""

    request_id: str
    first_row: int
    first_position: int
    token_ids: Sequence[int]

    @property
    def rows(self) -> range:
        """The step's rows that are its own."""
        return range(self.first_row, self.first_row + len(self.token_ids))


def rows_in_scope(scope: Scope, span: RowSpan, prompt_length: int, special: frozenset[int]) -> list[int]:
    """The rows of a span that the scope covers; `special` are the ids of special tokens."""
    num_prompt = min(max(prompt_length - span.first_position, 0), len(span.token_ids))
    covered = span.rows
    if scope.phase is Phase.PROMPT:
        covered = covered[:num_prompt]
    elif scope.phase is Phase.GENERATED:
        covered = covered[num_prompt:]
    if scope.include_special_tokens:
        return list(covered)
    return [row for row in covered if span.token_ids[row - span.first_row] not in special]


def reported_rows(span: RowSpan, prompt_length: int, include_prompt: bool) -> range:
    """The rows of a span whose readings are sent: all of them, or those that produce a generated token."""
    if include_prompt:
        return span.rows
    first_reported = max(prompt_length - 1 - span.first_position, 0)
    return span.rows[first_reported:]
