"""Which rows a scope covers, against the definition taken word by word, over random spans."""

from __future__ import annotations

import random

import pytest

from steerd.steering.row_span import RowSpan, reported_rows, rows_in_scope
from steerd.steering.scope import Phase, Scope

SPECIAL = frozenset({7, 9})


def covered(scope: Scope, position: int, token_id: int, prompt_length: int) -> bool:
    """The definition, for one token."""
    if token_id in SPECIAL and not scope.include_special_tokens:
        return False
    if scope.phase is Phase.PROMPT:
        return position < prompt_length
    if scope.phase is Phase.GENERATED:
        return position >= prompt_length
    return True


def random_chunks(chance: random.Random, token_ids: list[int]) -> list[RowSpan]:
    """A request's tokens as the spans of consecutive steps, at any row of the step."""
    spans, position = [], 0
    while position < len(token_ids):
        length = chance.randint(1, 5)
        chunk = token_ids[position : position + length]
        spans.append(RowSpan("request", chance.randrange(20), position, chunk))
        position += len(chunk)
    return spans


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("phase", Phase)
def test_rows_in_scope_are_those_of_the_definition(phase: Phase, special: bool) -> None:
    scope = Scope(phase=phase, include_special_tokens=special)
    chance = random.Random(f"{phase} {special}")
    for _ in range(300):
        token_ids = [chance.randrange(10) for _ in range(chance.randint(1, 16))]
        prompt_length = chance.randint(1, len(token_ids))
        found = []
        for span in random_chunks(chance, token_ids):
            rows = rows_in_scope(scope, span, prompt_length, SPECIAL)
            assert set(rows) <= set(span.rows)
            found += [row - span.first_row + span.first_position for row in rows]

        assert found == [
            position
            for position, token_id in enumerate(token_ids)
            if covered(scope, position, token_id, prompt_length)
        ]


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


def test_default_scope_leaves_out_special_tokens_only() -> None:
    span = RowSpan("request", first_row=3, first_position=0, token_ids=[7, 1, 2, 9, 3])

    assert rows_in_scope(Scope(), span, 4, SPECIAL) == [4, 5, 7]
