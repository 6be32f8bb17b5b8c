"""What an expert would write: one batch, padded on the left, with a hook that knows what each row gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.steering_peers.job import Job, Tool, answer_lines, load_host


class HandBatched(Tool):
    """All requests begin together and end together."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._model, _ = load_host(job)
        self._layer = self._model.model.layers[job.layer]

    def generate(self, numbers: Sequence[int]) -> list[list[int]]:
        prompts = [self.job.requests[number].prompt_ids for number in numbers]
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        pushes = self.pushes[list(numbers)][:, None]  # [batch, 1, d_model]

        def add(module: Any, args: Any, output: Any) -> Any:  # noqa: ARG001  # a hook's
            return output + pushes

        hook = self._layer.register_forward_hook(add)
        try:
            found = self._model.generate(
                ids, attention_mask=mask, max_new_tokens=self.job.num_new, do_sample=False
            )
        finally:
            hook.remove()
        new: list[list[int]] = found[:, longest:].tolist()
        return new


if __name__ == "__main__":
    answer_lines(HandBatched)
