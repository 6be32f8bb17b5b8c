"""Places in the cache read back as contexts: the tokens around them and the feature's activation at each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sae_train.activations.shard import Shard, open_shard
from sae_train.features.observed_rows import ROWS_A_SHARD, RowSource
from steerd.sae.autoencoder import SparseAutoencoder

_CONTEXTS_AT_ONCE = 64
_SAME_TOKENS = 8  # contexts that agree in so many tokens, up to the active one, tell a reader the same


class Window(NamedTuple):
    """How many tokens a context shows before and after its place."""

    before: int
    after: int


class FeaturePlace(NamedTuple):
    """A place where a feature is active."""

    feature: int
    place: int


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """Consecutive tokens of one sequence and a feature's activation at each, both [tokens]."""

    token_ids: NDArray[np.int64]
    values: NDArray[np.float32]
    peak: int
    """Which of the tokens is the place that was asked for."""


class CachedTexts:
    """The sequences that cached rows belong to, by place."""

    def __init__(self, source: RowSource) -> None:
        self.source = source
        self._shards: dict[int, Shard] = {}
        self._token_ids: dict[int, NDArray[np.int32]] = {}

    def shard(self, number: int) -> Shard:
        """Return one of the source's shards."""
        if number not in self._shards:
            self._shards[number] = open_shard(self.source.shards[number])
        return self._shards[number]

    def rows(self, place: int, window: Window) -> NDArray[np.int64]:
        """Return the rows of the place's shard that the window shows; none of another sequence."""
        number, row = divmod(place, ROWS_A_SHARD)
        starts = self.shard(number).starts
        block = int(np.searchsorted(starts, row, side="right")) - 1
        first = max(int(starts[block]), row - window.before)
        return np.arange(first, min(int(starts[block + 1]), row + window.after + 1))

    def token_ids(self, place: int, window: Window) -> NDArray[np.int64]:
        """Return the tokens that the window shows."""
        number = place // ROWS_A_SHARD
        if number not in self._token_ids:
            self._token_ids[number] = np.asarray(self.shard(number).token_ids).copy()
        return self._token_ids[number][self.rows(place, window)].astype(np.int64)

    def distinct(self, places: Iterable[int], count: int) -> list[int]:
        """Return up to `count` places in the order given, those that repeat an earlier context at the end."""
        seen: set[bytes] = set()
        fresh: list[int] = []
        repeated: list[int] = []
        for place in places:
            text = self.token_ids(place, Window(before=_SAME_TOKENS - 1, after=0)).tobytes()
            (repeated if text in seen else fresh).append(place)
            seen.add(text)
            if len(fresh) == count:
                break
        return [*fresh, *repeated][:count]


def read_contexts(
    sae: SparseAutoencoder, texts: CachedTexts, asked: Sequence[FeaturePlace], window: Window
) -> list[Context]:
    """Return the contexts of the places, in the order given; rows that no SAE is trained on count as zero."""
    found: list[Context | None] = [None] * len(asked)
    order = sorted(range(len(asked)), key=lambda i: asked[i].place)
    for start in range(0, len(order), _CONTEXTS_AT_ONCE):
        chunk = order[start : start + _CONTEXTS_AT_ONCE]
        for number in sorted({asked[i].place // ROWS_A_SHARD for i in chunk}):
            part = [i for i in chunk if asked[i].place // ROWS_A_SHARD == number]
            contexts = _of_one_shard(sae, texts, [asked[i] for i in part], window)
            for i, context in zip(part, contexts, strict=True):
                found[i] = context
    return [context for context in found if context is not None]


def _of_one_shard(
    sae: SparseAutoencoder, texts: CachedTexts, asked: Sequence[FeaturePlace], window: Window
) -> list[Context]:
    shard = texts.shard(asked[0].place // ROWS_A_SHARD)
    windows = [texts.rows(place, window) for _, place in asked]
    rows = np.unique(np.concatenate(windows))
    features = sorted({feature for feature, _ in asked})
    resid = shard.read(texts.source.hook_point, rows)
    counts = texts.source.scale.is_inlier(resid) & torch.from_numpy(shard.keep[rows])
    acts = sae.feature_acts(resid, features) * counts.unsqueeze(1)  # [rows, features]
    values = acts.numpy()
    return [
        Context(
            token_ids=shard.token_ids[shown].astype(np.int64),
            values=values[np.searchsorted(rows, shown), features.index(feature)],
            peak=int(place % ROWS_A_SHARD - shown[0]),
        )
        for (feature, place), shown in zip(asked, windows, strict=True)
    ]
