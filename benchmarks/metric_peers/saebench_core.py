"""SAEBench's `core` evaluation on a job, through SAELens's Hugging Face host.

`python -m benchmarks.metric_peers.saebench_core JOB.json`, in an environment that has sae-bench.
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.metric_peers.job import PROMPTS_AT_ONCE, BlockStore, Job, print_metrics, read_job

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of sae-bench and what it imports
    from sae_bench.evals.core.eval_config import CoreEvalConfig
    from sae_bench.evals.core.main import calculate_max_cosine_sim, run_evals
    from sae_lens import SAE
    from sae_lens.load_model import load_model


class _BenchedSae:
    """An SAE that SAELens loaded, with the configuration fields that SAEBench reads."""

    def __init__(self, sae: Any, job: Job) -> None:  # Any: SAELens ships no types
        self._sae = sae
        self.device = torch.device("cpu")
        self.cfg = SimpleNamespace(
            hook_name=job.layer_module, hook_layer=job.layer, hook_head_index=None, d_sae=job.d_sae
        )

    def encode(self, x: Tensor) -> Tensor:
        acts: Tensor = self._sae.encode(x)
        return acts

    def decode(self, feature_acts: Tensor) -> Tensor:
        x_hat: Tensor = self._sae.decode(feature_acts)
        return x_hat


def main() -> None:
    """Measure rows with the blocks' first tokens left out, losses with every row replaced."""
    job = read_job()
    blocks = len(job.token_ids)
    model = load_model(
        "AutoModelForCausalLM",
        job.host_folder,
        device="cpu",
        model_from_pretrained_kwargs={"dtype": torch.float32},
        hook_names=[job.layer_module],
    )
    loaded = SAE.load_from_disk(job.sae_folder)
    sae = _BenchedSae(loaded, job)
    of_rows, of_features = run_evals(
        sae,
        BlockStore(job, blocks),
        model,
        CoreEvalConfig(
            batch_size_prompts=blocks,
            n_eval_sparsity_variance_batches=1,
            compute_l2_norms=True,
            compute_sparsity_metrics=True,
            compute_variance_metrics=True,
            compute_featurewise_density_statistics=True,
        ),
        ignore_tokens={job.first_id},
    )
    of_host, _ = run_evals(
        sae,
        BlockStore(job, PROMPTS_AT_ONCE),
        model,
        CoreEvalConfig(
            batch_size_prompts=PROMPTS_AT_ONCE,
            n_eval_reconstruction_batches=blocks // PROMPTS_AT_ONCE,
            compute_kl=True,
            compute_ce_loss=True,
        ),
    )
    found = {name: value for group in (of_rows | of_host).values() for name, value in group.items()}
    neighbours = calculate_max_cosine_sim(loaded.W_dec.detach().T)
    print_metrics(
        found
        | {
            "feature_density": of_features["feature_density"],
            "max_decoder_cosine_sim": float(neighbours.mean()),
        }
    )


if __name__ == "__main__":
    main()
