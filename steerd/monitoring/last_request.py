"""The tokens of the request that ended last, with what the watched features did on each of them.

It is text of a client: kept only where the operator asks for it, of one request, until the next one ends.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steerd.engine.events import FailedEvent, FinishedEvent, Floats, Ints, LastEvent, StepReport
from steerd.engine.request import GenerationRequest
from steerd.engine.watch_list import WatchList
from steerd.monitoring.request_tallies import RequestFeatures, row_owners

MAX_ENTRIES = 1_000_000  # pairs of token and feature kept of all running requests: at most some 10 MB
MAX_TOKENS = 2000  # that are told of: the last ones
_MAX_RUNNING = 1024  # more than run: those beyond are of ends that were dropped

Texts = Callable[[Sequence[int]], list[str]]


@dataclass(frozen=True, slots=True)
class _Entries:
    """What was active on some tokens: three arrays [entries]; features are positions in the watch list."""

    positions: NDArray[np.int32]
    features: NDArray[np.uint16]
    values: Floats


@dataclass(slots=True)
class _Running:
    """What is known of a request that runs; `lost` entries found no room."""

    generated: list[int] = field(default_factory=list)
    parts: list[_Entries] = field(default_factory=list)
    entries: int = 0
    lost: int = 0


@dataclass(slots=True)
class _Ended:
    """A request that ran to its end: what is told of it, the ids of its last tokens and its readings.

    `first` is the position of the first of these tokens; `texts` are made when somebody asks.
    """

    facts: dict[str, Any]
    first: int
    ids: list[int]
    watch: WatchList
    shares: NDArray[np.float64]
    entries: _Entries
    texts: list[str] | None = None


class LastRequest:
    """A part of the monitor. `told` may be asked from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: Texts = lambda ids: [""] * len(ids)
        self._watch = WatchList()
        self._running: OrderedDict[str, _Running] = OrderedDict()
        self._entries = 0
        self._ended: _Ended | None = None
        self.number = 0  # of the last one; grows with each

    def read_tokens(self, texts: Texts) -> None:
        """Have this tell the text of each of a request's token ids."""
        self._texts = texts

    def step_finished(self, report: StepReport) -> None:
        if report.watched.watch is not self._watch:
            self._watch = report.watched.watch  # positions in the former list mean nothing any more
            self._forget_readings()
        for request_id in filter(None, report.request_ids):
            running = self._of(request_id)
            if request_id in report.new_tokens:
                running.generated.append(report.new_tokens[request_id])
        active = report.watched.active
        owners = row_owners(active.rows, report.first_rows)
        positions = report.first_positions[owners] + active.rows - report.first_rows[owners]
        self._share_out(report, owners, _entries(positions, active.features, active.values))

    def first_token(self, request: GenerationRequest, seconds: float) -> None:
        """Nothing: steps tell of tokens."""

    def request_finished(
        self,
        request: GenerationRequest,
        event: LastEvent,
        features: RequestFeatures | None,  # noqa: ARG002  # of each token more is kept here
    ) -> None:
        running = self._running.pop(request.id, None)
        if running is None:
            return
        self._entries -= running.entries
        if not isinstance(event, FailedEvent):
            ended = self._end(request, event, running)
            with self._lock:
                self._ended, self.number = ended, self.number + 1

    def told(self, feature: int | None) -> dict[str, Any] | None:
        """The last request, each token shaded by a feature of the list at this position, or by the one that
        is strongest there; None before the first has ended.

        A shade is the activation as a share of the feature's recorded maximum, or of its largest in this
        request where none is recorded.
        """
        with self._lock:
            ended, number = self._ended, self.number
        if ended is None:
            return None
        if ended.texts is None:
            ended.texts = self._texts(ended.ids)
        tokens: list[list[Any]] = [[text] for text in ended.texts]
        _shade(tokens, ended, feature)
        names = [[one.sae, str(one.index), one.alias] for one in ended.watch.features]
        return ended.facts | {"number": number, "first": ended.first, "features": names, "tokens": tokens}

    def _share_out(self, report: StepReport, owners: Ints, entries: _Entries) -> None:
        """Give each request its part of a step's entries, which are in the order of rows."""
        bounds = np.searchsorted(owners, np.arange(len(report.request_ids) + 1))
        for number, request_id in enumerate(report.request_ids):
            start, end = int(bounds[number]), int(bounds[number + 1])
            if not request_id or start == end:
                continue
            running = self._of(request_id)
            if self._entries + end - start > MAX_ENTRIES:
                running.lost += end - start
            else:
                running.parts.append(_where(entries, slice(start, end)))
                running.entries += end - start
                self._entries += end - start

    def _of(self, request_id: str) -> _Running:
        if request_id not in self._running:
            if len(self._running) == _MAX_RUNNING:
                self._entries -= self._running.popitem(last=False)[1].entries
            self._running[request_id] = _Running()
        return self._running[request_id]

    def _forget_readings(self) -> None:
        for running in self._running.values():
            running.lost += running.entries
            running.parts, running.entries = [], 0
        self._entries = 0

    def _end(self, request: GenerationRequest, event: FinishedEvent, running: _Running) -> _Ended:
        entries = _joined(running.parts)
        ids = [*request.prompt_ids, *(request.continuation or running.generated)]
        facts = {
            "request_id": request.id,
            "rpc": "Score" if request.continuation else "Generate",
            "outcome": event.reason.value,
            "at": round(time.time(), 2),
            "prompt_tokens": len(request.prompt_ids),
            "cached_prompt_tokens": event.cached_prompt_tokens,
            "complete": not running.lost,
        }
        first = max(len(ids) - MAX_TOKENS, 0)
        return _Ended(facts, first, ids[first:], self._watch, _shares(self._watch, entries), entries)


def _shade(tokens: list[list[Any]], ended: _Ended, feature: int | None) -> None:
    """Put feature, activation and shade behind the text of each token on which there is something."""
    entries = ended.entries
    if feature is not None:
        entries = _where(entries, entries.features == feature)
    order = np.lexsort((ended.shares[entries.features] * entries.values, entries.positions))
    for entry in order.tolist():  # of several on one token the last and strongest stays
        place = int(entries.positions[entry]) - ended.first
        if 0 <= place < len(tokens):
            found, value = int(entries.features[entry]), float(entries.values[entry])
            share = min(float(ended.shares[found]) * value, 1.0)
            tokens[place][1:] = [found, round(value, 4), round(share, 3)]


def _entries(positions: Ints, features: Ints, values: Floats) -> _Entries:
    return _Entries(positions.astype(np.int32), features.astype(np.uint16), values)


def _where(entries: _Entries, chosen: slice | NDArray[np.bool_]) -> _Entries:
    return _Entries(entries.positions[chosen], entries.features[chosen], entries.values[chosen])


def _joined(parts: Sequence[_Entries]) -> _Entries:
    if not parts:
        return _Entries(np.zeros(0, np.int32), np.zeros(0, np.uint16), np.zeros(0, np.float32))
    return _Entries(
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.values for part in parts]),
    )


def _shares(watch: WatchList, entries: _Entries) -> NDArray[np.float64]:
    """By feature, what an activation is multiplied by to become a shade."""
    largest = np.zeros(len(watch))
    np.maximum.at(largest, entries.features, entries.values)
    whole = np.where(watch.max_activation > 0, watch.max_activation, largest)
    return np.divide(1.0, whole, out=np.zeros(len(watch)), where=whole > 0)
