"""Whose rows a step has and what is done to each: made when that changes, kept while it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from steerd.host.hook_point import HookPoint
from steerd.steering.coverage import Bools, Floats
from steerd.steering.edit_tables import EditTables
from steerd.steering.hooked_points import HookedPoints
from steerd.steering.intervention import Target
from steerd.steering.request_wishes import ColumnEdit, RequestWishes, ResolvedEdit
from steerd.steering.row_span import RowSpan, reported_rows
from steerd.steering.steered_point import PointEdits, Reconstruction

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SteeredCount:
    """How many rows of a step one request's edits of one target are for."""

    slot: int
    target: Target
    source: str
    operation: str
    num_rows: int


@dataclass(frozen=True, slots=True)
class TopRows:
    """The rows of a step for which an SAE's strongest features are wanted, at most `top_k` of them."""

    rows: frozenset[int] = frozenset()
    top_k: int = 0


@dataclass(frozen=True, slots=True)
class StepLayout:
    """What stays the same while the rows of a step are the same requests' and the same is done to them.

    By span: `slots` and first rows `starts` [spans]. By row: `ordinary` [rows], whether it is neither a
    special token nor the very first, whose row is unlike all others whatever its token. `points` have edits
    or readings of a request, `saes` are read; `top_rows` are by SAE.
    """

    slots: Ints
    starts: Ints
    ordinary: Bools
    edits: dict[HookPoint, PointEdits]
    points: frozenset[HookPoint]
    saes: frozenset[str]
    top_rows: dict[str, TopRows]
    steered: tuple[SteeredCount, ...]


Strengths = Sequence[Sequence[Floats]]
"""By span and by edit of its request: the factors of its rows."""


def lay_out(
    spans: Sequence[RowSpan],
    wishes: Sequence[RequestWishes],
    strengths: Strengths,
    points: HookedPoints,
    special_ids: frozenset[int],
) -> StepLayout:
    """Write the edits of a step into the tables of their points; `wishes` and `strengths` are by span."""
    ordinary = [
        position > 0 and token_id not in special_ids
        for span in spans
        for position, token_id in enumerate(span.token_ids, span.first_position)
    ]
    edits = _edits_by_point(spans, wishes, strengths)
    reads = [reads for request in wishes for reads in request.by_sae]
    return StepLayout(
        slots=np.array([request.slot for request in wishes], dtype=np.int64),
        starts=np.array([span.first_row for span in spans], dtype=np.int64),
        ordinary=np.array(ordinary, dtype=np.bool_),
        edits={
            point: _point_edits(found, points[point].edits, len(ordinary)) for point, found in edits.items()
        },
        points=frozenset(edits) | {read.hook_point for read in reads},
        saes=frozenset(read.sae for read in reads),
        top_rows=_top_rows(spans, wishes),
        steered=tuple(_counts(wishes, strengths)),
    )


@dataclass(frozen=True, slots=True)
class _SpanEdit:
    first_row: int
    edit: ResolvedEdit
    factors: Floats


def _edits_by_point(
    spans: Sequence[RowSpan], wishes: Sequence[RequestWishes], strengths: Strengths
) -> dict[HookPoint, list[_SpanEdit]]:
    """The edits that some row of the step is in the scope of."""
    found: dict[HookPoint, list[_SpanEdit]] = {}
    for span, request, by_edit in zip(spans, wishes, strengths, strict=True):
        for edit, factors in zip(request.edits, by_edit, strict=True):
            if factors.any():
                found.setdefault(edit.hook_point, []).append(_SpanEdit(span.first_row, edit, factors))
    return found


def _point_edits(found: Sequence[_SpanEdit], tables: EditTables, num_rows: int) -> PointEdits:
    columns = [part.edit.does.column for part in found if isinstance(part.edit.does, ColumnEdit)]
    window = range(min(columns, default=0), max(columns, default=-1) + 1)
    tables.begin(num_rows, window)
    for part in found:
        if isinstance(part.edit.does, ColumnEdit):
            tables.write(part.first_row, part.factors, part.edit.does.column, part.edit.does.form)
        if part.edit.preserve_norm:
            tables.preserve(part.first_row, part.factors)
    numbers, preserve = tables.finish()
    return PointEdits(
        window=slice(window.start, window.stop),
        tables=numbers if columns else None,
        reconstructions=tuple(_reconstructions(found, tables.device)),
        preserve=preserve,
    )


def _reconstructions(found: Sequence[_SpanEdit], device: torch.device) -> list[Reconstruction]:
    reconstructions = []
    for part in found:
        if not isinstance(part.edit.does, ColumnEdit):
            rows = np.flatnonzero(part.factors)
            reconstructions.append(
                Reconstruction(
                    sae=part.edit.does,
                    rows=torch.from_numpy(rows + part.first_row).to(device),
                    factors=torch.from_numpy(part.factors[rows]).to(device),
                )
            )
    return reconstructions


def _counts(wishes: Sequence[RequestWishes], strengths: Strengths) -> list[SteeredCount]:
    """A row that several edits of one target are for is one steered row."""
    counts = []
    for request, by_edit in zip(wishes, strengths, strict=True):
        covered: dict[Target, Bools] = {}
        for edit, factors in zip(request.edits, by_edit, strict=True):
            steered = factors > 0
            covered[edit.target] = covered[edit.target] | steered if edit.target in covered else steered
        first = {edit.target: edit for edit in reversed(request.edits)}
        for target, rows in covered.items():
            edit, num_rows = first[target], int(rows.sum())
            counts.append(SteeredCount(request.slot, target, edit.source, edit.operation, num_rows))
    return counts


def _top_rows(spans: Sequence[RowSpan], wishes: Sequence[RequestWishes]) -> dict[str, TopRows]:
    found: dict[str, TopRows] = {}
    for span, request in zip(spans, wishes, strict=True):
        for reads in request.by_sae:
            if reads.top_k:
                before = found.get(reads.sae, TopRows())
                rows = before.rows.union(reported_rows(span, request.prompt_length, request.include_prompt))
                found[reads.sae] = TopRows(rows, max(before.top_k, reads.top_k))
    return found
