"""Small runs on planted rows, for the trainer's tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.shard import write_shard
from sae_train.activations.training_data import TrainingData
from sae_train.config import Config
from sae_train.config_file import parse_config
from sae_train.corpus.token_blocks import TokenBlock
from sae_train.training.run_setup import start_training
from sae_train.training.trainer import Evaluate, Trainer
from steerd.host.hook_point import HookPoint
from tests.sae_train.planted_rows import ACTIVE, planted_rows

POINTS = (HookPoint(1, "resid_post"), HookPoint(2, "resid_post"))


def planted_cache(folder: Path, *, shards: int = 4, rows: int = 4000) -> ActivationCache:
    """A cache of such rows at two hook points, at the second of which they are longer and another draw.

    One row in a hundred is an outlier at the first, and the first of each block is not kept.
    """
    cache = ActivationCache.open_or_create(folder, {"made": "for a test"})
    for split, number in [("held_out", 0), *(("train", index) for index in range(shards))]:
        seed = number + (1000 if split == "held_out" else 0)
        resid = planted_rows(rows, seed=seed)
        resid[7::100] *= 100
        block = TokenBlock(ids=list(range(50)), keep=[False] + [True] * 49, source="planted")
        by_point = {POINTS[0]: resid, POINTS[1]: 3 * planted_rows(rows, seed=seed + 500)}
        write_shard(folder / f"{split}-{number:05d}", [block] * (rows // 50), by_point)
    return cache


def planted_config(
    folder: Path,
    *,
    saes: list[dict[str, Any]] | None = None,
    evaluation: dict[str, Any] | None = None,
    **training: Any,
) -> Config:  # Any: values of the sections' fields
    """A configuration for those rows; keyword arguments replace training values, `saes` stands for one."""
    first = {"hook_point": str(POINTS[0]), "d_sae": 48, "k": ACTIVE, "learning_rate": 5e-3}
    values = {
        "tokens": 80_000,
        "batch_size": 256,
        "dead_window_tokens": 5_000,
        "buffer_rows": 4_000,
        "log_every": 50,
        "checkpoint_every": 100,
    }
    return parse_config(
        {
            "output": str(folder / "run"),
            "saes": [first | sae for sae in saes or [{}]],
            "data": {
                "sources": [{"path": "absent.txt", "mode": "block"}],
                "cache": str(folder / "cache"),
                "tokens": 15_600,
            },
            "training": values | training,
            "evaluation": evaluation or {},
        }
    )


def planted_trainer(config: Config, cache: ActivationCache, evaluate: Evaluate | None = None) -> Trainer:
    """The trainer of such a run, where its newest checkpoint left it."""
    data = TrainingData(cache=cache, hook_points=config.hook_points, tokens=config.data.tokens)
    return start_training(
        config, data, special_token_ids=frozenset({3}), device=torch.device("cpu"), evaluate=evaluate
    )
