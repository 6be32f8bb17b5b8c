from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sae_train.activations.activation_cache import ActivationCache, open_shard, write_shard
from sae_train.activations.activation_scale import ActivationScale
from sae_train.corpus.token_blocks import TokenBlock
from sae_train.features.feature_contexts import CachedTexts, FeaturePlace, Window, read_contexts
from sae_train.features.observed_rows import ROWS_A_SHARD
from steerd.sae.activation_function import ActivationFunction, ReLU, TopK
from steerd.sae.autoencoder import SparseAutoencoder
from tests.sae_train.planted_rows import D_MODEL
from tests.sae_train.runs import planted_cache

SCALE = ActivationScale(median_norm=20.0, outlier_limit=200.0, scale=1.0)
WINDOW = Window(before=6, after=3)


def random_sae(activation: ActivationFunction, d_sae: int = 40) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(3)
    W_enc = torch.randn(D_MODEL, d_sae, generator=generator)
    return SparseAutoencoder(
        W_enc, torch.zeros(d_sae), W_enc.t().contiguous(), torch.zeros(D_MODEL), activation
    )


@pytest.mark.parametrize("activation", [ReLU(), TopK(5)], ids=["relu", "topk"])
def test_contexts_are_the_rows_around_encoded_one_by_one(
    tmp_path: Path, activation: ActivationFunction
) -> None:
    cache = planted_cache(tmp_path, shards=3, rows=1000)
    sae = random_sae(activation)
    generator = np.random.default_rng(0)
    asked = [
        FeaturePlace(int(generator.integers(40)), int(shard) * ROWS_A_SHARD + int(row))
        for shard, row in zip(
            generator.integers(3, size=200), generator.integers(1000, size=200), strict=True
        )
    ]

    contexts = read_contexts(sae, CachedTexts(cache), SCALE, asked, WINDOW)

    for (feature, place), context in zip(asked, contexts, strict=True):
        number, row = divmod(place, ROWS_A_SHARD)
        shard = open_shard(cache.folder / f"train-{number:05d}")
        first, end = max(row - 6, row // 50 * 50), min(row + 4, row // 50 * 50 + 50)
        assert context.token_ids.tolist() == shard.token_ids[first:end].tolist()
        assert context.token_ids[context.peak] == shard.token_ids[row]
        for shown, value in zip(range(first, end), context.values.tolist(), strict=True):
            resid = shard.read(np.array([shown]))
            expected = float(sae.encode(resid)[0, feature]) * (resid.norm() <= SCALE.outlier_limit)
            assert value == pytest.approx(float(expected), abs=1e-3)


def test_contexts_in_the_same_words_come_last(tmp_path: Path) -> None:
    cache = ActivationCache.open_or_create(tmp_path, {"made": "for a test"})
    texts = [[*range(9), 1], [*range(9), 2], [9, *range(1, 9), 3], [5] * 10]
    blocks = [TokenBlock(ids=ids, keep=[True] * 10, source="test") for ids in texts]
    write_shard(tmp_path / "train-00000", blocks, torch.ones(40, D_MODEL))
    eighth = [8, 18, 28, 38]  # the first three follow the same seven tokens

    cached = CachedTexts(cache)

    assert cached.distinct(eighth, 4) == [8, 38, 18, 28]
    assert cached.distinct(eighth, 2) == [8, 38]
    assert cached.distinct([], 2) == []
