"""The systems that engine_overhead compares, each behind one call: prompts in, arrival times out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.streamers import BaseStreamer

from benchmarks.decode_rate import Arrivals
from steerd.config import DEFAULT_MODEL, EngineConfig, MonitoringConfig, WatchedFeature
from steerd.engine.engine import Engine
from steerd.engine.events import FailedEvent, FinishedEvent, StepReport, StreamEvent, TokenEvent
from steerd.engine.request import Capture, GenerationRequest, SamplingParams
from steerd.host.host_model import HostModel
from steerd.host.loading import load_pretrained
from steerd.sae.sae_file import load_sae
from steerd.steering.intervention import (
    Ablate,
    Add,
    FeatureRef,
    Intervention,
    Operation,
    Scale,
    Set,
)
from steerd.steering.loaded_saes import LoadedSaes

SAE_NAME = "starter"
NUM_WATCHED = 64
TIMEOUT_SECONDS = 1800.0

Prompts = Sequence[Sequence[int]]
GIB = 1 << 30


class EndlessHost(HostModel):
    """The default host, but no token ends a text: every run has the length that was asked for."""

    @cached_property
    def eos_token_ids(self) -> frozenset[int]:
        return frozenset()


def load_endless_host() -> EndlessHost:
    """Another instance of it in memory, which `generate` does not see end either."""
    loaded = load_pretrained(DEFAULT_MODEL, dtype="float32", device="cpu")
    host = EndlessHost(loaded.model, loaded.tokenizer, name=DEFAULT_MODEL, folder=loaded.folder)
    generation_config: Any = host.model.generation_config  # Any: None is allowed, says the library's loader
    generation_config.eos_token_id = None
    return host


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
        config = host.model.config
        bytes_per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
        self._host = host
        self._config = partial(
            ContinuousBatchingConfig,
            page_size=engine.page_size,
            num_blocks=int(engine.kv_cache_gib * GIB) // bytes_per_token // engine.page_size,
            max_batch_tokens=engine.max_batch_tokens,
            allow_block_sharing=False,  # the same prompts come again every round
        )

    def __call__(self, prompts: Prompts, num_new: int) -> Arrivals:
        model: Any = self._host.model  # Any: as above
        with model.continuous_batching_context_manager(
            generation_config=_greedy(num_new),
            continuous_batching_config=self._config(),
            warmup=False,  # it captures CUDA graphs, of which there are none
        ) as manager:
            started = time.perf_counter()
            for prompt in prompts:
                manager.add_request(list(prompt), max_new_tokens=num_new, record_timestamps=True)
            results = [manager.get_result(timeout=TIMEOUT_SECONDS) for _ in prompts]
        return Arrivals(started, [result.timestamps for result in results])


def _greedy(num_new: int) -> GenerationConfig:
    create: Any = GenerationConfig  # Any: its constructor has no annotations
    config: GenerationConfig = create(do_sample=False, eos_token_id=-1, max_new_tokens=num_new)
    return config


@dataclass
class _EndOfRequest:
    times: list[float] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None

    def __call__(self, event: StreamEvent) -> None:
        match event:
            case TokenEvent():
                self.times.append(time.perf_counter())
            case FinishedEvent() | FailedEvent():
                self.error = event.error if isinstance(event, FailedEvent) else None
                self.ended.set()

    def wait(self) -> list[float]:
        """The arrival times of a request that ran to its end."""
        if not self.ended.wait(TIMEOUT_SECONDS):
            raise TimeoutError("a request did not end")
        if self.error is not None:
            raise self.error
        return self.times


class _NobodyLooks:
    """An observer that does nothing."""

    def step_finished(self, report: StepReport) -> None: ...

    def request_finished(self, request: GenerationRequest, event: FinishedEvent | FailedEvent) -> None: ...

    def first_token(self, request: GenerationRequest, seconds: float) -> None: ...


class SteerdEngine:
    """(c) and (d): steerd's engine, in this process, every request with the steering and capture of its row.

    As in a server with its defaults, every 16th token is encoded whole to count its active features.
    """

    def __init__(self, host: HostModel, sae_folder: Path, config: EngineConfig, *, steered: bool) -> None:
        saes = LoadedSaes(host)
        d_sae = saes.add(SAE_NAME, load_sae(sae_folder, name=SAE_NAME)).sae.d_sae
        self._interventions = sixteen_interventions(d_sae) if steered else ()
        watched = watched_features(d_sae) if steered else ()
        self._capture = Capture(watch=watched)
        self._engine = Engine(
            host,
            saes,
            config,
            _NobodyLooks(),
            watch=[WatchedFeature(sae=r.sae, index=r.index, alias=f"feature_{r.index}") for r in watched],
            sample_every=MonitoringConfig().sample_every,
        )
        self._engine.start()

    def __call__(self, prompts: Prompts, num_new: int) -> Arrivals:
        started = time.perf_counter()
        ends = [_EndOfRequest() for _ in prompts]
        for row, (prompt, end) in enumerate(zip(prompts, ends, strict=True)):
            self._engine.submit(self._request(row, prompt, num_new), end)
        return Arrivals(started, [end.wait() for end in ends])

    def close(self) -> None:
        """Stop the engine."""
        self._engine.stop()

    def _request(self, row: int, prompt: Sequence[int], num_new: int) -> GenerationRequest:
        return GenerationRequest(
            id=f"row-{row}",
            prompt_ids=tuple(prompt),
            sampling=SamplingParams(max_new_tokens=num_new, temperature=0.0, top_p=1.0, top_k=0, seed=0),
            interventions=self._interventions[row : row + 1],
            capture=self._capture,
        )


def watched_features(d_sae: int) -> tuple[FeatureRef, ...]:
    """The watch list: 64 features, evenly spread over the SAE."""
    return tuple(FeatureRef(SAE_NAME, index * d_sae // NUM_WATCHED) for index in range(NUM_WATCHED))


def sixteen_interventions(d_sae: int) -> tuple[Intervention, ...]:
    """One a request: sixteen features that nobody watches, the four operations in turn, growing strengths."""
    operations: list[Callable[[int], Operation]] = [
        lambda step: Add(0.5 * step),
        lambda step: Set(0.25 * step),
        lambda step: Scale(0.1 * step),
        lambda _: Ablate(),
    ]
    return tuple(
        Intervention(
            feature=FeatureRef(SAE_NAME, row * d_sae // 16 + 1), operation=operations[row % 4](row + 1)
        )
        for row in range(16)
    )
