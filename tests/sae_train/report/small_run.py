"""A run's folder as `sae-train run` leaves it, made by hand: SAEs of planted directions, cache, log."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_train.activations.run_corpus import open_cache
from sae_train.activations.shard import write_shard
from sae_train.config_file import load_config
from sae_train.corpus.token_blocks import TokenBlock
from sae_train.features.feature_pages import feature_pages
from steerd.host.host_model import HostModel
from steerd.sae.feature_label import LabelScore
from steerd.sae.sae_file import SaeBundle, SaeMetadata, save_sae
from tests.sae_train.features.small_cache import BLOCK, HOOK_POINT, SCALE, planted_sae
from tests.sae_train.planted_rows import planted_rows
from tests.tiny_hosts import make_tiny_host

CONFIG = """
output = "{folder}"

[host]
name = "{folder}/host"

[[saes]]
name = "one"
hook_point = "{hook_point}"
d_sae = 33
k = 3

[data]
cache = "{folder}/cache"
tokens = 2000
context = 512

[[data.sources]]
path = "absent.txt"
mode = "block"

[training]
tokens = 1000
outlier_norm = 10.0
"""

ROWS = 1000


def make_run(folder: Path) -> HostModel:
    """Fill the folder; return the host."""
    made = make_tiny_host(hidden_size=24, head_dim=6)
    made.model.save_pretrained(folder / "host")
    made.tokenizer.save_pretrained(folder / "host")
    (folder / "config.toml").write_text(CONFIG.format(folder=folder, hook_point=HOOK_POINT))
    host = HostModel.load(str(folder / "host"))
    config = load_config(folder / "config.toml")
    cache = open_cache(config.data, host, seed=config.seed)
    for number in range(2):
        write_shard(cache.shard_path("train", number), _blocks(number), {HOOK_POINT: _rows(number)})
    for name, l0 in (("one", 3.0), ("two", 4.5)):
        sae = planted_sae()
        statistics, notes = feature_pages(
            sae, host, cache, HOOK_POINT, SCALE, tokens=2 * ROWS, on_tokens=lambda _: None
        )
        notes = tuple(replace(note, scores=(LabelScore("tokens", 0.6, 20, strong=0.9),)) for note in notes)
        metadata = SaeMetadata.describe(
            sae, name=name, model_name=host.name, hook_point=str(HOOK_POINT), provenance=_record(l0)
        )
        (folder / "saes").mkdir(exist_ok=True)
        save_sae(folder / "saes" / name, SaeBundle(sae, metadata, statistics, notes))
    _write_log(folder / "log.jsonl")
    return host


def _rows(number: int) -> torch.Tensor:
    resid = planted_rows(ROWS, seed=number)
    resid[7::100] *= 100
    return resid


def _blocks(number: int) -> list[TokenBlock]:
    """Sequences of random bytes that are letters, angle brackets, and pieces of longer characters."""
    alphabet = np.array(list("abc <>\n水é".encode()))
    ids = np.random.default_rng(number).choice(alphabet, (ROWS // BLOCK, BLOCK)).tolist()
    return [TokenBlock(row, [False] + [True] * (BLOCK - 1), f"source {i % 2}") for i, row in enumerate(ids)]


def _record(l0: float) -> dict[str, Any]:  # Any: JSON values
    return {
        "training_architecture": "batch_topk",
        "median_resid_norm": SCALE.median_norm,
        "hook_point": str(HOOK_POINT),
        "recipe": {"sae": {"d_sae": 33}},
        "metrics": {
            "l0_mean": l0,
            "variance_explained": 0.75,
            "cross_entropy_recovered_from_zero": 0.875,
            "dead_features": 1,
            "special_tokens_by_id": {"257": {"count": 3, "mse": 0.5, "l0": 2.0}},
            "note": "made up for a test of pages",
        },
        "training": {"tokens": 1000},
    }


def _write_log(path: Path) -> None:
    records = [
        {"event": "step", "sae": name, "step": step, "tokens": step * 10, "mse": 1 / step, "parts": {}}
        for step in range(1, 6)
        for name in ("one", "two")
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
