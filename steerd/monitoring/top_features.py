"""The features that are most above their usual strength now, from the tokens that are encoded whole."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steerd.engine.events import Floats, Ints, LastEvent, StepReport
from steerd.engine.request import GenerationRequest
from steerd.monitoring.request_tallies import RequestFeatures
from steerd.sae.feature_label import FeatureLabel

TOP_SECONDS = 60.0
TOP_FEATURES = 8
MAX_ENTRIES = 500_000  # pairs of token and feature that are kept: at most some 8 MB


@dataclass(frozen=True, slots=True)
class FeatureFacts:
    """What an SAE's file records, by feature: its label, its maximum, and its usual strength.

    A strength is the mean over tokens, active or not, as a share of the recorded maximum.
    """

    labels: Sequence[FeatureLabel]
    max_activation: NDArray[np.float64]
    usual_strength: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TopFeature:
    """One feature over the last minute: the share of tokens on which it was active, and its strengths."""

    feature: int
    label: FeatureLabel
    active_share: float
    strength: float
    usual_strength: float


class _Sampled(NamedTuple):
    """The sampled tokens of one step in one SAE: when, how many, and what was active on them."""

    at: float
    tokens: int
    features: Ints
    values: Floats


class TopFeatures:
    """A part of the monitor. `top` may be asked from any thread."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._facts: dict[str, FeatureFacts] = {}
        self._kept: dict[str, deque[_Sampled]] = {}
        self._entries: dict[str, int] = {}  # of the steps kept

    def know(self, sae: str, facts: FeatureFacts) -> None:
        """Tell of this SAE's features from now on; those of others are not told of."""
        with self._lock:
            self._facts[sae] = facts
            self._kept[sae] = deque()
            self._entries[sae] = 0

    def step_finished(self, report: StepReport) -> None:
        with self._lock:
            for sae, sampled in report.sampled.items():
                if sae in self._kept and len(sampled.rows):
                    active = sampled.active
                    step = _Sampled(self._clock(), len(sampled.rows), active.features, active.values)
                    self._kept[sae].append(step)
                    self._entries[sae] += len(step.features)
            self._forget()

    def first_token(self, request: GenerationRequest, seconds: float) -> None:
        """Nothing: only steps tell of features."""

    def request_finished(
        self, request: GenerationRequest, event: LastEvent, features: RequestFeatures | None
    ) -> None:
        """Nothing, as above."""

    def top(
        self, *, seconds: float = TOP_SECONDS, limit: int = TOP_FEATURES
    ) -> dict[str, tuple[int, list[TopFeature]]]:
        """By SAE: the tokens sampled lately, and the features most above their usual strength on them."""
        since = self._clock() - seconds
        with self._lock:
            self._forget()
            kept = {sae: [step for step in steps if step.at >= since] for sae, steps in self._kept.items()}
        return {sae: _top(steps, self._facts[sae], limit) for sae, steps in kept.items()}

    def _forget(self) -> None:
        """Drop what is older than a minute, and the oldest of what is too much."""
        oldest, room = self._clock() - TOP_SECONDS, MAX_ENTRIES / max(len(self._kept), 1)
        for sae, steps in self._kept.items():
            while steps and (steps[0].at < oldest or self._entries[sae] > room):
                self._entries[sae] -= len(steps.popleft().features)


def _top(steps: Sequence[_Sampled], facts: FeatureFacts, limit: int) -> tuple[int, list[TopFeature]]:
    tokens = sum(step.tokens for step in steps)
    if not tokens:
        return 0, []
    found = np.concatenate([step.features for step in steps])
    values = np.concatenate([step.values for step in steps])
    features, places = np.unique(found, return_inverse=True)
    active = np.bincount(places, minlength=len(features))
    strength = np.bincount(places, weights=values, minlength=len(features)) / tokens
    strength = strength / facts.max_activation[features]
    usual = facts.usual_strength[features]
    above = np.argsort(usual - strength, kind="stable")[:limit]
    return tokens, [
        TopFeature(
            feature=int(features[place]),
            label=facts.labels[features[place]],
            active_share=float(active[place] / tokens),
            strength=float(strength[place]),
            usual_strength=float(usual[place]),
        )
        for place in above.tolist()
        if strength[place] > usual[place]
    ]
