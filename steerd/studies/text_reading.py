"""Texts read by the host for a study: a batch a slice, large ones while no request is there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from steerd.engine.study import Progress, SliceRoom
from steerd.host.giving_way import GivenUp, giving_way
from steerd.host.host_model import HostModel
from steerd.studies.text_batches import TextBatch, TextBatches


def read_texts(
    host: HostModel,
    texts: Sequence[Sequence[int]],
    read: Callable[[TextBatch], Progress],
    *,
    slice_tokens: int,
    special_token_ids: Collection[int] = (),
) -> Generator[Progress, SliceRoom | None, None]:
    """Have `read` see all texts, in batches of at most `slice_tokens` ids or of the room that is sent.

    `read` runs the host before it notes anything: of a batch that is given up, and comes again, nothing is
    kept.
    """
    batches = TextBatches(texts, special_token_ids=special_token_ids)
    told: Progress | None = None
    room: SliceRoom | None = None
    while batches:
        batch = batches.take(slice_tokens if room is None else room.rows)
        try:
            with _giving_way(host, room):
                told = read(batch)
        except GivenUp:
            batches.put_back(batch)
            assert told is not None  # without room, as the first slice, none is given up
            told = replace(told, part=None)
        room = yield told


def _giving_way(host: HostModel, room: SliceRoom | None) -> AbstractContextManager[None]:
    return nullcontext() if room is None else giving_way(host, room.must_end)
