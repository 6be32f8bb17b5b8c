"""Cached rows in batches, each row with its token, source and place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sae_train.activations.activation_cache import ActivationCache, kept_rows
from sae_train.activations.activation_scale import ActivationScale
from sae_train.activations.shard import CacheError, Shard, open_shard
from steerd.host.hook_point import HookPoint

ROWS_A_SHARD = 1 << 32  # a place is shard * this + row, a sequence shard * this + block

_BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class RowSource:
    """Cached rows of one hook point that features are observed on; shards count from 0 in this order."""

    shards: Sequence[Path]
    hook_point: HookPoint
    scale: ActivationScale

    @classmethod
    def of_cache(
        cls, cache: ActivationCache, hook_point: HookPoint, scale: ActivationScale, *, tokens: int
    ) -> RowSource:
        """Take shards with about `tokens` kept rows, evenly spread over what is cached.

        They are of the training split, or of the held-out one where no training row was kept. Raises
        CacheError when there is neither.
        """
        for split in ("train", "held_out"):
            paths = cache.shard_paths(split, (hook_point,))
            if paths:
                share = min(1.0, tokens / max(1, sum(map(kept_rows, paths))))
                return cls(shards=spread(paths, share), hook_point=hook_point, scale=scale)
        raise CacheError(f"{cache.folder}: holds no activations of {hook_point}")

    @property
    def rows(self) -> int:
        """How many kept rows there are, outliers among them."""
        return sum(map(kept_rows, self.shards))

    def source_names(self) -> list[str]:
        """Return the sources of the sequences, each once, sorted."""
        return sorted({source for path in self.shards for source in open_shard(path).sources})


@dataclass(frozen=True, slots=True)
class ObservedRows:
    """What is known of a batch of rows, every array [rows]."""

    token_ids: NDArray[np.int64]
    sources: NDArray[np.int64]
    """Index of each row's source."""
    places: NDArray[np.int64]
    """Numbers that find the rows again."""
    sequences: NDArray[np.int64]
    """Numbers that tell apart the sequences that the rows belong to."""


class ActiveEntries(NamedTuple):
    """The pairs of a row and a feature that is active on it, every array [entries]."""

    features: NDArray[np.int64]
    values: NDArray[np.float32]
    token_ids: NDArray[np.int64]
    sources: NDArray[np.int64]
    places: NDArray[np.int64]
    sequences: NDArray[np.int64]


def active_entries(feature_acts: Tensor, observed: ObservedRows) -> ActiveEntries:
    """Return the active entries of a batch's activations [rows, d_sae], row after row."""
    acts = feature_acts.numpy()
    rows, features = np.nonzero(acts)
    return ActiveEntries(
        features=features,
        values=acts[rows, features],
        token_ids=observed.token_ids[rows],
        sources=observed.sources[rows],
        places=observed.places[rows],
        sequences=observed.sequences[rows],
    )


def observed_rows(source: RowSource, names: Sequence[str]) -> Iterator[tuple[Tensor, ObservedRows]]:
    """Yield the kept inlier rows [rows, d_model] with what is known of them, a few thousand at once.

    A row's source is its index in `names`.
    """
    for number, path in enumerate(source.shards):
        yield from _of_one_shard(open_shard(path), number, source, names)


def _of_one_shard(
    shard: Shard, number: int, source: RowSource, names: Sequence[str]
) -> Iterator[tuple[Tensor, ObservedRows]]:
    blocks = shard.row_blocks()
    row_sources = np.array([names.index(name) for name in shard.sources])[blocks]
    kept = np.flatnonzero(shard.keep)
    for start in range(0, len(kept), _BATCH_ROWS):
        rows = kept[start : start + _BATCH_ROWS]
        resid = shard.read(source.hook_point, rows)
        inlier = source.scale.is_inlier(resid)
        rows = rows[inlier.numpy()]
        yield (
            resid[inlier],
            ObservedRows(
                token_ids=shard.token_ids[rows].astype(np.int64),
                sources=row_sources[rows],
                places=rows + number * ROWS_A_SHARD,
                sequences=blocks[rows] + number * ROWS_A_SHARD,
            ),
        )


def spread(paths: Sequence[Path], share: float) -> list[Path]:
    """A share of the paths, evenly spaced; of any at least the first."""
    return [path for i, path in enumerate(paths) if math.ceil((i + 1) * share) > math.ceil(i * share)]
