"""Plain transformers, two ways: prompts in, arrival times out."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.streamers import BaseStreamer

from benchmarks.decode_rate import Arrivals
from benchmarks.outcome import TIMEOUT_SECONDS
from steerd.config import DEFAULT_MODEL, EngineConfig
from steerd.host.host_model import HostModel
from steerd.host.loading import load_pretrained

Prompts = Sequence[Sequence[int]]
GIB = 1 << 30


class EndlessHost(HostModel):
    """A host, but no token ends a text: every run has the length that was asked for."""

    @cached_property
    def eos_token_ids(self) -> frozenset[int]:
        return frozenset()


def load_endless_host(
    name: str = DEFAULT_MODEL,
    weights: str = "as_loaded",
    *,
    dtype: str = "float32",
    device: str = "cpu",
) -> EndlessHost:
    """Another instance of a host in memory, which `generate` does not see end either."""
    loaded = load_pretrained(name, dtype=dtype, device=device, weights=weights)
    host = EndlessHost(loaded.model, loaded.tokenizer, name=name, folder=loaded.folder, weights=weights)
    generation_config: Any = host.model.generation_config  # Any: None is allowed, says the library's loader
    generation_config.eos_token_id = None
    return host


def sharing_weights(host: HostModel) -> EndlessHost:
    """Another instance of a host, with modules and hooks of its own but the same tensors."""
    shared: dict[int, Any] = {
        id(tensor): tensor for tensor in (*host.model.parameters(), *host.model.buffers())
    }
    return EndlessHost(copy.deepcopy(host.model, shared), host.tokenizer, name=host.name)


class _ArrivalStreamer(BaseStreamer):
    """Notes when `generate` has another token of every row."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:  # noqa: ARG002  # when is all that counts
        self.times.append(time.perf_counter())

    def end(self) -> None: ...


class DenseGenerate:
    """(a) transformers' generate on the whole batch at once: greedy, DynamicCache, sdpa, no padding."""

    def __init__(self, host: HostModel) -> None:
        self._host = host

    def __call__(self, prompts: Prompts, num_new: int) -> Arrivals:
        input_ids = torch.tensor(prompts)
        streamer = _ArrivalStreamer()
        started = time.perf_counter()
        model: Any = self._host.model  # Any: the library's mixin hides this method's signature
        model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=num_new,
            do_sample=False,
            pad_token_id=0,
            streamer=streamer,
        )
        times = streamer.times[1:]  # the streamer is handed the prompt first
        return Arrivals(started, [times] * len(prompts))


class PlainContinuousBatching:
    """(b) transformers' continuous batching as it comes, sdpa, with the memory that steerd's engine has."""

    def __init__(self, host: HostModel, engine: EngineConfig) -> None:
        self._host = host
        self._make_config = batching_config(host, engine)

    def __call__(self, prompts: Prompts, num_new: int) -> Arrivals:
        model: Any = self._host.model  # Any: as above
        with model.continuous_batching_context_manager(
            generation_config=greedy(num_new),
            continuous_batching_config=self._make_config(),
            warmup=False,  # it captures CUDA graphs, of which there are none
        ) as manager:
            started = time.perf_counter()
            for prompt in prompts:
                manager.add_request(list(prompt), max_new_tokens=num_new, record_timestamps=True)
            results = [manager.get_result(timeout=TIMEOUT_SECONDS) for _ in prompts]
        return Arrivals(started, [result.timestamps for result in results])


def batching_config(host: HostModel, engine: EngineConfig) -> Callable[[], ContinuousBatchingConfig]:
    """What makes a configuration of transformers' batching with the memory of steerd's engine."""
    return partial(
        ContinuousBatchingConfig,
        page_size=engine.page_size,
        num_blocks=int(engine.kv_cache_gib * GIB) // bytes_per_token(host) // engine.page_size,
        max_batch_tokens=engine.max_batch_tokens,
        allow_block_sharing=False,  # the same prompts may come again every round
    )


def bytes_per_token(host: HostModel) -> int:
    """Bytes of one token's keys and values in float32."""
    config = host.model.config
    return 2 * int(config.num_hidden_layers * config.num_key_value_heads * config.head_dim) * 4


def greedy(num_new: int) -> GenerationConfig:
    """Always the likeliest token, to the end of the budget."""
    create: Any = GenerationConfig  # Any: its constructor has no annotations
    config: GenerationConfig = create(do_sample=False, eos_token_id=-1, max_new_tokens=num_new)
    return config
