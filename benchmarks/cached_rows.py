"""Rows of activations from a run's cache, in memory, for benchmarks that compare trainers on equal data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """Training rows [rows, d_model] in the order of training, float16, and held-out ones, float32."""

    train: NDArray[np.float16]
    held_out: Tensor


def read_rows(cache: Path, hook_point: str, tokens: int, held_out: int) -> Rows:
    """Take rows spread over a cache's shards, outliers and first tokens left out, shuffled once."""
    train = _kept(sorted(cache.glob("train-*")), hook_point, tokens)
    order = np.random.default_rng(0).permutation(len(train))
    return Rows(
        train=train[order],
        held_out=torch.from_numpy(
            _kept(sorted(cache.glob("held_out-*")), hook_point, held_out).astype(np.float32)
        ),
    )


def _kept(shards: list[Path], hook_point: str, rows: int) -> NDArray[np.float16]:
    parts = []
    for shard in shards:
        resid = np.load(shard / f"{hook_point}.npy", mmap_mode="r")
        resid = resid[np.flatnonzero(np.load(shard / "keep.npy"))]
        norms = np.linalg.norm(resid.astype(np.float32), axis=1)
        kept = resid[norms <= 10 * np.median(norms)]
        parts.append(kept[: -(-rows // len(shards))])
    return np.concatenate(parts)[:rows]
