"""The rows of a step whose next token is given: which they are, and how likely that token was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steerd.engine.request import GenerationRequest
from steerd.steering.row_span import RowSpan, reported_rows

_ROWS_AT_ONCE = 64  # so that a long text needs no second copy of all its logits


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """The rows of a span that are scored, at positions from `first_position`, and the ids after them."""

    request_id: str
    rows: range
    first_position: int
    token_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Scores:
    """How likely the tokens from a position on were: natural-log probabilities, and which were likeliest."""

    first_position: int
    logprobs: tuple[float, ...]
    likeliest: tuple[bool, ...]


def scored_rows(span: RowSpan, request: GenerationRequest) -> ScoredRows | None:
    """The rows of a span that a token of the request's continuation follows; None when there is none."""
    if not request.continuation:
        return None
    rows = reported_rows(span, len(request.prompt_ids), include_prompt=False)
    first_position = span.first_position + rows.start - span.first_row
    first = first_position + 1 - len(request.prompt_ids)
    token_ids = request.continuation[first : first + len(rows)]
    return ScoredRows(span.request_id, rows, first_position, token_ids)


def score(logits: Tensor, parts: Sequence[ScoredRows]) -> Iterator[tuple[str, Scores]]:
    """By request, the scores of its rows; logits [rows, vocab] float32 of all parts in their order.

    Each score is at the position of its token, one after its row's.
    """
    token_ids = torch.tensor([id_ for part in parts for id_ in part.token_ids], device=logits.device)
    logprobs, likeliest = _log_probabilities(logits, token_ids)
    first = 0
    for part in parts:
        here = slice(first, first + len(part.rows))
        yield part.request_id, Scores(part.first_position + 1, tuple(logprobs[here]), tuple(likeliest[here]))
        first = here.stop


def _log_probabilities(logits: Tensor, token_ids: Tensor) -> tuple[list[float], list[bool]]:
    logprobs: list[float] = []
    likeliest: list[bool] = []
    for first in range(0, len(token_ids), _ROWS_AT_ONCE):
        rows, ids = logits[first : first + _ROWS_AT_ONCE], token_ids[first : first + _ROWS_AT_ONCE]
        chosen = rows.gather(1, ids.unsqueeze(1)).squeeze(1)
        logprobs += (chosen - rows.logsumexp(dim=-1)).tolist()
        likeliest += (rows.argmax(dim=-1) == ids).tolist()
    return logprobs, likeliest
