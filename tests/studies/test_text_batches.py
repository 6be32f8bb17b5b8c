"""Every text once, no batch too large, padding told from tokens."""

from __future__ import annotations

import random

from steerd.studies.text_batches import text_batches


def test_every_text_comes_once_in_batches_of_a_size() -> None:
    generator = random.Random()
    texts = [[generator.randrange(50) for _ in range(generator.randint(1, 40))] for _ in range(100)]

    batches = list(text_batches(texts, slice_tokens=60, special_token_ids={3, 7}))

    assert sorted(number for batch in batches for number in batch.numbers) == list(range(100))
    for batch in batches:
        assert batch.input_ids.numel() <= 60
        for row, number in enumerate(batch.numbers):
            text, length = texts[number], batch.lengths[row]
            assert batch.input_ids[row, :length].tolist() == text
            assert batch.is_token[row].tolist() == [
                place < length for place in range(batch.input_ids.shape[1])
            ]
            ordinary = [place > 0 and token not in (3, 7) for place, token in enumerate(text)]
            assert batch.is_ordinary[row, :length].tolist() == ordinary
            assert not batch.is_ordinary[row, length:].any()
    assert len(batches) <= sum(map(len, texts)) / 60 * 2, "there is little padding"


def test_a_long_text_runs_alone_and_without_a_mask() -> None:
    batches = list(text_batches([[1] * 5, [2] * 100, [3] * 5], slice_tokens=20))

    assert [batch.numbers for batch in batches] == [(1,), (0, 2)]
    assert [batch.attention_mask for batch in batches] == [None, None]


def test_texts_of_the_beginning_come_before_those_of_the_end() -> None:
    texts = [[1] * (1 + number % 13) for number in range(320)]

    order = [number for batch in text_batches(texts, slice_tokens=30) for number in batch.numbers]

    assert max(abs(place - number) for place, number in enumerate(order)) < 32
