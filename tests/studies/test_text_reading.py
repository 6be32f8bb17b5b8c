"""Texts read in slices of any size, some of them given up, are read as if each were alone."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from steerd.engine.study import Progress, SliceRoom
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.studies.encoded_tokens import EncodedTokens, EncodeWish
from steerd.studies.encoding import Encoding
from steerd.studies.text_batches import TextBatch
from steerd.studies.text_reading import read_texts
from tests.engine.recorder import submit
from tests.engine.requests import SHORT, greedy_request
from tests.engine.serving import alone, serving, tiny_saes
from tests.engine.studies import begin
from tests.tiny_hosts import make_tiny_host

TOLERANCE = 1e-5  # of padded batches against single texts
POINT = HookPoint(1, "resid_post")
SMALL = 70  # ids of a slice beside requests


def random_texts(count: int) -> tuple[tuple[int, ...], ...]:
    generator = random.Random()
    return tuple(
        tuple(generator.randrange(259) for _ in range(generator.randint(1, 60))) for _ in range(count)
    )


def random_room() -> SliceRoom | None:
    """Any size; a third of them end at some layer, or would."""
    if random.random() < 0.3:
        return None
    ends_at = random.choice([0, 1, 99, 99, 99, 99])
    asked = iter(range(1000))
    return SliceRoom(random.randint(1, 500), lambda: next(asked) >= ends_at)


def sent_rooms(slices: Iterator[Progress]) -> Iterator[Progress]:
    """All progress of a study that gets random rooms."""
    assert isinstance(slices, Generator)
    try:
        yield next(slices)
        while True:
            yield slices.send(random_room())
    except StopIteration:
        return


def test_each_text_is_read_once_whatever_the_rooms() -> None:
    host, texts, found = make_tiny_host(), random_texts(60), dict[int, Tensor]()

    def read(batch: TextBatch) -> Progress:
        rows = host.activations(batch.input_ids, batch.attention_mask, [POINT])[POINT]
        for row, (number, length) in enumerate(zip(batch.numbers, batch.lengths, strict=True)):
            assert number not in found
            found[number] = rows[row, :length]
        return Progress(len(found), len(texts), "texts", batch.numbers)

    told = list(sent_rooms(read_texts(host, texts, read, slice_tokens=SMALL)))

    parts = [number for progress in told for number in progress.part or ()]
    assert sorted(parts) == list(range(60)), "no part is told twice"
    assert [p.done for p in told] == sorted(p.done for p in told)
    for number, text in enumerate(texts):
        alone = host.activations(torch.tensor([text]), None, [POINT])[POINT][0]
        torch.testing.assert_close(found[number], alone, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_slice_without_room_cannot_be_given_up() -> None:
    host, sizes = make_tiny_host(), list[int]()

    def read(batch: TextBatch) -> Progress:
        sizes.append(batch.input_ids.numel())
        return Progress(len(sizes), 9, "texts")

    slices = read_texts(host, [[1] * 30] * 40, read, slice_tokens=SMALL)
    next(slices)
    slices.send(SliceRoom(200, lambda: False))
    next(slices)

    assert sizes == [60, 180, 60]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_codes_are_the_same_whatever_the_slices(kind: str) -> None:
    host = make_tiny_host(kind)
    saes, texts = tiny_saes(host), random_texts(50)
    wish = EncodeWish(texts, watch=(), top_k=0, full_codes=True, saes=("sae-0", "sae-1"))

    def dense(slices: Iterator[Progress]) -> list[np.ndarray]:
        parts: list[EncodedTokens] = [part for progress in slices for part in progress.part or ()]
        parts.sort(key=lambda part: part.text)
        assert [part.text for part in parts] == list(range(50))
        return [dense_codes(part, number) for part in parts for number in (0, 1)]

    def dense_codes(part: EncodedTokens, number: int) -> np.ndarray:
        codes = part.codes[number]
        found = np.zeros((len(part.token_ids), saes.get(codes.sae).sae.d_sae))
        for position, (features, values) in enumerate(codes.by_token()):
            found[position, features] = values
        return found

    with torch.inference_mode():
        single = dense(Encoding(host, saes, wish, slice_tokens=1).run())
        for slices in (
            Encoding(host, saes, wish, slice_tokens=4000).run(),
            sent_rooms(Encoding(host, saes, wish, slice_tokens=SMALL).run()),
        ):
            for ours, expected in zip(dense(slices), single, strict=True):
                np.testing.assert_allclose(ours, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_request_that_comes_in_the_middle_of_a_large_slice_ends_it() -> None:
    host: HostModel = make_tiny_host()
    texts, saes = tuple((1, *text[1:], *[5] * 30) for text in random_texts(60)), tiny_saes(host)
    wish = EncodeWish(texts, watch=(), top_k=0, full_codes=True, saes=("sae-1",))
    request, large = greedy_request("request", SHORT, 3), 300
    first: list[int] = []  # rows of forwards at the first layer, and at the second one
    second: list[int] = []

    with serving(host=host, study_tokens=SMALL, idle_study_tokens=400) as engine:
        recorders = []

        def come(rows: Tensor) -> None:
            first.append(len(rows))
            if len(rows) > large and not recorders:
                recorders.append(submit(engine, request))

        host.attach(HookPoint(0, "resid_post"), come)
        host.attach(HookPoint(1, "resid_post"), lambda rows: second.append(len(rows)))
        studied = begin(engine, Encoding(host, saes, wish, slice_tokens=SMALL))
        summary = studied.wait()
        (recorder,) = recorders
        recorder.wait()

    given_up = next(rows for rows in first if rows > large)
    place = first.index(given_up)
    assert second[:place] == first[:place]
    assert second[place:] == first[place + 1 :], "that slice alone did not reach the second layer"
    assert recorder.token_ids == alone(make_tiny_host(), request)
    assert summary.complete
    parts = [part.text for event in studied.events[:-1] for part in event.part or ()]
    assert sorted(parts) == list(range(60))
