"""transformers' generate with a forward hook, a request at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.steering_peers.job import Job, Tool, answer_lines, load_host


class TransformersHook(Tool):
    """The hook is another one for every request, so they cannot share a batch."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._model, _ = load_host(job)
        self._layer = self._model.model.layers[job.layer]

    def generate(self, numbers: Sequence[int]) -> list[list[int]]:
        return [self._one(number) for number in numbers]

    def _one(self, number: int) -> list[int]:
        push = self.pushes[number]

        def add(module: Any, args: Any, output: Any) -> Any:  # noqa: ARG001  # a hook's
            return output + push

        prompt_ids = self.job.requests[number].prompt_ids
        hook = self._layer.register_forward_hook(add)
        try:
            ids = self._model.generate(
                torch.tensor([prompt_ids]), max_new_tokens=self.job.num_new, do_sample=False
            )
        finally:
            hook.remove()
        new: list[int] = ids[0, len(prompt_ids) :].tolist()
        return new


if __name__ == "__main__":
    answer_lines(TransformersHook)
