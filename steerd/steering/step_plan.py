"""From the rows of a step and the wishes of their requests to tensors, before the forward.

The planner does all the looking-up, so that what runs inside the forward (`steered_point`) only does
arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from steerd.host.host_model import HostModel
from steerd.steering.feature_table import FeatureTable
from steerd.steering.intervention import FeatureRef, Intervention
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.request_wishes import (
    RequestWishes,
    ResolvedEdit,
    SaeWishes,
    resolve_edits,
    wanted_features,
)
from steerd.steering.row_span import RowSpan, reported_rows, rows_in_scope
from steerd.steering.steered_point import EditedRows, PlannedEdits, SaeStep, SteeredPoint


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The plan of one step: each SAE's part by name, and the rows that are no special tokens."""

    by_sae: dict[str, SaeStep]
    ordinary_rows: tuple[int, ...]

    def steered_rows(self) -> dict[tuple[str, str], int]:
        """Edited rows by SAE and operation."""
        counts: dict[tuple[str, str], int] = {}
        for name, step in self.by_sae.items():
            for edited in step.edited_rows:
                key = name, edited.operation
                counts[key] = counts.get(key, 0) + edited.num_rows
        return counts


@dataclass(slots=True)
class _EditRows:
    edited: dict[tuple[str, int, str], set[int]] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    gain: list[float] = field(default_factory=list)
    bias: list[float] = field(default_factory=list)

    def extend(self, request_id: str, edit: ResolvedEdit, rows: Sequence[int]) -> None:
        # A row that several edits of one feature are for is one edited row.
        self.edited.setdefault((request_id, edit.feature, edit.operation), set()).update(rows)
        self.rows.extend(rows)
        self.columns.extend([edit.column] * len(rows))
        self.gain.extend([edit.gain] * len(rows))
        self.bias.extend([edit.bias] * len(rows))

    def counts(self) -> tuple[EditedRows, ...]:
        return tuple(EditedRows(*of, len(rows)) for of, rows in self.edited.items())

    def to_tensors(self, device: torch.device) -> PlannedEdits | None:
        if not self.rows:
            return None
        return PlannedEdits(
            rows=torch.tensor(self.rows, device=device),
            columns=torch.tensor(self.columns, device=device),
            gain=torch.tensor(self.gain, device=device),
            bias=torch.tensor(self.bias, device=device),
        )


class StepPlanner:
    """Owns the feature tables and the hooks. Used by the engine thread alone."""

    def __init__(
        self, host: HostModel, saes: LoadedSaes, watch: Sequence[FeatureRef], sample_every: int
    ) -> None:
        """`watch` is read on every row; every `sample_every`-th row is encoded whole for its L0."""
        self._device = host.device
        self._special = host.special_token_ids
        self._sample_every = sample_every
        self._rows_seen = 0
        self._saes = {sae.name: sae for sae in saes}
        self._tables = {sae.name: FeatureTable(sae.sae) for sae in saes}
        self.watched_columns = self._acquire_watched(watch)
        self._points = {sae.hook_point: SteeredPoint() for sae in saes}
        self._handles = [host.attach(hook_point, point) for hook_point, point in self._points.items()]

    def resolve(
        self,
        prompt_length: int,
        interventions: Sequence[Intervention],
        watch: Sequence[FeatureRef],
        top_k: int,
        top_k_saes: Sequence[str],
        include_prompt: bool,
    ) -> RequestWishes:
        """Give every feature of a request its column; `release` must follow when the request ends."""
        by_sae = []
        for name in self._saes:
            features, num_watched = wanted_features(name, watch, interventions)
            wants_top = top_k > 0 and name in top_k_saes
            if not features and not wants_top:
                continue
            columns = {feature: self._tables[name].acquire(feature) for feature in features}
            by_sae.append(
                SaeWishes(
                    sae=name,
                    edits=resolve_edits(name, interventions, columns),
                    features=features,
                    columns=tuple(columns.values()),
                    num_watched=num_watched,
                    top_k=min(top_k, self._saes[name].sae.d_sae) if wants_top else 0,
                )
            )
        return RequestWishes(prompt_length=prompt_length, include_prompt=include_prompt, by_sae=tuple(by_sae))

    def release(self, wishes: RequestWishes) -> None:
        """Give the columns of a finished request back."""
        for sae_wishes in wishes.by_sae:
            for feature in sae_wishes.features:
                self._tables[sae_wishes.sae].release(feature)

    def plan(self, spans: Sequence[RowSpan], wishes: Mapping[str, RequestWishes]) -> StepPlan:
        """Put the plan of the coming forward in place; the hooks will fill its readings."""
        ordinary_rows = [
            row
            for span in spans
            for row, token_id in zip(span.rows, span.token_ids, strict=True)
            if token_id not in self._special
        ]
        sampled_rows = self._sampled_rows(ordinary_rows)
        steps: dict[str, SaeStep] = {}
        for name in self._saes:
            step = self._plan_sae(name, spans, wishes, sampled_rows)
            if step is not None:
                steps[name] = step
        for hook_point, point in self._points.items():
            point.steps = [step for name, step in steps.items() if self._saes[name].hook_point == hook_point]
        return StepPlan(by_sae=steps, ordinary_rows=tuple(ordinary_rows))

    def close(self) -> None:
        """Detach every hook."""
        for handle in self._handles:
            handle.remove()

    def _plan_sae(
        self,
        name: str,
        spans: Sequence[RowSpan],
        wishes: Mapping[str, RequestWishes],
        sampled_rows: list[int],
    ) -> SaeStep | None:
        edits, encoded_rows, top_k = _EditRows(), set(sampled_rows), 0
        wanted = bool(sampled_rows) or name in self.watched_columns
        for span in spans:
            request = wishes[span.request_id]
            sae_wishes = request.of(name)
            if sae_wishes is None:
                continue
            wanted = True
            if sae_wishes.top_k:
                top_k = max(top_k, sae_wishes.top_k)
                encoded_rows.update(reported_rows(span, request.prompt_length, request.include_prompt))
            for edit in sae_wishes.edits:
                rows = rows_in_scope(edit.scope, span, request.prompt_length, self._special)
                edits.extend(span.request_id, edit, rows)
        if not wanted:
            return None
        encoded = {row: index for index, row in enumerate(sorted(encoded_rows))}
        return SaeStep(
            table=self._tables[name],
            edits=edits.to_tensors(self._device),
            encoded_rows=torch.tensor(list(encoded), device=self._device) if encoded else None,
            sampled=torch.tensor(
                [encoded[row] for row in sampled_rows], dtype=torch.long, device=self._device
            ),
            top_k=top_k,
            edited_rows=edits.counts(),
        )

    def _sampled_rows(self, ordinary_rows: Sequence[int]) -> list[int]:
        """Every `sample_every`-th ordinary row over all steps; none when it is 0."""
        if self._sample_every == 0:
            return []
        first = -self._rows_seen % self._sample_every
        self._rows_seen += len(ordinary_rows)
        return list(ordinary_rows[first :: self._sample_every])

    def _acquire_watched(self, watch: Sequence[FeatureRef]) -> dict[str, list[int]]:
        columns: dict[str, list[int]] = {}
        for ref in watch:
            columns.setdefault(ref.sae, []).append(self._tables[ref.sae].acquire(ref.index))
        return columns
