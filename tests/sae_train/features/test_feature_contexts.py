from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.shard import open_shard, write_shard
from sae_train.corpus.token_blocks import TokenBlock
from sae_train.features.feature_contexts import CachedTexts, FeaturePlace, Window, read_contexts
from sae_train.features.observed_rows import ROWS_A_SHARD, RowSource
from steerd.sae.activation_function import ActivationFunction, ReLU, TopK
from tests.sae_train.features.small_cache import BLOCK, HOOK_POINT, SCALE, planted_sae, small_source
from tests.sae_train.planted_rows import D_MODEL

WINDOW = Window(before=6, after=3)


@pytest.mark.parametrize("activation", [ReLU(), TopK(5)], ids=["relu", "topk"])
def test_contexts_are_the_rows_around_encoded_one_by_one(
    tmp_path: Path, activation: ActivationFunction
) -> None:
    source = small_source(tmp_path, shards=3, rows=1000)
    sae = planted_sae(activation)
    generator = np.random.default_rng(0)
    asked = [
        FeaturePlace(feature, shard * ROWS_A_SHARD + row)
        for feature, shard, row in generator.integers([0, 0, 0], [sae.d_sae, 3, 1000], (200, 3)).tolist()
    ]

    contexts = read_contexts(sae, CachedTexts(source), asked, WINDOW)

    for (feature, place), context in zip(asked, contexts, strict=True):
        number, row = divmod(place, ROWS_A_SHARD)
        shard = open_shard(source.shards[number])
        first, end = max(row - 6, row // BLOCK * BLOCK), min(row + 4, row // BLOCK * BLOCK + BLOCK)
        resid = shard.read(HOOK_POINT, np.arange(first, end))
        counts = (resid.norm(dim=1) <= SCALE.outlier_limit) & torch.from_numpy(shard.keep[first:end])
        expected = sae.encode(resid)[:, feature] * counts
        assert context.token_ids.tolist() == shard.token_ids[first:end].tolist()
        assert context.peak == row - first
        torch.testing.assert_close(torch.from_numpy(context.values), expected, rtol=0, atol=1e-3)


def test_contexts_in_the_same_words_come_last(tmp_path: Path) -> None:
    cache = ActivationCache.open_or_create(tmp_path, {"made": "for a test"})
    texts = [[*range(9), 1], [*range(9), 2], [9, *range(1, 9), 3], [5] * 10]
    blocks = [TokenBlock(ids=ids, keep=[True] * 10, source="test") for ids in texts]
    write_shard(cache.shard_path("train", 0), blocks, {HOOK_POINT: torch.ones(40, D_MODEL)})
    eighth = [8, 18, 28, 38]  # the first three end with the same eight tokens

    cached = CachedTexts(RowSource.of_cache(cache, HOOK_POINT, SCALE, tokens=100))

    assert cached.distinct(eighth, 4) == [8, 38, 18, 28]
    assert cached.distinct(eighth, 2) == [8, 38]
    assert cached.distinct([], 2) == []
