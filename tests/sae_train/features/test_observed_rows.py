from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sae_train.activations.activation_cache import open_shard
from sae_train.activations.activation_scale import ActivationScale
from sae_train.features.observed_rows import observed_rows, source_names, spread
from tests.sae_train.runs import planted_cache

SCALE = ActivationScale(median_norm=20.0, outlier_limit=200.0, scale=1.0)


def test_a_share_of_the_shards_is_evenly_spaced_and_never_none() -> None:
    paths = [Path(f"train-{number:05d}") for number in range(4)]

    assert spread(paths, 1.0) == paths
    assert spread(paths, 0.5) == [paths[0], paths[2]]
    assert spread(paths[:1], 0.99) == paths[:1]


def test_kept_inlier_rows_come_once_each_with_what_is_known_of_them(tmp_path: Path) -> None:
    path = planted_cache(tmp_path, shards=2, rows=5000).shard_paths("train")[1]
    shard = open_shard(path)
    norms = torch.from_numpy(shard.resid.astype(np.float32)).norm(dim=1)

    batches = list(observed_rows(path, source_names([path]), SCALE))

    places = np.concatenate([observed.places for _, observed in batches])
    expected = np.flatnonzero(shard.keep & (norms <= SCALE.outlier_limit).numpy())
    assert len(batches) == 2
    assert (places - (1 << 32)).tolist() == expected.tolist()
    for resid, observed in batches:
        rows = observed.places - (1 << 32)
        assert torch.equal(resid, shard.read(rows))
        assert observed.token_ids.tolist() == shard.token_ids[rows].tolist()
        assert (observed.sequences - (1 << 32)).tolist() == (rows // 50).tolist()
        assert not observed.sources.any()
