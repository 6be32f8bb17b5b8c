"""transformers' batch processor for a host that it takes over: its settings, its memory and our attention."""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
from transformers.generation.continuous_batching.scheduler import FIFOScheduler
from transformers.generation.logits_process import LogitsProcessorList

from steerd.engine.batchable import GIB, bytes_per_token, check_attention, check_memory
from steerd.engine.kv_cache import KvCache
from steerd.errors import HostError
from steerd.host.host_model import HostModel

ATTENTION_NAME = "steerd_paged"

KeepLogits = Callable[[Tensor, Tensor], None]
"""Takes the logits [1, rows, vocab] of a forward; stands where transformers would sample from them."""


@dataclass(frozen=True, slots=True)
class BatchProcessor:
    """What packs and runs the steps of one host, and the memory that it does this in.

    `most_blocks` is how many blocks of memory a request can have in a step that is recorded.
    """

    cache: KvCache
    # Any: transformers' types allow for asynchronous batches and unresolved configs, which ours are not.
    processor: Any
    most_blocks: int


def take_over(
    host: HostModel,
    keep_logits: KeepLogits,
    *,
    kv_cache_gib: float,
    max_batch_tokens: int,
    max_running_requests: int,
    page_size: int,
    records: bool,
) -> BatchProcessor:
    """Put our attention into a host and allocate its cache; `records`: some of its steps are to be recorded.

    Raises HostError for hosts it would get wrong or that cannot be recorded, ConfigError for more memory than
    there is.
    """
    check_attention(host)
    check_memory(host.device, kv_cache_gib)
    AttentionInterface.register(ATTENTION_NAME, _paged_attention)
    host.model.set_attn_implementation(ATTENTION_NAME)
    num_blocks = max(int(kv_cache_gib * GIB) // bytes_per_token(host) // page_size, 1)
    config = _batching_config(
        host,
        num_blocks=num_blocks,
        max_batch_tokens=max_batch_tokens,
        max_running_requests=max_running_requests,
        page_size=page_size,
    )
    # transformers has a path of its own for steps of one row a request, of at most so many blocks.
    most_blocks = min(num_blocks, host.max_context // page_size + 1)
    if records:
        config.max_blocks_per_request = most_blocks
    cache = _make_cache(host, config)
    if records and cache.why_copied:
        raise HostError(f"steps of host {host.name!r} cannot be recorded: {cache.why_copied}")
    return BatchProcessor(cache, _make_processor(host, cache, config, keep_logits), most_blocks)


def _batching_config(
    host: HostModel, *, num_blocks: int, max_batch_tokens: int, max_running_requests: int, page_size: int
) -> Any:
    return resolve_continuous_batching_config(
        config=host.model.config.get_text_config(),
        cb_config=ContinuousBatchingConfig(
            page_size=page_size,
            num_blocks=num_blocks,
            max_batch_tokens=max_batch_tokens,
            max_requests_per_batch=max_running_requests,
            allow_block_sharing=False,
            use_async_batching=False,
            use_cuda_graph=False,  # RecordedSteps does that
            # Steps of several rows a request keep their size, whatever those that are recorded need.
            q_padding_interval_size=1,
            kv_padding_interval_size=1,
            max_blocks_per_request=0,
            return_logprobs=True,
            seed=0,
            # transformers' estimate counts masks that we never make, so it must not be what refuses.
            max_memory_percent=1e6,
        ),
        workload_hints=None,
        has_logit_processors=False,
        device=host.device,
    )


def _make_cache(host: HostModel, config: Any) -> KvCache:
    model: Any = host.model
    cache = KvCache(
        config=model.config.get_text_config(),
        continuous_batching_config=config,
        device=host.device,
        distributed_helper=_single_process(),
        dtype=host.dtype,
        model_supports_logits_to_keep=model._supports_logits_to_keep(),
    )
    update_cb_config_after_cache_creation(
        cb_config=config, num_blocks=cache.num_blocks, max_batch_tokens=cache.max_batch_tokens
    )
    return cache


def _make_processor(host: HostModel, cache: KvCache, config: Any, keep_logits: KeepLogits) -> Any:
    # Memory is reserved at admission, so nothing has to be held back for requests that run.
    scheduler = FIFOScheduler(cache, 0.0, config.max_requests_per_batch)
    processor: Any = ContinuousBatchProcessor(
        cache=cache,
        config=host.model.config.get_text_config(),
        generation_config=host.model.generation_config,
        continuous_batching_config=config,
        logit_processor=ContinuousBatchingLogitsProcessorList(LogitsProcessorList()),
        input_queue=queue.Queue(),
        cancel_queue=queue.Queue(),
        output_router=OutputRouter(),
        background_thread_status=BackgroundThreadStatus(),
        model_device=host.device,
        model_dtype=host.dtype,
        scheduler=scheduler,
        distributed_helper=_single_process(),
    )
    processor.model_runner._sample = keep_logits
    # All on one stream: what is written before a forward, and read after it, is in order then.
    processor.inputs_and_outputs.compute_stream = None
    return processor


def _single_process() -> DistributedHelper:
    return DistributedHelper(device_mesh=None, cpu_group_timeout=None, tp_plan={})


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
