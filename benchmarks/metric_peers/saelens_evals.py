"""SAELens's `run_evals` on a job, through its Hugging Face host.

`python -m benchmarks.metric_peers.saelens_evals JOB.json`, in an environment that has sae-lens.
"""

from __future__ import annotations

import warnings

import torch

from benchmarks.metric_peers.job import PROMPTS_AT_ONCE, BlockStore, print_metrics, read_job

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of sae-lens and what it imports
    from sae_lens import SAE
    from sae_lens.evals import EvalConfig, run_evals
    from sae_lens.load_model import load_model
    from sae_lens.training.activation_scaler import ActivationScaler


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
    sae = SAE.load_from_disk(job.sae_folder)
    sae.cfg.metadata.hook_name = job.layer_module
    of_rows, of_features = run_evals(
        sae,
        BlockStore(job, blocks),
        model,
        ActivationScaler(),
        EvalConfig(
            batch_size_prompts=blocks,
            compute_l2_norms=True,
            compute_sparsity_metrics=True,
            compute_variance_metrics=True,
            compute_featurewise_density_statistics=True,
        ),
        exclude_special_tokens=[job.first_id],
    )
    of_host, _ = run_evals(
        sae,
        BlockStore(job, PROMPTS_AT_ONCE),
        model,
        ActivationScaler(),
        EvalConfig(
            batch_size_prompts=PROMPTS_AT_ONCE,
            n_eval_reconstruction_batches=blocks // PROMPTS_AT_ONCE,
            compute_kl=True,
            compute_ce_loss=True,
        ),
        exclude_special_tokens=False,
    )
    found = {name: value for group in (of_rows | of_host).values() for name, value in group.items()}
    print_metrics(found | {"feature_density": of_features["feature_density"]})


if __name__ == "__main__":
    main()
