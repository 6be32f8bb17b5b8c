"""Statistics and notes of every feature, gathered in one pass over the cached training activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sae_train.activations.activation_cache import ActivationCache, Shard, open_shard
from sae_train.activations.activation_scale import ActivationScale
from sae_train.features.feature_notes import (
    characteristic_tokens,
    dominating_sources,
    label,
    promoted_tokens,
    token_text,
)
from sae_train.features.feature_observations import FeatureObservations, ObservedRows
from steerd.host.host_model import HostModel
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.feature_files import FeatureExample, FeatureNote, FeatureStatistics

EXAMPLES = 3
TOKENS_BEFORE = 11
TOKENS_AFTER = 4

_BATCH_ROWS = 4096
_ROWS_A_SHARD = 1 << 32  # places are shard * this + row


def observe(
    sae: SparseAutoencoder,
    cache: ActivationCache,
    scale: ActivationScale,
    *,
    tokens: int,
    vocab_size: int,
    on_tokens: Callable[[int], None],
) -> tuple[FeatureObservations, list[str]]:
    """Encode up to `tokens` kept training rows; return what was seen and the names of the sources."""
    paths = cache.shard_paths("train")
    share = min(1.0, tokens / max(1, cache.kept_tokens("train")))
    paths = spread(paths, share)
    names = sorted({source for path in paths for source in open_shard(path).sources})
    seen = FeatureObservations(sae.d_sae, vocab_size=vocab_size, num_sources=len(names), num_places=EXAMPLES)
    for path in paths:
        for resid, observed in _observed_rows(path, names, scale):
            seen.update(sae.encode(resid), observed)
            on_tokens(len(resid))
    return seen, names


def spread(paths: Sequence[Path], share: float) -> list[Path]:
    """A share of the paths, evenly spaced; of any at least the first."""
    return [path for i, path in enumerate(paths) if math.ceil((i + 1) * share) > math.ceil(i * share)]


def _observed_rows(
    path: Path, source_names: list[str], scale: ActivationScale
) -> Iterator[tuple[Tensor, ObservedRows]]:
    """Yield a shard's kept inlier rows, a few thousand at a time, with what is known of them."""
    shard, number = open_shard(path), int(path.name.split("-")[-1])
    row_sources = np.array([source_names.index(source) for source in shard.sources])[shard.row_blocks()]
    kept = np.flatnonzero(shard.keep)
    for start in range(0, len(kept), _BATCH_ROWS):
        rows = kept[start : start + _BATCH_ROWS]
        resid = shard.read(rows)
        inlier = scale.is_inlier(resid)
        rows = rows[inlier.numpy()]
        yield (
            resid[inlier],
            ObservedRows(
                token_ids=torch.from_numpy(shard.token_ids[rows].astype(np.int64)),
                sources=torch.from_numpy(row_sources[rows]),
                places=torch.from_numpy(rows + number * _ROWS_A_SHARD),
            ),
        )


def feature_pages(
    sae: SparseAutoencoder,
    host: HostModel,
    cache: ActivationCache,
    scale: ActivationScale,
    *,
    tokens: int,
    on_tokens: Callable[[int], None],
) -> tuple[FeatureStatistics, tuple[FeatureNote, ...]]:
    """Return statistics and notes for all features, from up to `tokens` training rows."""
    vocab_size = max(host.vocab_size, len(host.tokenizer))
    seen, names = observe(sae, cache, scale, tokens=tokens, vocab_size=vocab_size, on_tokens=on_tokens)
    statistics = seen.statistics()
    ranked = characteristic_tokens(seen)
    sources = dominating_sources(seen, names)
    promoted = promoted_tokens(host, sae)
    shards: dict[int, Shard] = {}
    notes = []
    for feature in range(sae.d_sae):
        dead = bool(statistics.dead[feature])
        note = FeatureNote(
            feature=feature,
            label=label(ranked[feature], sources[feature], host.tokenizer, dead=dead),
            top_tokens=[token_text(host.tokenizer, i) for i in ranked[feature].token_ids.tolist()],
            promoted_tokens=[token_text(host.tokenizer, i) for i in promoted[feature].tolist()],
            examples=_examples(feature, seen, sae, scale, host, cache, shards),
        )
        notes.append(note)
    return statistics, tuple(notes)


def _examples(
    feature: int,
    seen: FeatureObservations,
    sae: SparseAutoencoder,
    scale: ActivationScale,
    host: HostModel,
    cache: ActivationCache,
    shards: dict[int, Shard],
) -> tuple[FeatureExample, ...]:
    examples = []
    for value, place in zip(
        seen.top_values[feature].tolist(), seen.top_places[feature].tolist(), strict=True
    ):
        if value <= 0:
            break
        number, row = divmod(place, _ROWS_A_SHARD)
        if number not in shards:
            shards[number] = open_shard(cache.folder / f"train-{number:05d}")
        rows = _context(shards[number], row)
        values = _feature_values(feature, sae, scale, shards[number].read(rows))
        token_ids = shards[number].token_ids[rows].tolist()
        examples.append(
            FeatureExample(
                tokens=[token_text(host.tokenizer, token_id) for token_id in token_ids],
                values=[float(f"{value:.3g}") for value in values.tolist()],
            )
        )
    return tuple(examples)


def _context(shard: Shard, row: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    block = int(np.searchsorted(shard.starts, row, side="right")) - 1
    first = max(int(shard.starts[block]), row - TOKENS_BEFORE)
    last = min(int(shard.starts[block + 1]), row + TOKENS_AFTER + 1)
    return np.arange(first, last)


def _feature_values(feature: int, sae: SparseAutoencoder, scale: ActivationScale, resid: Tensor) -> Tensor:
    """The feature's activations [rows]; rows that are never trained on count as zero."""
    values = sae.feature_acts(resid, [feature])[:, 0]
    return values * scale.is_inlier(resid)
