"""Which rows of a step belong to a request, and which of them are reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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


def reported_rows(span: RowSpan, prompt_length: int, include_prompt: bool) -> range:
    """The rows of a span whose readings are sent: all of them, or those that produce a generated token."""
    if include_prompt:
        return span.rows
    first_reported = max(prompt_length - 1 - span.first_position, 0)
    return span.rows[first_reported:]
