"""Cached training rows in batches, each row with its token, source and place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.activation_scale import ActivationScale
from sae_train.activations.shard import open_shard

ROWS_A_SHARD = 1 << 32  # a place is shard * this + row, a sequence shard * this + block

_BATCH_ROWS = 4096


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


def observed_shards(cache: ActivationCache, tokens: int) -> list[Path]:
    """Return shards, evenly spread over the training split, that hold about `tokens` kept rows."""
    return spread(cache.shard_paths("train"), min(1.0, tokens / max(1, cache.kept_tokens("train"))))


def source_names(paths: Sequence[Path]) -> list[str]:
    """Return the sources of the shards' sequences, each once, sorted."""
    return sorted({source for path in paths for source in open_shard(path).sources})


def observed_rows(
    path: Path, names: Sequence[str], scale: ActivationScale
) -> Iterator[tuple[Tensor, ObservedRows]]:
    """Yield a shard's kept inlier rows [rows, d_model] with what is known of them, a few thousand at once."""
    shard, number = open_shard(path), shard_number(path)
    blocks = shard.row_blocks()
    row_sources = np.array([names.index(source) for source in shard.sources])[blocks]
    kept = np.flatnonzero(shard.keep)
    for start in range(0, len(kept), _BATCH_ROWS):
        rows = kept[start : start + _BATCH_ROWS]
        resid = shard.read(rows)
        inlier = scale.is_inlier(resid)
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


def shard_number(path: Path) -> int:
    """Return the number in a shard folder's name."""
    return int(path.name.split("-")[-1])
