"""SAELens on a known truth of ours; runs in SAELens's environment, with this repository on PYTHONPATH.

`python -m benchmarks.known_truth_peer SPEC.json`: SPEC holds `truth` (the settings of a SyntheticFeatures),
`batch_size`, `threads` and `jobs`. A job with `folder` scores that SAE folder. Any other trains one on the
rows of `seed` and scores it as it was trained: `architecture`, `d_sae`, `samples`, `learning_rate`,
`warm_up` (share), `dead_window` (steps), `settings` (of SAELens's configuration of the architecture). Prints
one JSON line a job: SAELens's scores.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_train.known_truth.synthetic_features import SyntheticFeatures, SyntheticSettings
from sae_train.known_truth.truth import SAMPLE_BATCHES, TrueRows, scored_rows, training_rows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of sae-lens and what it imports
    from sae_lens import SAE, GatedTrainingSAE, GatedTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.synthetic import eval_sae_on_synthetic_data
    from sae_lens.training.sae_trainer import SAETrainer

    from benchmarks.saelens_training import CLASSES

_CLASSES = {**CLASSES, "gated": (GatedTrainingSAE, GatedTrainingSAEConfig)}
_DECAY = 0.2  # share of the run, as this project's trainer has it


class _Scored:
    """Our scored rows, in the two halves that SAELens asks for: feature activations, then what they make."""

    def __init__(self, truth: SyntheticFeatures, batches: Sequence[TrueRows]) -> None:
        self.feature_vectors = truth.directions
        self._rows = iter(batches)
        self._last: TrueRows | None = None

    def sample(self, _rows: int) -> Tensor:
        self._last = next(self._rows)
        return self._last.feature_acts

    def __call__(self, _feature_acts: Tensor) -> Tensor:
        assert self._last is not None
        return self._last.resid


def score(
    sae: Any, truth: SyntheticFeatures, batches: Sequence[TrueRows]
) -> dict[str, Any]:  # Any: sae-lens has no types
    """SAELens's scores of an SAE on the batches, under this project's names."""
    rows, batch_size = _Scored(truth, batches), len(batches[0].resid)
    samples = batch_size * len(batches)
    found = eval_sae_on_synthetic_data(sae, rows, rows, num_samples=samples, batch_size=batch_size)
    return {
        "mcc": found.mcc,
        "f1": found.classification.f1_score,
        "precision": found.classification.precision,
        "recall": found.classification.recall,
        "uniqueness": found.uniqueness,
        "variance_explained": found.explained_variance,
        "l0": found.sae_l0,
        "true_l0": found.true_l0,
        "dead": found.dead_latents,
    }


def train(job: dict[str, Any], batches: Sequence[Tensor]) -> Any:  # Any: sae-lens has no types
    """Train an SAE as SAELens does, on batches [batch_size, d_model] of which the first are the sample."""
    torch.manual_seed(job["seed"])
    sae_class, config_class = _CLASSES[job["architecture"]]
    sae = sae_class(
        config_class(
            d_in=batches[0].shape[1],
            d_sae=job["d_sae"],
            **job["settings"],
        )
    )
    stream = iter(batches)
    if sae.cfg.normalize_activations == "none":  # otherwise SAELens takes the sample to estimate the norm
        stream = islice(stream, SAMPLE_BATCHES, None)
    trainer = SAETrainer(cfg=_config(job, len(batches[0])), sae=sae, data_provider=stream)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        return trainer.fit()


def _config(job: dict[str, Any], batch_size: int) -> Any:  # Any: sae-lens has no types
    steps = job["samples"] // batch_size
    return SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        total_training_samples=steps * batch_size,
        device="cpu",
        autocast=False,
        lr=job["learning_rate"],
        lr_end=job["learning_rate"] / 10,
        lr_scheduler_name="constant",
        lr_warm_up_steps=int(job["warm_up"] * steps),
        lr_decay_steps=int(_DECAY * steps),
        adam_beta1=0.9,
        adam_beta2=0.999,
        n_restart_cycles=1,
        train_batch_size_samples=batch_size,
        dead_feature_window=job["dead_window"],
        feature_sampling_window=2000,
        logger=LoggingConfig(log_to_wandb=False),
        n_batches_for_norm_estimate=SAMPLE_BATCHES,
    )


class _Rows:
    """The rows of one seed at a time, drawn once for all jobs in a row that want them."""

    def __init__(self, truth: SyntheticFeatures, batch_size: int) -> None:
        self._truth, self._batch_size = truth, batch_size
        self._seed: int | None = None
        self._batches: list[Tensor] = []

    def of(self, job: dict[str, Any]) -> list[Tensor]:
        wanted = SAMPLE_BATCHES + job["samples"] // self._batch_size
        if job["seed"] != self._seed or len(self._batches) != wanted:
            stream = training_rows(self._truth, batch_size=self._batch_size, seed=job["seed"])
            self._seed, self._batches = job["seed"], list(islice(stream, wanted))
        return self._batches


def answers(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Do the jobs in turn."""
    truth, batch_size = SyntheticFeatures(SyntheticSettings(**spec["truth"])), spec["batch_size"]
    rows, scored = _Rows(truth, batch_size), list(scored_rows(truth, batch_size=batch_size))
    for job in spec["jobs"]:
        started = time.monotonic()
        sae = SAE.load_from_disk(job["folder"]) if "folder" in job else train(job, rows.of(job))
        seconds = time.monotonic() - started
        yield {"job": job, "seconds": seconds, "scores": score(sae, truth, scored)}


def main() -> None:
    """Do every job of the spec."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(spec["threads"])
    for answer in answers(spec):
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
