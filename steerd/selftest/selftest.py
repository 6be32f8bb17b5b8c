"""The whole selftest: from a loaded host and its SAEs to a report."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

import torch

from steerd.config import EngineConfig
from steerd.engine.engine import Engine
from steerd.engine.events import EngineObserver, LastEvent, StepReport
from steerd.engine.request import GenerationRequest
from steerd.engine.watch_list import WatchList
from steerd.host.host_model import HostModel
from steerd.selftest.checks import Checks
from steerd.selftest.probe_set import make_probe_set
from steerd.selftest.references import References
from steerd.selftest.report import Finding, Report, Status
from steerd.selftest.sae_fit import check_sae_fit
from steerd.steering.loaded_saes import LoadedSaes

# A few short texts need no more, and what the server's own engine will have must stay free.
_KV_CACHE_GIB = 0.5

_CHUNK, _CHUNKS_AT_ONCE = 19, 4

_log = logging.getLogger(__name__)

Check = Callable[[Checks], Finding]

_AS_CONFIGURED: dict[str, Check] = {
    "steered = reference": Checks.steered_is_reference,
    "receipt = reference": Checks.receipt_is_reference,
    "fired = reference": Checks.fired_is_reference,
    "switched = scoped": Checks.switched_is_scoped,
    "studied = reference": Checks.studied_is_reference,
    "unsteered = plain host": Checks.unsteered_is_plain,
    "batch isolation": Checks.batched_is_alone,
    "permutation": Checks.order_is_nothing,
    "cached = uncached": Checks.cached_is_uncached,
    "padding": Checks.lengths_are_nothing,
    "shared = own": Checks.shared_is_own,
    "graph = eager": Checks.graph_is_eager,
}
_IN_SMALL_STEPS: dict[str, Check] = {
    "chunked = whole": Checks.chunked_is_whole,
    "no-op": Checks.no_op_is_nothing,
}


class MakeEngine(Protocol):
    """What makes an engine, as the class itself does."""

    def __call__(
        self,
        host: HostModel,
        saes: LoadedSaes,
        config: EngineConfig,
        observer: EngineObserver,
        sample_every: int,
    ) -> Engine: ...


def selftest(
    host: HostModel,
    saes: LoadedSaes,
    config: EngineConfig,
    watch: WatchList | None = None,
    sample_every: int = 0,
    *,
    make_engine: MakeEngine = Engine,
) -> Report:
    """Try host and SAEs on engines of their own, made as the server makes its engine, which may follow.

    No engine may have taken over the host before. Raises HostError when it cannot be batched at all.
    """
    started = time.monotonic()
    probes = make_probe_set(host, saes, config.page_size)
    references = References(host, saes, probes.with_references())
    findings: dict[str, Finding] = {}
    for changed, checks in ((_small(config), _AS_CONFIGURED), (_in_chunks(config), _IN_SMALL_STEPS)):
        engine = make_engine(host, saes, changed, _Silent(), sample_every)
        if watch is not None:
            engine.watch(watch)
        asked = Checks(engine, probes, references, at_once=changed.max_running_requests, host=host)
        findings |= _run(engine, asked, checks)
        del engine, asked
        _free_memory()
    findings["SAE fits the host"] = check_sae_fit(saes, probes.rows)
    return Report(
        host=host.name,
        dtype=str(host.dtype).removeprefix("torch."),
        device=str(host.device),
        saes=tuple(loaded.name for loaded in saes),
        seconds=time.monotonic() - started,
        findings=findings,
    )


def _small(config: EngineConfig) -> EngineConfig:
    return replace(config, kv_cache_gib=min(config.kv_cache_gib, _KV_CACHE_GIB))


def _in_chunks(config: EngineConfig) -> EngineConfig:
    """Small steps; nothing is shared, so that the same requests make the same steps again.

    Nor is any recorded: such steps equal others to rounding, and here bits are compared.
    """
    return replace(
        _small(config),
        max_batch_tokens=_CHUNK,
        max_running_requests=min(config.max_running_requests, _CHUNKS_AT_ONCE),
        share_prefixes=False,
        cuda_graphs="off",
    )


def _run(engine: Engine, asked: Checks, checks: Mapping[str, Check]) -> dict[str, Finding]:
    engine.start()
    try:
        return {name: _finding(name, asked, check) for name, check in checks.items()}
    finally:
        engine.stop()


def _finding(name: str, asked: Checks, check: Check) -> Finding:
    """What a check found; one that cannot be run to its end has failed."""
    try:
        return check(asked)
    except Exception as error:
        _log.exception("the check %r of the selftest", name)
        return Finding(Status.FAILED, None, None, f"{type(error).__name__}: {error}")


def _free_memory() -> None:
    """An engine is part of reference cycles, and the next one needs its memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Silent:
    """An observer of requests that are nobody's."""

    def step_finished(self, report: StepReport) -> None: ...

    def request_finished(self, request: GenerationRequest, event: LastEvent) -> None: ...

    def first_token(self, request: GenerationRequest, seconds: float) -> None: ...
