"""What a step read from the SAEs, on its way from tensors to events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from steerd.engine.events import FeatureUse, TokenReading, WatchedReading
from steerd.steering.intervention import FeatureRef
from steerd.steering.request_wishes import RequestWishes, SaeWishes
from steerd.steering.row_span import RowSpan, reported_rows
from steerd.steering.steered_point import SaeStep
from steerd.steering.step_plan import StepPlan

Floats = NDArray[np.float32]


class SaeReadings:
    """The readings of one SAE in one step, copied to the CPU once."""

    def __init__(self, step: SaeStep) -> None:
        self.acts: Floats = step.acts.cpu().numpy()  # [rows, columns]
        self.active_features: list[int] = []
        self._encoded: dict[int, int] = {}
        if step.encoded_rows is not None:
            self._encoded = {row: index for index, row in enumerate(step.encoded_rows.tolist())}
            self.active_features = step.active_features.tolist()
            self._top_values: list[list[float]] = step.top_values.tolist()
            self._top_features: list[list[int]] = step.top_features.tolist()

    def token(self, row: int, position: int, wishes: SaeWishes) -> TokenReading:
        """The watched features of a row, then its strongest others among the top k that are active."""
        features = list(wishes.features[: wishes.num_watched])
        values = self.acts[row, list(wishes.columns[: wishes.num_watched])].tolist()
        if wishes.top_k:
            index = self._encoded[row]
            top = zip(self._top_features[index], self._top_values[index], strict=True)
            for feature, value in list(top)[: wishes.top_k]:
                if value > 0 and feature not in features:
                    features.append(feature)
                    values.append(value)
        return TokenReading(position=position, sae=wishes.sae, features=features, values=values)


class StepReadings:
    """The readings of all SAEs in one step."""

    def __init__(self, plan: StepPlan) -> None:
        self._plan = plan
        self._ordinary = frozenset(plan.ordinary_rows)
        self.by_sae = {name: SaeReadings(step) for name, step in plan.by_sae.items()}

    def rows(self, span: RowSpan, wishes: RequestWishes) -> dict[int, tuple[TokenReading, ...]]:
        """Readings of the reported rows of a request, by row; empty when it reads nothing."""
        reading = [w for w in wishes.by_sae if w.num_watched or w.top_k]
        if not reading:
            return {}
        offset = span.first_position - span.first_row
        return {
            row: tuple(self.by_sae[w.sae].token(row, row + offset, w) for w in reading)
            for row in reported_rows(span, wishes.prompt_length, wishes.include_prompt)
        }

    def ordinary_rows(self, span: RowSpan) -> list[int]:
        """The rows of a request that are no special tokens."""
        return [row for row in span.rows if row in self._ordinary]

    def monitored_tokens(self) -> dict[str, int]:
        """By SAE, the rows that its watched features were read on: special tokens do not count."""
        return dict.fromkeys(self.by_sae, len(self._plan.ordinary_rows))

    def active_features(self) -> dict[str, list[int]]:
        """By SAE, the number of active features of each sampled row."""
        return {name: sae.active_features for name, sae in self.by_sae.items()}

    def watched(
        self, columns: Mapping[str, Sequence[int]], watch: Sequence[tuple[FeatureRef, float]]
    ) -> tuple[WatchedReading, ...]:
        """Counts for the server's watch list, pairs (feature, threshold); columns in the same order."""
        readings = []
        for sae, sae_columns in columns.items():
            watched = [(ref, threshold) for ref, threshold in watch if ref.sae == sae]
            thresholds = np.array([threshold for _, threshold in watched], dtype=np.float32)
            acts = self.by_sae[sae].acts[np.ix_(self._plan.ordinary_rows, sae_columns)]
            active, over = (acts > 0).sum(axis=0), (acts > thresholds).sum(axis=0)
            readings += [
                WatchedReading(ref, int(active[column]), int(over[column]))
                for column, (ref, _) in enumerate(watched)
            ]
        return tuple(readings)


class FeatureTally:
    """What the watched and steered features of one request did so far."""

    def __init__(self, wishes: RequestWishes) -> None:
        self._wishes = [w for w in wishes.by_sae if w.features]
        self._max = [np.zeros(len(w.features), dtype=np.float32) for w in self._wishes]
        self._sum = [np.zeros(len(w.features), dtype=np.float64) for w in self._wishes]
        self._active = [np.zeros(len(w.features), dtype=np.int64) for w in self._wishes]
        self._num_rows = 0
        self._steered: dict[FeatureRef, int] = {}

    def add(self, span: RowSpan, readings: StepReadings) -> None:
        """Count the rows of one step; special tokens, whose rows are unlike all others, do not count."""
        rows = readings.ordinary_rows(span)
        if not self._wishes or not rows:
            return
        for index, wishes in enumerate(self._wishes):
            acts = readings.by_sae[wishes.sae].acts[np.ix_(rows, wishes.columns)]  # [rows, features]
            np.maximum(self._max[index], acts.max(axis=0), out=self._max[index])
            self._sum[index] += acts.sum(axis=0)
            self._active[index] += (acts > 0).sum(axis=0)
        self._num_rows += len(rows)

    def add_steered(self, feature: FeatureRef, num_rows: int) -> None:
        """Count rows on which an edit of the feature was applied."""
        self._steered[feature] = self._steered.get(feature, 0) + num_rows

    def uses(self) -> tuple[FeatureUse, ...]:
        """The summary, watched features first within each SAE."""
        return tuple(
            FeatureUse(
                feature=(ref := FeatureRef(wishes.sae, feature)),
                max_activation=float(self._max[index][column]),
                mean_activation=float(self._sum[index][column] / max(self._num_rows, 1)),
                active_tokens=int(self._active[index][column]),
                steered_tokens=self._steered.get(ref, 0),
            )
            for index, wishes in enumerate(self._wishes)
            for column, feature in enumerate(wishes.features)
        )
