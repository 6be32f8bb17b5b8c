"""Small runs on planted rows, for the trainer's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sae_train.activations.activation_cache import ActivationCache, write_shard
from sae_train.config import Config
from sae_train.config_file import parse_config
from sae_train.corpus.token_blocks import TokenBlock
from tests.sae_train.planted_rows import ACTIVE, planted_rows


def planted_cache(folder: Path, *, shards: int = 4, rows: int = 4000) -> ActivationCache:
    """A cache of such rows; one row in a hundred is an outlier, and the first of each block is not kept."""
    cache = ActivationCache.open_or_create(folder, {"made": "for a test"})
    for split, number in [("held_out", 0), *(("train", index) for index in range(shards))]:
        resid = planted_rows(rows, seed=number + (1000 if split == "held_out" else 0))
        resid[7::100] *= 100
        block = TokenBlock(ids=list(range(50)), keep=[False] + [True] * 49, source="planted")
        write_shard(folder / f"{split}-{number:05d}", [block] * (rows // 50), resid)
    return cache


def planted_config(folder: Path, **training: Any) -> Config:  # Any: values of the section's fields
    """A configuration for those rows; keyword arguments replace training values."""
    values = {
        "tokens": 80_000,
        "batch_size": 256,
        "learning_rate": 5e-3,
        "dead_window_tokens": 5_000,
        "buffer_rows": 4_000,
        "log_every": 50,
        "checkpoint_every": 100,
    }
    return parse_config(
        {
            "output": str(folder / "run"),
            "sae": {"hook_point": "blocks.1.hook_resid_post", "d_sae": 48, "k": ACTIVE},
            "data": {
                "sources": [{"path": "absent.txt", "mode": "block"}],
                "cache": str(folder / "cache"),
                "tokens": 16_000,
            },
            "training": values | training,
        }
    )
