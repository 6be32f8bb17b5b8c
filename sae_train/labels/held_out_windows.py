"""Held-out sequences cut into windows of 32 tokens, and how strongly each feature is active in each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.activation_scale import ActivationScale
from sae_train.activations.shard import Shard, open_shard
from sae_train.features.observed_rows import ROWS_A_SHARD, RowSource
from steerd.host.hook_point import HookPoint
from steerd.sae.autoencoder import SparseAutoencoder

WINDOW_TOKENS = 32  # as in arXiv 2410.13928; longer texts are harder for weak judges
_ENTRIES_AT_ONCE = 16_000_000  # activations held at a time


class ActiveWindows(NamedTuple):
    """The windows in which one feature is active, strongest first, and its largest activation in each."""

    windows: NDArray[np.int64]
    peaks: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutWindows:
    """The whole windows of the sequences of a source; what is left of a sequence at its end is no window."""

    source: RowSource
    places: NDArray[np.int64]
    """[windows]: where each begins."""
    token_ids: NDArray[np.int32]
    """[windows, WINDOW_TOKENS]."""
    sequences: NDArray[np.int64]
    """[windows]: numbers that tell apart the sequences that they are cut from."""
    entries: NDArray[np.void]
    """Pairs of feature and window with the largest activation there, by feature, strongest first."""
    bounds: NDArray[np.int64]
    """[d_sae + 1]: where each feature's entries begin."""

    def __len__(self) -> int:
        return len(self.places)

    def active(self, feature: int) -> ActiveWindows:
        """Return where the feature is active."""
        part = self.entries[self.bounds[feature] : self.bounds[feature + 1]]
        return ActiveWindows(part["window"].astype(np.int64), part["peak"])


_ENTRY = np.dtype([("feature", "i4"), ("window", "i4"), ("peak", "f4")])


def held_out_source(
    cache: ActivationCache, hook_point: HookPoint, scale: ActivationScale, *, tokens: int
) -> RowSource:
    """Return the shards of the held-out split that hold its first `tokens`."""
    return RowSource(cache.shard_paths("held_out", (hook_point,), tokens), hook_point, scale)


def held_out_windows(
    sae: SparseAutoencoder,
    source: RowSource,
    *,
    on_tokens: Callable[[int], object] = lambda _tokens: None,
) -> HeldOutWindows:
    """Encode the source's windows; rows that no SAE is trained on (first tokens, outliers) count as zero."""
    places, token_ids, sequences, entries = [], [], [], []
    done = sequences_before = 0
    for number, path in enumerate(source.shards):
        shard = open_shard(path)
        for firsts in _some(_first_rows(shard), sae.d_sae):
            rows = (firsts[:, None] + np.arange(WINDOW_TOKENS)).ravel()
            entries.append(_active(sae, shard, rows, source, done))
            places.append(firsts + number * ROWS_A_SHARD)
            token_ids.append(shard.token_ids[rows].reshape(-1, WINDOW_TOKENS))
            sequences.append(np.searchsorted(shard.starts, firsts, side="right") - 1 + sequences_before)
            done += len(firsts)
            on_tokens(len(rows))
        sequences_before += shard.blocks
    found = np.concatenate([np.zeros(0, _ENTRY), *entries])
    found = found[np.lexsort((-found["peak"], found["feature"]))]
    return HeldOutWindows(
        source=source,
        places=np.concatenate([np.zeros(0, np.int64), *places]),
        token_ids=np.concatenate([np.zeros((0, WINDOW_TOKENS), np.int32), *token_ids]),
        sequences=np.concatenate([np.zeros(0, np.int64), *sequences]),
        entries=found,
        bounds=np.searchsorted(found["feature"], np.arange(sae.d_sae + 1)),
    )


def _first_rows(shard: Shard) -> NDArray[np.int64]:
    """The first row of each window of the shard."""
    starts = [
        np.arange(start, end - WINDOW_TOKENS + 1, WINDOW_TOKENS)
        for start, end in zip(shard.starts[:-1], shard.starts[1:], strict=True)
    ]
    return np.concatenate([np.zeros(0, np.int64), *starts])


def _some(firsts: NDArray[np.int64], d_sae: int) -> Iterator[NDArray[np.int64]]:
    at_once = max(1, _ENTRIES_AT_ONCE // (WINDOW_TOKENS * d_sae))
    return (firsts[start : start + at_once] for start in range(0, len(firsts), at_once))


def _active(
    sae: SparseAutoencoder, shard: Shard, rows: NDArray[np.int64], source: RowSource, first_window: int
) -> NDArray[np.void]:
    resid = shard.read(source.hook_point, rows)
    counts = source.scale.is_inlier(resid) & torch.from_numpy(shard.keep[rows])
    acts = sae.encode(resid) * counts.unsqueeze(1)
    peaks = acts.view(-1, WINDOW_TOKENS, sae.d_sae).amax(dim=1).numpy()  # [windows, d_sae]
    windows, features = np.nonzero(peaks)
    found = np.empty(len(windows), _ENTRY)
    found["feature"], found["window"], found["peak"] = (
        features,
        windows + first_window,
        peaks[windows, features],
    )
    return found
