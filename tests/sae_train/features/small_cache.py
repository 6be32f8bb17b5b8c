"""A small activation cache of planted rows, and an SAE that knows the directions in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sae_train.activations.activation_cache import ActivationCache, Split
from sae_train.activations.activation_scale import ActivationScale
from sae_train.activations.shard import write_shard
from sae_train.corpus.token_blocks import TokenBlock
from sae_train.features.observed_rows import RowSource
from steerd.host.hook_point import HookPoint
from steerd.sae.activation_function import ActivationFunction, ReLU
from steerd.sae.autoencoder import SparseAutoencoder
from tests.sae_train.planted_rows import D_MODEL, planted_directions, planted_rows

HOOK_POINT = HookPoint(1, "resid_post")
SCALE = ActivationScale(median_norm=20.0, outlier_limit=200.0, scale=1.0)
BLOCK = 50  # rows a sequence


def small_cache(
    folder: Path, *, shards: int = 2, rows: int = 1000, split: Split = "train"
) -> ActivationCache:
    """Sequences of random letters; one row in a hundred is an outlier, the first of each is not kept."""
    cache = ActivationCache.open_or_create(folder, {"made": "for a test"})
    for number in range(shards):
        resid = planted_rows(rows, seed=number)
        resid[7::100] *= 100
        letters = np.random.default_rng(number).integers(ord("a"), ord("z"), (rows // BLOCK, BLOCK))
        blocks = [
            TokenBlock(ids=ids, keep=[False] + [True] * (BLOCK - 1), source=f"source {i % 2}")
            for i, ids in enumerate(letters.tolist())
        ]
        write_shard(cache.shard_path(split, number), blocks, {HOOK_POINT: resid})
    return cache


def small_source(folder: Path, *, shards: int = 2, rows: int = 1000) -> RowSource:
    """All training rows of such a cache."""
    return RowSource.of_cache(small_cache(folder, shards=shards, rows=rows), HOOK_POINT, SCALE, tokens=10**9)


def planted_sae(activation: ActivationFunction | None = None) -> SparseAutoencoder:
    """Features that are the planted directions, and a last one that is never active."""
    W_dec = torch.cat([planted_directions(), torch.zeros(1, D_MODEL)])
    b_enc = torch.full((len(W_dec),), -6.0)
    return SparseAutoencoder(W_dec.t().contiguous(), b_enc, W_dec, torch.zeros(D_MODEL), activation or ReLU())
