"""Engines on tiny hosts, ready for requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from steerd.config import EngineConfig, WatchedFeature
from steerd.engine.engine import Engine
from steerd.engine.events import EngineObserver
from steerd.engine.recorded_steps import Recorder
from steerd.engine.request import GenerationRequest
from steerd.engine.watch_list import load_watch_list
from steerd.host.host_model import HostModel
from steerd.steering.loaded_saes import LoadedSaes
from tests.engine.recorder import StepLog, SteppedLog, submit
from tests.engine.reference import Reference
from tests.engine.requests import SHORT, greedy_request
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae

SMALL: dict[str, Any] = {
    "kv_cache_gib": 0.002,
    "max_batch_tokens": 16,
    "page_size": 8,
    "share_prefixes": False,
}
"""Options with which prompts are cut into chunks, and every row of them runs."""


def tiny_saes(host: HostModel, layers: Sequence[int] = (0, 1)) -> LoadedSaes:
    """SAEs named sae-0, sae-1 .. after these layers."""
    saes = LoadedSaes(host)
    for number, layer in enumerate(layers):
        saes.add(f"sae-{number}", tiny_sae(host, f"blocks.{layer}.hook_resid_post", seed=number))
    return saes


@contextmanager
def serving(
    observer: EngineObserver | None = None,
    *,
    host: HostModel | None = None,
    saes: LoadedSaes | None = None,
    watch: Sequence[WatchedFeature] = (),
    sample_every: int = 0,
    recorder: Recorder | None = None,
    **options: Any,
) -> Iterator[Engine]:
    """A started engine, stopped at the end. `options` go to its config and complete SMALL."""
    host = host or make_tiny_host()
    saes = saes or tiny_saes(host)
    engine = Engine(
        host,
        saes,
        EngineConfig(**(SMALL | options)),
        observer or StepLog(),
        sample_every,
        recorder=recorder,
    )
    engine.watch(load_watch_list(watch, saes))
    engine.start()
    try:
        yield engine
    finally:
        if isinstance(observer, SteppedLog):
            observer.release()
        engine.stop()


def alone(host: HostModel, request: GenerationRequest) -> list[int]:
    """The ids that the request gives by itself, by `generate` on a host that no engine has taken over."""
    return Reference(host, tiny_saes(host), request).token_ids


def assert_nothing_is_left(engine: Engine, log: StepLog) -> None:
    """One more request runs as if it were the first, and its last step reports free memory."""
    probe = submit(engine, greedy_request("probe", SHORT, 3))

    assert probe.wait().generated_tokens == 3
    assert engine.drain(60)
    assert (engine.running, engine.waiting) == (0, 0)
    assert log.steps[-1].kv_used_bytes == 0
    assert (log.steps[-1].running, log.steps[-1].waiting) == (0, 0)
