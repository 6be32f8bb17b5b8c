from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.shard import CacheError, open_shard
from sae_train.features.observed_rows import ROWS_A_SHARD, RowSource, observed_rows, spread
from steerd.host.hook_point import HookPoint
from tests.sae_train.features.small_cache import BLOCK, HOOK_POINT, SCALE, small_cache, small_source


def test_a_share_of_the_shards_is_evenly_spaced_and_never_none() -> None:
    paths = [Path(f"train-{number:05d}") for number in range(4)]

    assert spread(paths, 1.0) == paths
    assert spread(paths, 0.5) == [paths[0], paths[2]]
    assert spread(paths[:1], 0.99) == paths[:1]


def test_kept_inlier_rows_come_once_each_with_what_is_known_of_them(tmp_path: Path) -> None:
    source = small_source(tmp_path, shards=2, rows=5000)
    names = source.source_names()

    batches = list(observed_rows(source, names))

    assert names == ["source 0", "source 1"]
    assert len(batches) == 4
    places = np.concatenate([observed.places for _, observed in batches])
    expected = []
    for number, path in enumerate(source.shards):
        shard = open_shard(path)
        norms = torch.from_numpy(shard.resid(HOOK_POINT).astype(np.float32)).norm(dim=1)
        rows = np.flatnonzero(shard.keep & (norms <= SCALE.outlier_limit).numpy())
        expected += (rows + number * ROWS_A_SHARD).tolist()
    assert places.tolist() == expected
    for resid, observed in batches:
        shard = open_shard(source.shards[observed.places[0] // ROWS_A_SHARD])
        rows = observed.places % ROWS_A_SHARD
        assert torch.equal(resid, shard.read(HOOK_POINT, rows))
        assert observed.token_ids.tolist() == shard.token_ids[rows].tolist()
        assert (observed.sequences % ROWS_A_SHARD).tolist() == (rows // BLOCK).tolist()
        assert observed.sources.tolist() == (rows // BLOCK % 2).tolist()


def test_few_tokens_take_few_shards(tmp_path: Path) -> None:
    cache = small_cache(tmp_path, shards=4, rows=1000)

    source = RowSource.of_cache(cache, HOOK_POINT, SCALE, tokens=1500)

    assert [path.name for path in source.shards] == ["train-00000", "train-00002"]
    assert source.rows == 2 * 980


def test_a_run_that_kept_no_training_rows_is_observed_on_held_out_ones(tmp_path: Path) -> None:
    cache = small_cache(tmp_path, shards=1)
    cache.shard_path("train", 0).rename(cache.shard_path("held_out", 0))

    source = RowSource.of_cache(cache, HOOK_POINT, SCALE, tokens=10**6)

    assert [path.name for path in source.shards] == ["held_out-00000"]


def test_a_cache_without_the_hook_point_is_refused(tmp_path: Path) -> None:
    cache: ActivationCache = small_cache(tmp_path)

    with pytest.raises(CacheError, match=r"blocks\.2\.hook_resid_post"):
        RowSource.of_cache(cache, HookPoint(2, "resid_post"), SCALE, tokens=10)
