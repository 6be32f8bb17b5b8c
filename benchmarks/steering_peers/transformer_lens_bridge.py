"""TransformerLens's bridge with a hook function, a request at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from benchmarks.steering_peers.job import Job, Tool, answer_lines, load_host


class TransformerLensBridge(Tool):
    """Version 3's way to hook a model of transformers; the older HookedTransformer is in `saelens_hooked`."""

    packages = ("torch", "transformers", "transformer-lens")

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        model, tokenizer = load_host(job)
        self._bridge: Any = TransformerBridge.boot_transformers(
            job.host_folder, hf_model=model, tokenizer=tokenizer, dtype=torch.float32, device="cpu"
        )

    def generate(self, numbers: Sequence[int]) -> list[list[int]]:
        return [self._one(number) for number in numbers]

    def _one(self, number: int) -> list[int]:
        push = self.pushes[number]

        def add(resid: Any, hook: Any) -> Any:  # noqa: ARG001  # a hook function's
            return resid + push

        prompt_ids = self.job.requests[number].prompt_ids
        with self._bridge.hooks(fwd_hooks=[(self.job.hook_name, add)]):
            ids = self._bridge.generate(
                torch.tensor([prompt_ids]),
                max_new_tokens=self.job.num_new,
                do_sample=False,
                stop_at_eos=False,
                return_type="tokens",
                verbose=False,
            )
        new: list[int] = ids[0, len(prompt_ids) :].tolist()
        return new


if __name__ == "__main__":
    answer_lines(TransformerLensBridge)
