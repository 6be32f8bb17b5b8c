"""Which rows of a request are reported, over random spans."""

from __future__ import annotations

import random

import pytest

from steerd.steering.row_span import RowSpan, reported_rows


def random_chunks(chance: random.Random, token_ids: list[int]) -> list[RowSpan]:
    """A request's tokens as the spans of consecutive steps, at any row of the step."""
    spans, position = [], 0
    while position < len(token_ids):
        length = chance.randint(1, 5)
        chunk = token_ids[position : position + length]
        spans.append(RowSpan("request", chance.randrange(20), position, chunk))
        position += len(chunk)
    return spans


@pytest.mark.parametrize("include_prompt", [False, True])
def test_reported_rows_are_the_prompt_if_asked_and_every_row_that_yields_a_token(
    include_prompt: bool,
) -> None:
    chance = random.Random(include_prompt)
    for _ in range(300):
        token_ids = [0] * chance.randint(1, 16)
        prompt_length = chance.randint(1, len(token_ids))
        positions = [
            row - span.first_row + span.first_position
            for span in random_chunks(chance, token_ids)
            for row in reported_rows(span, prompt_length, include_prompt)
        ]

        assert positions == list(range(0 if include_prompt else prompt_length - 1, len(token_ids)))
