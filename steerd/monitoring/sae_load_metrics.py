"""Which SAEs are served since when, and what came of loading them, at the start and later."""

from __future__ import annotations

import time
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge


class SaeLoadMetrics:
    """Counts loads and reloads, and tells which weights are served."""

    def __init__(self, registry: CollectorRegistry, saes: Sequence[str]) -> None:
        self._generation = Gauge(
            "steerd_sae_generation_info",
            "Always 1; its labels say which weights are served.",
            ("sae", "sha256_12"),
            registry=registry,
        )
        loads = Counter(
            "steerd_sae_loads_total", "SAEs loaded at the start and later.", ("result",), registry=registry
        )
        self._loads = {result: loads.labels(result) for result in ("ok", "error")}
        failures = Counter(
            "steerd_sae_reload_failures_total",
            "Reloads that were refused; what was served before still is.",
            ("sae",),
            registry=registry,
        )
        failing = Gauge(
            "steerd_sae_reload_failing",
            "1 when the last reload was refused, else 0.",
            ("sae",),
            registry=registry,
        )
        loaded_at = Gauge(
            "steerd_sae_last_load_timestamp_seconds",
            "Unix time at which what is served was loaded.",
            ("sae",),
            registry=registry,
        )
        self._reload_failures = {sae: failures.labels(sae) for sae in saes}
        self._reload_failing = {sae: failing.labels(sae) for sae in saes}
        self._loaded_at = {sae: loaded_at.labels(sae) for sae in saes}
        self._weights: dict[str, str] = {}

    def loaded(self, sae: str, weights_sha256: str) -> None:
        """An SAE is served from now on, in the place of another one of its name if there was one."""
        if sae in self._weights:
            self._generation.remove(sae, self._weights[sae])
        self._weights[sae] = weights_sha256[:12]
        self._generation.labels(sae, self._weights[sae]).set(1)
        self._loads["ok"].inc()
        self._loaded_at[sae].set(time.time())
        self._reload_failing[sae].set(0)

    def failed(self, sae: str) -> None:
        """What lies in its folder could not be served; what was served still is."""
        self._loads["error"].inc()
        self._reload_failures[sae].inc()
        self._reload_failing[sae].set(1)
