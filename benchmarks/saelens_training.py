"""SAELens's own trainer on given rows of activations; runs in SAELens's environment, not in this project's.

`python saelens_training.py SPEC.json`: SPEC holds `rows` (an .npy file [rows, d_model] in the order of
training), `batch_size`, `tokens`, `threads` and `runs`, each with `architecture`, `d_sae`, `lr`,
`dead_feature_window` (steps), `init_norm`, `settings` (the architecture's own) and `folder`, where the SAE is
saved. Prints one JSON line a run: its `folder`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

CLASSES: dict[str, tuple[Any, Any]] = {
    "batch_topk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
    "matryoshka_batch_topk": (MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig),
    "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig),
    "standard": (StandardTrainingSAE, StandardTrainingSAEConfig),
}
_WARM_UP, _DECAY = 0.05, 0.2  # shares of the run, as this project's trainer has them


def batches(path: str, batch_size: int) -> Iterator[torch.Tensor]:
    """Yield batches [batch_size, d_model] float32 in the file's order, over and over."""
    rows = np.load(path, mmap_mode="r")
    while True:
        for start in range(0, len(rows) - batch_size + 1, batch_size):
            yield torch.from_numpy(rows[start : start + batch_size].astype(np.float32))


def train(spec: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """Train and save one SAE; return its time."""
    torch.manual_seed(run.get("seed", 0))
    sae_class, config_class = CLASSES[run["architecture"]]
    d_model = int(np.load(spec["rows"], mmap_mode="r").shape[1])
    sae = sae_class(
        config_class(
            d_in=d_model,
            d_sae=run["d_sae"],
            decoder_init_norm=run["init_norm"],
            normalize_activations="expected_average_only_in",
            **run["settings"],
        )
    )
    steps = spec["tokens"] // spec["batch_size"]
    config = SAETrainerConfig(
        total_training_samples=steps * spec["batch_size"],
        train_batch_size_samples=spec["batch_size"],
        lr=run["lr"],
        lr_end=run["lr"] / 10,
        lr_warm_up_steps=int(_WARM_UP * steps),
        lr_decay_steps=int(_DECAY * steps),
        dead_feature_window=run["dead_feature_window"],
        n_batches_for_norm_estimate=20,
        logger=LoggingConfig(log_to_wandb=False),
    )
    provider = batches(spec["rows"], spec["batch_size"])
    trainer = SAETrainer(cfg=config, sae=sae, data_provider=provider)
    trainer.fit()
    folder = Path(run["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    sae.cfg.metadata.model_name, sae.cfg.metadata.hook_name = "host", "blocks.0.hook_resid_post"
    sae.save_inference_model(str(folder))
    return {"folder": run["folder"]}


def main() -> None:
    """Train every run of the spec."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(spec["threads"])
    for run in spec["runs"]:
        print(json.dumps(train(spec, run)), flush=True)


if __name__ == "__main__":
    main()
