"""SAELens's own runner from text to SAE; runs in SAELens's environment, not in this project's.

`python saelens_run.py SPEC.json`: SPEC holds `model` (a folder), `hook_name`, `texts` (a .jsonl file with
`text`), `context`, `batch_tokens`, `tokens`, `batch_size`, `buffer_rows`, `d_model`, `d_sae`, `k`, `lr` and
`threads`. Prints one JSON line: seconds from the loaded model to the trained SAE, tokens trained, peak
resident bytes.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from sae_lens import BatchTopKTrainingSAEConfig, LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner
from sae_lens.config import LoggingConfig


def main() -> None:
    """Train one SAE and say how long it took."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(spec["threads"])
    steps = spec["tokens"] // spec["batch_size"]
    config = LanguageModelSAERunnerConfig(
        sae=BatchTopKTrainingSAEConfig(
            d_in=spec["d_model"],
            d_sae=spec["d_sae"],
            k=spec["k"],
            decoder_init_norm=1.0,
            normalize_activations="expected_average_only_in",
        ),
        model_name=spec["model"],
        model_class_name="AutoModelForCausalLM",
        hook_name=spec["hook_name"],
        streaming=False,
        is_dataset_tokenized=False,
        prepend_bos=False,
        context_size=spec["context"],
        store_batch_size_prompts=max(1, spec["batch_tokens"] // spec["context"]),
        # SAELens counts its buffer in contexts, whatever the prompts of a batch.
        n_batches_in_buffer=max(2 * spec["batch_size"], spec["buffer_rows"]) // spec["context"],
        training_tokens=steps * spec["batch_size"],
        train_batch_size_tokens=spec["batch_size"],
        lr=spec["lr"],
        lr_warm_up_steps=int(0.05 * steps),
        lr_decay_steps=int(0.2 * steps),
        dead_feature_window=20,
        n_batches_for_norm_estimate=2,
        n_checkpoints=0,
        checkpoint_path=None,
        output_path=None,
        logger=LoggingConfig(log_to_wandb=False),
        verbose=False,
    )
    lines = Path(spec["texts"]).read_text(encoding="utf-8").splitlines()
    dataset = Dataset.from_list([{"text": json.loads(line)["text"]} for line in lines])
    runner = LanguageModelSAETrainingRunner(config, override_dataset=dataset)
    started = time.monotonic()
    runner.run()
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "tokens": config.training_tokens, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
