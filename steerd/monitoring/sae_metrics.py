"""SAEs as metrics: aggregates per SAE, of all its features together.

Activations are read before any edit; special tokens and a text's very
first token count in nothing but steering_applied_tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from steerd.engine.events import FailedEvent, LastEvent, SampledRows, StepReport
from steerd.engine.request import GenerationRequest
from steerd.monitoring.buckets import ACTIVE_FEATURES, DELTA_RATIO, UNEXPLAINED
from steerd.monitoring.exemplars import exemplar
from steerd.monitoring.sae_load_metrics import SaeLoadMetrics
from steerd.steering.intervention import DIRECTIONS, Direction, Operation, operation_name

MODES = tuple(operation.__name__.lower() for operation in get_args(Operation))


class SaeMetrics:
    """Counts what was read and edited through each SAE."""

    def __init__(self, registry: CollectorRegistry, saes: Sequence[str], non_finite_rows: Counter) -> None:
        monitored = Counter(
            "steerd_monitored_tokens_total", "Tokens whose features were read.", ("sae",), registry=registry
        )
        active_features = Histogram(
            "steerd_sae_active_features",
            "Features active on a token (L0), over the sampled tokens that are encoded whole.",
            ("sae",),
            buckets=ACTIVE_FEATURES,
            registry=registry,
        )
        steered = Counter(
            "steerd_steering_applied_tokens_total",
            "Edits applied by requests that have ended, one for each token and intervention.",
            ("sae", "mode"),
            registry=registry,
        )
        unexplained = Histogram(
            "steerd_sae_unexplained_variance_ratio",
            "Share of a token's variance that the reconstruction leaves, over the sampled tokens.",
            ("sae",),
            buckets=UNEXPLAINED,
            registry=registry,
        )
        distinct = Gauge(
            "steerd_sae_distinct_features_seen",
            "Features that were active on any sampled token since the SAE was loaded.",
            ("sae",),
            registry=registry,
        )
        self._delta_ratio = Histogram(
            "steerd_steering_delta_ratio",
            "Length of what steering changes of a row by the row's: a request's mean at each hook point.",
            buckets=DELTA_RATIO,
            registry=registry,
        )
        self._loads = SaeLoadMetrics(registry, saes)
        self._non_finite_rows = non_finite_rows
        self._seen: dict[str, set[int]] = {sae: set() for sae in saes}
        self._unexplained = {sae: unexplained.labels(sae) for sae in saes}
        self._distinct = {sae: distinct.labels(sae) for sae in saes}
        self._monitored = {sae: monitored.labels(sae) for sae in saes}
        self._active_features = {sae: active_features.labels(sae) for sae in saes}
        sources = (*saes, DIRECTIONS)
        self._steered = {(source, mode): steered.labels(source, mode) for source in sources for mode in MODES}

    def step_finished(self, report: StepReport) -> None:
        for sae, tokens in report.monitored_tokens.items():
            self._monitored[sae].inc(tokens)
        for sae, sampled in report.sampled.items():
            self._count_sampled(sae, sampled)

    def request_finished(self, request: GenerationRequest, event: LastEvent) -> None:
        if isinstance(event, FailedEvent):
            return
        for point in event.receipt.hook_points:
            if point.rows_changed:
                self._delta_ratio.observe(point.mean_relative_norm, exemplar(request.id))
        # Nothing was done yet for a request that was cancelled before it ran.
        for edit, receipt in zip(request.steering.numbered, event.receipt.interventions, strict=False):
            sae = DIRECTIONS if isinstance(edit.target, Direction) else edit.target.sae
            self._steered[sae, operation_name(edit.operation)].inc(receipt.rows)

    def sae_loaded(self, sae: str, weights_sha256: str) -> None:
        """An SAE is served from now on, in the place of another one of its name if there was one."""
        self._loads.loaded(sae, weights_sha256)
        self._seen[sae] = set()

    def sae_reload_failed(self, sae: str) -> None:
        """What lies in its folder could not be served; what was served still is."""
        self._loads.failed(sae)

    def _count_sampled(self, sae: str, sampled: SampledRows) -> None:
        is_finite = np.isfinite(sampled.unexplained)
        self._non_finite_rows.inc(int((~is_finite).sum()))
        for share in sampled.unexplained[is_finite].tolist():
            self._unexplained[sae].observe(share)
        for count in sampled.active_features.tolist():
            self._active_features[sae].observe(count)
        self._seen[sae].update(sampled.active.features.tolist())
        self._distinct[sae].set(len(self._seen[sae]))
