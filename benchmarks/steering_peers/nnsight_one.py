"""nnsight's generate, one trace a request."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.steering_peers.job import Job, Tool, answer_lines
from benchmarks.steering_peers.nnsight_model import load_model


class NnsightOne(Tool):
    """A trace for each request, as in nnsight's guide to steering."""

    packages = ("torch", "transformers", "nnsight")

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._model = load_model(job)

    def generate(self, numbers: Sequence[int]) -> list[list[int]]:
        return [self._one(number) for number in numbers]

    def _one(self, number: int) -> list[int]:
        model, layer, num_new = self._model, self.job.layer, self.job.num_new
        prompt_ids, push = self.job.requests[number].prompt_ids, self.pushes[number]
        with model.generate(prompt_ids, max_new_tokens=num_new, do_sample=False) as tracer:
            for _ in tracer.iter[:num_new]:
                model.model.layers[layer].output[:] += push
            ids = tracer.result.save()
        new: list[int] = ids[0, len(prompt_ids) :].tolist()
        return new


if __name__ == "__main__":
    answer_lines(NnsightOne)
