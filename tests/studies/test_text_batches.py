"""Every text once, no batch too large, padding told from tokens."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence

from steerd.studies.text_batches import TextBatch, TextBatches


def text_batches(
    texts: Sequence[Sequence[int]], rows: int, special_token_ids: Collection[int] = ()
) -> Iterator[TextBatch]:
    batches = TextBatches(texts, special_token_ids=special_token_ids)
    while batches:
        yield batches.take(rows)


def test_every_text_comes_once_in_batches_of_a_size() -> None:
    generator = random.Random()
    texts = [[generator.randrange(50) for _ in range(generator.randint(1, 40))] for _ in range(100)]

    batches = list(text_batches(texts, 60, special_token_ids={3, 7}))

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
    batches = list(text_batches([[1] * 5, [2] * 100, [3] * 5], 20))

    assert [batch.numbers for batch in batches] == [(1,), (0, 2)]
    assert [batch.attention_mask for batch in batches] == [None, None]


def test_texts_of_the_beginning_come_before_those_of_the_end() -> None:
    texts = [[1] * (1 + number % 13) for number in range(320)]

    order = [number for batch in text_batches(texts, 30) for number in batch.numbers]

    assert max(abs(place - number) for place, number in enumerate(order)) < 32


def test_what_is_put_back_comes_again_with_as_many_others_as_then_fit() -> None:
    generator = random.Random()
    texts = [[1] * generator.randint(1, 40) for _ in range(100)]
    batches, numbers = TextBatches(texts), list[int]()

    while batches:
        batches.put_back(batches.take(generator.randint(1, 400)))
        batch = batches.take(rows := generator.randint(1, 400))
        assert batch.input_ids.numel() <= max(rows, 40)
        numbers += batch.numbers

    assert sorted(numbers) == list(range(100))
