"""SAEs as metrics: aggregates per SAE, of all its features together.

Activations are read before any edit; special tokens and a text's very
first token count in nothing but steering_applied_tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

from steerd.engine.events import FailedEvent, LastEvent, StepReport
from steerd.engine.request import GenerationRequest
from steerd.monitoring.buckets import ACTIVE_FEATURES
from steerd.steering.intervention import DIRECTIONS, Direction, Operation, operation_name

MODES = tuple(operation.__name__.lower() for operation in get_args(Operation))


class SaeMetrics:
    """Counts what was read and edited through each SAE."""

    def __init__(self, registry: CollectorRegistry, saes: Sequence[str]) -> None:
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
        self._monitored = {sae: monitored.labels(sae) for sae in saes}
        self._active_features = {sae: active_features.labels(sae) for sae in saes}
        sources = (*saes, DIRECTIONS)
        self._steered = {(source, mode): steered.labels(source, mode) for source in sources for mode in MODES}

    def step_finished(self, report: StepReport) -> None:
        for sae, tokens in report.monitored_tokens.items():
            self._monitored[sae].inc(tokens)
        for sae, sampled in report.sampled.items():
            for count in sampled.active_features.tolist():
                self._active_features[sae].observe(count)

    def request_finished(self, request: GenerationRequest, event: LastEvent) -> None:
        if isinstance(event, FailedEvent):
            return
        # Nothing was done yet for a request that was cancelled before it ran.
        for edit, receipt in zip(request.steering.numbered, event.receipt.interventions, strict=False):
            sae = DIRECTIONS if isinstance(edit.target, Direction) else edit.target.sae
            self._steered[sae, operation_name(edit.operation)].inc(receipt.rows)
