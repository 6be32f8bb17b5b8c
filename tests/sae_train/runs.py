"""Small runs on synthetic activations with planted directions, for the trainer's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_train.activations.activation_cache import ActivationCache, write_shard
from sae_train.config import Config, parse_config
from sae_train.corpus.token_blocks import TokenBlock

D_MODEL, TRUE_FEATURES, ACTIVE = 24, 32, 3


def planted_directions() -> Tensor:
    """Unit directions [TRUE_FEATURES, D_MODEL], more than there are dimensions."""
    directions = torch.randn(TRUE_FEATURES, D_MODEL, generator=torch.Generator().manual_seed(7))
    return directions / directions.norm(dim=1, keepdim=True)


def planted_rows(rows: int, seed: int) -> Tensor:
    """Rows [rows, D_MODEL]: a few planted directions each, with random strengths, off centre, plus noise."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(rows, TRUE_FEATURES, generator=generator).topk(ACTIVE, dim=1).indices
    strengths = 1 + torch.rand(rows, ACTIVE, generator=generator)
    acts = torch.zeros(rows, TRUE_FEATURES).scatter(1, chosen, strengths)
    noise = 0.02 * torch.randn(rows, D_MODEL, generator=generator)
    return 8 * (acts @ planted_directions() + noise + 0.3)


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
