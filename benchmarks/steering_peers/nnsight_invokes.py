"""nnsight's generate, all requests in one trace: an invoke with its own intervention for each."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.steering_peers.job import Job, Tool, answer_lines
from benchmarks.steering_peers.nnsight_model import load_model


class NnsightInvokes(Tool):
    """nnsight pads the prompts on the left and gives each invoke its row; all begin and end together."""

    packages = ("torch", "transformers", "nnsight")

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._model = load_model(job)

    def generate(self, numbers: Sequence[int]) -> list[list[int]]:
        model, layer, num_new = self._model, self.job.layer, self.job.num_new
        requests, pushes = self.job.requests, self.pushes
        with model.generate(max_new_tokens=num_new, do_sample=False) as tracer:
            for number in numbers:
                with tracer.invoke(requests[number].prompt_ids):
                    for _ in tracer.iter[:num_new]:
                        model.model.layers[layer].output[:] += pushes[number]
            with tracer.invoke():
                ids = tracer.result.save()
        new: list[list[int]] = ids[:, -num_new:].tolist()
        return new


if __name__ == "__main__":
    answer_lines(NnsightInvokes)
