"""steerd's engine and plain transformers, paced by a gate."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import StoppingCriteriaList

from benchmarks.engine_monitor import started_monitor
from benchmarks.generation_systems import GIB, batching_config, bytes_per_token, greedy
from benchmarks.outcome import Outcome
from benchmarks.turns import Gate, PacedSystem, Prompts
from steerd.config import EngineConfig, WatchedFeature
from steerd.engine.engine import Engine
from steerd.engine.events import StepReport
from steerd.engine.request import Capture, GenerationRequest, SamplingParams
from steerd.engine.waiting_line import Submission
from steerd.host.host_model import HostModel
from steerd.monitoring.monitor import Monitor
from steerd.sae.sae_file import SaeBundle
from steerd.server.watch_keeper import WatchKeeper
from steerd.steering.intervention import Intervention
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.steering import Steering

_SPARE = 1.1  # of the memory for keys and values: blocks are given out whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What an engine is asked for: request number i gets configuration i modulo their number.

    `watch` and `sample_every` are the server's, on every row.
    """

    configurations: Sequence[tuple[Intervention, ...]] = ((),)
    capture: Capture = field(default_factory=Capture)
    watch: tuple[WatchedFeature, ...] = ()
    sample_every: int = 0


def engine_config(host: HostModel, prompts: Prompts, num_new: int) -> EngineConfig:
    """The defaults, with room for exactly these requests."""
    page = EngineConfig().page_size
    tokens = sum(-(-(len(prompt) + num_new) // page) * page for prompt in prompts)
    return EngineConfig(
        kv_cache_gib=max(_SPARE * tokens * bytes_per_token(host) / GIB, 0.01),
        max_running_requests=max(len(prompts), EngineConfig().max_running_requests),
        share_prefixes=False,  # the same prompts come again every round
    )


class PacedEngine(PacedSystem):
    """steerd's engine, with a server's metrics."""

    def __init__(self, host: HostModel, saes: Sequence[SaeBundle], config: EngineConfig, ask: Ask) -> None:
        super().__init__()
        loaded = LoadedSaes(host)
        for bundle in saes:
            loaded.add(bundle.metadata.name, bundle)
        monitor, metrics = started_monitor(host.name, [sae.name for sae in loaded], config)
        self._ask = ask
        self._observer = _PacedObserver(self.gate, monitor)
        self._engine = Engine(host, loaded, config, self._observer, ask.sample_every)
        WatchKeeper(loaded, self._engine, metrics).begin(ask.watch)
        self._submissions: list[Submission] = []
        self._outcomes: list[Outcome] = []

    def _start(self, prompts: Prompts, num_new: int) -> None:
        self._observer.batch = len(prompts)
        self._outcomes = [Outcome() for _ in prompts]
        requests = [self._request(row, prompt, num_new) for row, prompt in enumerate(prompts)]
        self._engine.start()
        self._submissions = self._engine.submit_all(list(zip(requests, self._outcomes, strict=True)))

    def _finish(self) -> None:
        for submission in self._submissions:
            self._engine.cancel(submission)
        for outcome in self._outcomes:
            outcome.wait()
        self._engine.stop()
        self._observer.monitor.stop()

    def _request(self, row: int, prompt: Sequence[int], num_new: int) -> GenerationRequest:
        configurations = self._ask.configurations
        return GenerationRequest(
            id=f"row-{row}",
            prompt_ids=tuple(prompt),
            sampling=SamplingParams(max_new_tokens=num_new, temperature=0.0, top_p=1.0, top_k=0, seed=0),
            steering=Steering(interventions=configurations[row % len(configurations)]),
            capture=self._ask.capture,
        )


class _PacedObserver:
    """Stops the engine after every step, when a server's metrics have taken it in."""

    def __init__(self, gate: Gate, monitor: Monitor) -> None:
        self.monitor = monitor
        self.first_token, self.request_finished = monitor.first_token, monitor.request_finished
        self._gate = gate
        self.batch = 0

    def step_finished(self, report: StepReport) -> None:
        self.monitor.step_finished(report)
        self.monitor.settle()
        everybody = report.batch_size == report.generated_tokens == self.batch
        self._gate.step_done(decodes=everybody and report.prompt_tokens == 0)


class _PacedModel(PacedSystem):
    """Stops whatever runs a model at the end of each of its forwards."""

    def __init__(self, host: HostModel) -> None:
        super().__init__()
        self._model: Any = host.model  # Any: the library's mixins hide its methods' signatures
        self._batch = 0
        self._hook = self._model.register_forward_hook(self._forward_done, with_kwargs=True)

    def _forward_done(
        self,
        module: torch.nn.Module,  # noqa: ARG002  # a hook's
        args: tuple[Any, ...],  # noqa: ARG002
        kwargs: dict[str, Any],
        output: Any,  # noqa: ARG002
    ) -> None:
        self.gate.step_done(decodes=kwargs["input_ids"].numel() == self._batch)


class PacedGenerate(_PacedModel):
    """transformers' generate on the whole batch at once: greedy, DynamicCache, sdpa, no padding."""

    def __init__(self, host: HostModel) -> None:
        super().__init__(host)
        self._ended = False
        self._thread = threading.Thread()

    def _start(self, prompts: Prompts, num_new: int) -> None:
        self._batch = len(prompts)
        self._thread = threading.Thread(target=self._generate, args=(prompts, num_new), daemon=True)
        self._thread.start()

    def _finish(self) -> None:
        self._ended = True
        self._thread.join()
        self._hook.remove()

    def _generate(self, prompts: Prompts, num_new: int) -> None:
        input_ids = torch.tensor(prompts, device=self._model.device)
        try:
            self._model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                max_new_tokens=num_new,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([self._is_over]),
            )
        except Exception as error:
            self.gate.fail(error)

    def _is_over(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002
        return torch.full((len(input_ids),), self._ended)


class PacedContinuousBatching(_PacedModel):
    """transformers' continuous batching as it comes, sdpa, with the memory that steerd's engine has."""

    def __init__(self, host: HostModel, config: EngineConfig) -> None:
        super().__init__(host)
        self._config = batching_config(host, config)
        self._manager: Any = None  # the library's
        self._ids: list[str] = []
        self._running = ExitStack()

    def _start(self, prompts: Prompts, num_new: int) -> None:
        self._batch = len(prompts)
        context = self._model.continuous_batching_context_manager(
            generation_config=greedy(num_new), continuous_batching_config=self._config(), warmup=False
        )
        self._manager = self._running.enter_context(context)
        self._ids = [self._manager.add_request(list(prompt), max_new_tokens=num_new) for prompt in prompts]

    def _finish(self) -> None:
        for request_id in self._ids:
            self._manager.cancel_request(request_id)
        self._running.close()
        self._hook.remove()
