"""SAELens's HookedSAETransformer with the SAE in place, a request at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sae_lens import SAE, HookedSAETransformer
from transformer_lens import loading_from_pretrained

from benchmarks.steering_peers.job import Job, Tool, answer_lines, load_host


class SaelensHooked(Tool):
    """Adds to the feature's activation inside the SAE, whose error term keeps what it does not explain."""

    packages = ("torch", "transformers", "transformer-lens", "sae-lens")

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        model, tokenizer = load_host(job)
        # `from_pretrained` knows hosts by their names alone; these are the steps that it takes.
        config: Any = loading_from_pretrained.get_pretrained_model_config(
            job.host_folder, device="cpu", dtype=torch.float32
        )
        weights = loading_from_pretrained.get_pretrained_state_dict(job.host_folder, config, model)
        self._model: Any = HookedSAETransformer(config, tokenizer)
        self._model.load_and_process_state_dict(
            weights,
            fold_ln=False,
            center_writing_weights=False,
            center_unembed=False,
            fold_value_biases=False,
        )
        self._model.add_sae(SAE.load_from_disk(job.sae_folder, device="cpu"), use_error_term=True)

    def generate(self, numbers: Sequence[int]) -> list[list[int]]:
        return [self._one(number) for number in numbers]

    def _one(self, number: int) -> list[int]:
        request = self.job.requests[number]

        def add(acts: Any, hook: Any) -> Any:  # noqa: ARG001  # a hook function's
            acts[..., request.feature] += request.strength
            return acts

        with self._model.hooks(fwd_hooks=[(f"{self.job.hook_name}.hook_sae_acts_post", add)]):
            ids = self._model.generate(
                torch.tensor([request.prompt_ids]),
                max_new_tokens=self.job.num_new,
                do_sample=False,
                stop_at_eos=False,
                return_type="tokens",
                verbose=False,
            )
        new: list[int] = ids[0, len(request.prompt_ids) :].tolist()
        return new


if __name__ == "__main__":
    answer_lines(SaelensHooked)
