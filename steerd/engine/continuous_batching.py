"""One step at a time of transformers' continuous batching, driven by the engine's own thread.

With kv_cache.py this is the only file that touches transformers' batching internals (pinned to one minor
version). transformers schedules, packs the rows and keeps the pages; ours are the attention, the sampler and
the decision when a request ends, and the sharing of prefixes: transformers' hash of a page does not know what
steers the prompt.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.continuous_api import (
    BackgroundThreadStatus,
    ContinuousBatchProcessor,
    OutputRouter,
)
from transformers.generation.continuous_batching.distributed import DistributedHelper
from transformers.generation.continuous_batching.initialization import (
    resolve_continuous_batching_config,
    update_cb_config_after_cache_creation,
)
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState
from transformers.generation.continuous_batching.scheduler import FIFOScheduler
from transformers.generation.logits_process import LogitsProcessorList

from steerd.engine.kv_cache import KvCache
from steerd.engine.prefix_pages import NO_PAGES, PromptPages
from steerd.errors import ConfigError, HostError
from steerd.host.host_model import HostModel

ATTENTION_NAME = "steerd_paged"
GIB = 1 << 30

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
    ) -> None:
        """Take over the host's attention and allocate the cache.

        Raises HostError for hosts it would get wrong, ConfigError for more memory than there is.
        """
        _check_host(host)
        _check_memory(host.device, kv_cache_gib)
        AttentionInterface.register(ATTENTION_NAME, _paged_attention)
        host.model.set_attn_implementation(ATTENTION_NAME)
        self._host = host
        self._sample = sample
        self._logits: Tensor | None = None  # of the step that runs
        self._page_hashes: dict[str, tuple[bytes, ...]] = {}  # of the prompts that are not yet run
        config = host.model.config.get_text_config()
        num_blocks = int(kv_cache_gib * GIB) // _bytes_per_token(host) // page_size
        batching_config = resolve_continuous_batching_config(
            config=config,
            cb_config=ContinuousBatchingConfig(
                page_size=page_size,
                num_blocks=max(num_blocks, 1),
                max_batch_tokens=max_batch_tokens,
                max_requests_per_batch=max_running_requests,
                allow_block_sharing=False,
                use_async_batching=False,
                use_cuda_graph=False,
                return_logprobs=True,
                seed=0,
                # transformers' estimate counts masks that we never make, so it must not be what refuses.
                max_memory_percent=1e6,
            ),
            workload_hints=None,
            has_logit_processors=False,
            device=host.device,
        )
        self.cache = self._make_cache(config, batching_config)
        # Any: transformers' types allow for asynchronous batches and unresolved configs, which ours are not.
        self._processor: Any = self._make_processor(config, batching_config)

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

    def pack(self) -> list[PackedRows]:
        """Lay out the next step; empty when nothing runs."""
        if not self._processor.prepare_next_batch():
            return []
        requests = self._processor.inputs_and_outputs.requests_in_batch
        self.cache.plan_step(requests)
        return [_packed_rows(request) for request in requests]

    def run(self, scored: Sequence[int] = ()) -> BatchOutput:
        """Run the step that `pack` laid out: forward, sample, and move every request on.

        The logits of the `scored` rows of the step are computed and returned as well.
        """
        outputs = self._processor.inputs_and_outputs
        sampling = [r.state.request_id for r in outputs.requests_in_batch if r.has_new_token]
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

    def _keep_logits(self, scores: Tensor, output_ids: Tensor) -> None:  # noqa: ARG002  # in place of a sampler
        self._logits = scores[0]

    def _make_cache(self, config: Any, batching_config: Any) -> KvCache:
        model: Any = self._host.model
        cache = KvCache(
            config=config,
            continuous_batching_config=batching_config,
            device=self._host.device,
            distributed_helper=_single_process(),
            dtype=self._host.dtype,
            model_supports_logits_to_keep=model._supports_logits_to_keep(),
        )
        update_cb_config_after_cache_creation(
            cb_config=batching_config, num_blocks=cache.num_blocks, max_batch_tokens=cache.max_batch_tokens
        )
        return cache

    def _make_processor(self, config: Any, batching_config: Any) -> Any:
        # Memory is reserved at admission, so nothing has to be held back for requests that run.
        scheduler = FIFOScheduler(self.cache, 0.0, batching_config.max_requests_per_batch)
        processor: Any = ContinuousBatchProcessor(
            cache=self.cache,
            config=config,
            generation_config=self._host.model.generation_config,
            continuous_batching_config=batching_config,
            logit_processor=ContinuousBatchingLogitsProcessorList(LogitsProcessorList()),
            input_queue=queue.Queue(),
            cancel_queue=queue.Queue(),
            output_router=OutputRouter(),
            background_thread_status=BackgroundThreadStatus(),
            model_device=self._host.device,
            model_dtype=self._host.dtype,
            scheduler=scheduler,
            distributed_helper=_single_process(),
        )
        processor.model_runner._sample = self._keep_logits
        return processor


def _single_process() -> DistributedHelper:
    return DistributedHelper(device_mesh=None, cpu_group_timeout=None, tp_plan={})


def _packed_rows(request: FutureRequestState) -> PackedRows:
    return PackedRows(
        request_id=request.state.request_id,
        first_position=request.state.position_offset - request.query_length,
        num_rows=request.query_length,
        samples=request.has_new_token,
    )


def _paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001  # ours needs none
    scaling: float | None = None,
    *,
    cache: KvCache,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention that transformers' layers call by name; see KvCache.attend."""
    layer: int = module.layer_idx  # type: ignore[assignment]  # every attention module has it
    return cache.attend(layer, query, key, value, scaling, kwargs), None


def _bytes_per_token(host: HostModel) -> int:
    config = host.model.config.get_text_config()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(2 * config.num_hidden_layers * kv_heads * head_dim * host.dtype.itemsize)


def _check_memory(device: torch.device, kv_cache_gib: float) -> None:
    if device.type == "cuda":
        free_gib = torch.cuda.mem_get_info(device)[0] / GIB
    else:
        free_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    if kv_cache_gib > free_gib:
        raise ConfigError(
            f"engine.kv_cache_gib is {kv_cache_gib:g}, but {device} has only {free_gib:.1f} GiB"
        )


def _check_host(host: HostModel) -> None:
    """Refuse what our attention would get wrong, rather than serve wrong text."""
    model = host.model
    if not getattr(model, "_supports_attention_backend", False):
        raise HostError(
            f"host {host.name!r} ({type(model).__name__}) has an attention that cannot be replaced"
        )
    if any(hasattr(module, "sinks") for module in model.modules()):
        raise HostError(
            f"host {host.name!r} ({type(model).__name__}) uses attention sinks, which are not supported"
        )
