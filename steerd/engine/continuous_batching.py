"""One step at a time of transformers' continuous batching, driven by the engine's own thread.

With batch_processor.py and kv_cache.py this is all that touches transformers' batching internals (pinned to
one minor version). transformers schedules, packs the rows and keeps the pages; ours are the attention, the
sampler and the decision when a request ends, and the sharing of prefixes: transformers' hash of a page does
not know what steers the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState

from steerd.engine.batch_processor import take_over
from steerd.engine.prefix_pages import NO_PAGES, PromptPages
from steerd.engine.recorded_steps import RecordedSteps, Recorder
from steerd.host.host_model import HostModel

Sample = Callable[[Tensor, Sequence[str]], tuple[Tensor, Tensor]]
"""Logits [n, vocab] float32 and the n request ids they are for -> token ids [n] and log-probabilities [n]."""


@dataclass(frozen=True, slots=True)
class PackedRows:
    """The rows of one request in the coming step; `samples` when its last row yields a new token."""

    request_id: str
    first_position: int
    num_rows: int
    samples: bool


@dataclass(frozen=True, slots=True)
class NewToken:
    """What one request got from a step."""

    request_id: str
    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class BatchOutput:
    """What a step gave: new tokens, and the logits [scored rows, vocab] in float32 of the rows asked for."""

    new_tokens: list[NewToken]
    scored: Tensor


class ContinuousBatch:
    """The running requests of a host and their packed steps. Owned by one thread."""

    def __init__(
        self,
        host: HostModel,
        sample: Sample,
        *,
        kv_cache_gib: float,
        max_batch_tokens: int,
        max_running_requests: int,
        page_size: int,
        recorder: Recorder | None = None,
    ) -> None:
        """Take over the host's attention and allocate the cache; a recorder may record decode steps.

        Raises HostError for hosts it would get wrong or that cannot be recorded, ConfigError for more memory
        than there is.
        """
        self._host = host
        self._sample = sample
        self._logits: Tensor | None = None  # of the step that runs
        self._kept_logits: Tensor | None = None  # [rows, vocab], of steps that are recorded
        self._recorded = None if recorder is None else RecordedSteps(recorder)
        self._max_running = max_running_requests
        self._page_hashes: dict[str, tuple[bytes, ...]] = {}  # of the prompts that are not yet run
        taken = take_over(
            host,
            self._keep_logits,
            kv_cache_gib=kv_cache_gib,
            max_batch_tokens=max_batch_tokens,
            max_running_requests=max_running_requests,
            page_size=page_size,
            records=recorder is not None,
        )
        self.cache, self._processor, self._most_blocks = taken.cache, taken.processor, taken.most_blocks

    def admit(self, request_id: str, prompt_ids: Sequence[int], max_new_tokens: int) -> bool:
        """Take in a request when its prompt and all its new tokens fit in the free memory; else False.

        `begin` must follow before the next step.
        """
        state = RequestState(request_id=request_id, initial_tokens=list(prompt_ids), max_new_tokens=None)
        # The last new token is never fed back, so it needs no room.
        if not self.cache.reserve(state, len(prompt_ids) + max_new_tokens - 1):
            return False
        self._processor.scheduler.add_waiting_request(state)
        return True

    def begin(self, request_id: str, pages: PromptPages = NO_PAGES) -> int:
        """Let an admitted request run; returns how many tokens of its prompt need not, by their pages."""
        state = self._processor.scheduler.waiting_requests[request_id]
        num_found = self.cache.begin(request_id, pages)
        state.position_offset = num_found
        state.remaining_prefill_tokens = state.initial_tokens[num_found:]
        self._page_hashes[request_id] = pages.hashes
        return num_found

    def remove(self, request_id: str) -> None:
        """End a request, whatever it was doing, and free its memory."""
        self._page_hashes.pop(request_id, None)
        self._processor.scheduler.set_request_cancellation(request_id)
        self._processor.scheduler.clear_cancelled_requests()

    @property
    def why_not_recorded(self) -> str:
        """What made it impossible to record steps with the recorder that was given; empty for nothing."""
        return "" if self._recorded is None else self._recorded.why_not

    @property
    def steps_replayed(self) -> int:
        """Steps that were run from recordings."""
        return 0 if self._recorded is None else self._recorded.replayed

    @property
    def padding(self) -> int:
        """Rows of nobody after those of the step that `pack` laid out."""
        outputs = self._processor.inputs_and_outputs
        return int(outputs.num_q_tokens - outputs.total_seqlen_q)

    def pack(self, *, may_record: bool = True) -> list[PackedRows]:
        """Lay out the next step; empty when nothing runs.

        One with one row a request is laid out for a recording, if there is a recorder and it may be.
        """
        runner, outputs = self._processor.model_runner, self._processor.inputs_and_outputs
        runner.pad_inputs = self._recorded is not None and may_record
        self.cache.max_blocks_per_request = self._most_blocks if runner.pad_inputs else 0
        if not self._processor.prepare_next_batch():
            return []
        if outputs.use_block_table:
            self.cache.plan_decoding(outputs.requests_in_batch, outputs.num_q_tokens)
        else:
            self.cache.plan_step(outputs.requests_in_batch)
        return [_packed_rows(request) for request in outputs.requests_in_batch]

    def run(self, scored: Sequence[int] = (), *, program: Hashable = None) -> BatchOutput:
        """Run the step that `pack` laid out: forward, sample, and move every request on.

        The logits of the `scored` rows of the step are computed and returned as well. `program` is what hooks
        do beside the numbers in their tensors.
        """
        outputs = self._processor.inputs_and_outputs
        sampling = [r.state.request_id for r in outputs.requests_in_batch if r.has_new_token]
        if outputs.use_block_table:
            rows = [row for row, r in enumerate(outputs.requests_in_batch) if r.has_new_token]
            decoded = self._decode(program)
            logits = decoded[torch.tensor([*rows, *scored], dtype=torch.long, device=decoded.device)]
        else:
            logits = self._forward(len(sampling), scored)  # [sampling + scored, vocab]
        token_ids, logprobs = self._sample(logits[: len(sampling)], sampling)
        outputs.output_ids[0, : len(sampling)].copy_(token_ids)
        # transformers carries log-probabilities in the same int32 tensor, as bits.
        outputs.output_ids[1, : len(sampling)].copy_(logprobs.float().view(torch.int32))
        outputs.retrieve_device_outputs()
        _, new_ids, new_logprobs = outputs.prepare_batch_update()
        self._processor.update_batch()
        self._keep_pages(outputs.requests_in_batch)
        # Rows past the sampling requests are padding of transformers' static outputs.
        new_tokens = [NewToken(*row) for row in zip(sampling, new_ids, new_logprobs, strict=False)]
        return BatchOutput(new_tokens, logits[len(sampling) :])

    def _keep_pages(self, requests: Sequence[FutureRequestState]) -> None:
        """Offer the pages that a step completed, now that it has run."""
        for request in requests:
            state = request.state
            if hashes := self._page_hashes.get(state.request_id):
                self.cache.keep_pages(state.request_id, hashes, state.position_offset)
                if not state.remaining_prefill_tokens:
                    del self._page_hashes[state.request_id]

    def _forward(self, num_sampling: int, scored: Sequence[int]) -> Tensor:
        """Logits in float32 of the last rows of the requests that sample, then of the scored rows."""
        runner, outputs = self._processor.model_runner, self._processor.inputs_and_outputs
        batch_data = outputs.get_model_kwargs(use_padding=runner.pad_inputs)
        # Past the sampling requests are those in the middle of their prompt, with no row of their own.
        rows = batch_data["logits_indices"][:num_sampling]
        batch_data["logits_indices"] = torch.cat([rows, rows.new_tensor(scored)])
        runner.compute_batch(self._host.model, batch_data)
        logits, self._logits = self._logits, None
        assert logits is not None  # compute_batch ends with _keep_logits
        return logits

    def _decode(self, program: Hashable) -> Tensor:
        """Logits in float32 of all rows, those of nobody too, of a step that is, or becomes, a recording."""
        runner, outputs = self._processor.model_runner, self._processor.inputs_and_outputs
        batch_data = outputs.get_model_kwargs(use_padding=True)
        num_rows = outputs.num_q_tokens
        rows = batch_data["logits_indices"]  # one of transformers' tensors that stay
        rows.copy_(torch.arange(num_rows))
        if runner.supports_logits_to_keep(self._host.model):
            batch_data["logits_to_keep"] = rows
        assert self._recorded is not None  # or it would not have been laid out so
        self._recorded.run(
            partial(
                runner._forward_process_and_sample, self._host.model, batch_data, *outputs.get_cb_kwargs()
            ),
            program=(program, self.cache.keys.version),
            shape=(num_rows, self.cache.keys.width),
        )
        assert self._kept_logits is not None
        return self._kept_logits[:num_rows]

    def _keep_logits(self, scores: Tensor, output_ids: Tensor) -> None:  # noqa: ARG002  # in place of a sampler
        if not self._processor.inputs_and_outputs.use_block_table:
            self._logits = scores[0]
            return
        if self._kept_logits is None:  # no recording yet: each is made after such a step has run
            self._kept_logits = scores.new_zeros(self._max_running, scores.shape[-1])
        self._kept_logits[: scores.shape[1]].copy_(scores[0])


def _packed_rows(request: FutureRequestState) -> PackedRows:
    return PackedRows(
        request_id=request.state.request_id,
        first_position=request.state.position_offset - request.query_length,
        num_rows=request.query_length,
        samples=request.has_new_token,
    )
