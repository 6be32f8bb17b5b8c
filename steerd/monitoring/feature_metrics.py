"""SAE features as metrics, in two tiers of known size: aggregates per SAE, counters for the watch list.

Activations are read before any edit; special tokens and a text's very
first token count in nothing but steering_applied_tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

from steerd.config import WatchedFeature
from steerd.engine.events import StepReport
from steerd.monitoring.buckets import ACTIVE_FEATURES
from steerd.steering.intervention import DIRECTIONS, FeatureRef, Operation

MODES = tuple(operation.__name__.lower() for operation in get_args(Operation))


class FeatureMetrics:
    """Counts feature activations, on the engine's thread."""

    def __init__(
        self, registry: CollectorRegistry, *, saes: Sequence[str], watch: Sequence[WatchedFeature]
    ) -> None:
        self._make_aggregates(registry, saes)
        self._make_watched(registry, watch)

    def step_finished(self, report: StepReport) -> None:
        for sae, tokens in report.monitored_tokens.items():
            self._monitored[sae].inc(tokens)
        for sae, counts in report.active_features.items():
            for count in counts:
                self._active_features[sae].observe(count)
        for sae_and_mode, rows in report.steered_rows.items():
            self._steered[sae_and_mode].inc(rows)
        for reading in report.watched:
            if reading.active_tokens:  # few of them are, and a step has no time for 512 counters
                self._active[reading.feature].inc(reading.active_tokens)
                self._exceeded[reading.feature].inc(reading.over_threshold_tokens)

    def _make_aggregates(self, registry: CollectorRegistry, saes: Sequence[str]) -> None:
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
            "Edits applied, one for each token and target.",
            ("sae", "mode"),
            registry=registry,
        )
        self._monitored = {sae: monitored.labels(sae) for sae in saes}
        self._active_features = {sae: active_features.labels(sae) for sae in saes}
        sources = (*saes, DIRECTIONS)
        self._steered = {(source, mode): steered.labels(source, mode) for source in sources for mode in MODES}

    def _make_watched(self, registry: CollectorRegistry, watch: Sequence[WatchedFeature]) -> None:
        labels = ("sae", "feature", "alias")
        active = Counter(
            "steerd_feature_active_tokens_total",
            "Tokens on which a watched feature was active.",
            labels,
            registry=registry,
        )
        exceeded = Counter(
            "steerd_feature_threshold_exceeded_total",
            "Tokens on which a watched feature was above its threshold.",
            labels,
            registry=registry,
        )
        names = {FeatureRef(w.sae, w.index): (w.sae, str(w.index), w.alias) for w in watch}
        self._active = {feature: active.labels(*values) for feature, values in names.items()}
        self._exceeded = {feature: exceeded.labels(*values) for feature, values in names.items()}
