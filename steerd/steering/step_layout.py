"""Whose rows a step has and what is done to each: made when that changes, kept while it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from steerd.host.hook_point import HookPoint
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.steering.coverage import Bools, Floats
from steerd.steering.edit_cells import SpanEdit, edit_cells
from steerd.steering.edit_tables import EditTables
from steerd.steering.hooked_points import HookedPoints
from steerd.steering.point_table import PointTable
from steerd.steering.request_wishes import ColumnEdit, RequestWishes
from steerd.steering.row_span import RowSpan, reported_rows
from steerd.steering.steered_point import PointEdits, PointLanes, Reconstruction
from steerd.steering.step_rows import StepRows

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TopRows:
    """The rows of a step for which the strongest features of the SAE of a name are wanted, at most `top_k` of
    them."""

    sae: str
    hook_point: HookPoint
    rows: frozenset[int] = frozenset()
    top_k: int = 0


@dataclass(frozen=True, slots=True)
class StepLayout:
    """What stays the same while the rows of a step are the same requests' and the same is done to them.

    By span: `slots` and first rows `starts` [spans]. By row: `ordinary` [rows], whether it is neither a
    special token nor the very first, whose row is unlike all others whatever its token; `padding` rows of
    nobody follow. `points` have edits, tests or readings of a request, `saes` are read; `top_rows` are by
    what encodes them. `rows` is there where some point has `lanes`, and `has_triggers` says whether somebody
    wants to know how the tests went.
    """

    slots: Ints
    starts: Ints
    ordinary: Bools
    padding: int
    edits: dict[HookPoint, PointEdits]
    demanded: dict[HookPoint, PointEdits]
    lanes: dict[HookPoint, PointLanes]
    rows: StepRows | None
    has_triggers: bool
    points: frozenset[HookPoint]
    saes: frozenset[str]
    top_rows: dict[SparseAutoencoder, TopRows]


Strengths = Sequence[Sequence[Floats]]
"""By span and by edit of its request: the factors of its rows."""


def lay_out(
    spans: Sequence[RowSpan],
    wishes: Sequence[RequestWishes],
    strengths: Strengths,
    points: HookedPoints,
    rows: StepRows,
    special_ids: frozenset[int],
    padding: int = 0,
) -> StepLayout:
    """Write the edits of a step into the tables of their points; `wishes` and `strengths` are by span."""
    slots = np.array([request.slot for request in wishes], dtype=np.int64)
    starts = np.array([span.first_row for span in spans], dtype=np.int64)
    ordinary = np.array(_ordinary(spans, special_ids), dtype=np.bool_)
    num_rows = len(ordinary) + padding
    edits = _edits_by_point(spans, wishes, strengths, demanded=False)
    demanded = _edits_by_point(spans, wishes, strengths, demanded=True)
    tested = {resolved.hook_point for request in wishes for resolved in request.tests}
    reads = [reads for request in wishes for reads in request.by_sae]
    wanted = frozenset((*edits, *demanded, *tested, *(read.hook_point for read in reads)))
    for point, hooked in points.items():
        if hooked.edits.is_kept:
            edits.setdefault(point, [])
        if hooked.demanded.is_kept:
            demanded.setdefault(point, [])
    lanes = _lanes_by_point(edits, tested, 1 + int(slots.max()), points, rows, num_rows)
    if lanes:
        rows.write(slots, starts, ordinary, padding)
    return StepLayout(
        slots=slots,
        starts=starts,
        ordinary=ordinary,
        padding=padding,
        edits={
            point: _point_edits(found, points[point].edits, points[point].table, num_rows)
            for point, found in edits.items()
        },
        demanded={
            point: _point_edits(found, points[point].demanded, points[point].table, num_rows)
            for point, found in demanded.items()
        },
        lanes=lanes,
        rows=rows if lanes else None,
        has_triggers=any(request.triggers for request in wishes),
        points=wanted,
        saes=frozenset(read.sae for read in reads),
        top_rows=_top_rows(spans, wishes),
    )


def _ordinary(spans: Sequence[RowSpan], special_ids: frozenset[int]) -> list[bool]:
    return [
        position > 0 and token_id not in special_ids
        for span in spans
        for position, token_id in enumerate(span.token_ids, span.first_position)
    ]


def _edits_by_point(
    spans: Sequence[RowSpan], wishes: Sequence[RequestWishes], strengths: Strengths, *, demanded: bool
) -> dict[HookPoint, list[SpanEdit]]:
    """The edits that some row of the step is in the scope of: those that policies demand, or the others."""
    found: dict[HookPoint, list[SpanEdit]] = {}
    for span, request, by_edit in zip(spans, wishes, strengths, strict=True):
        for edit, factors in zip(request.edits, by_edit, strict=True):
            if edit.is_demanded == demanded and factors.any():
                part = SpanEdit(request.slot, span.first_row, edit, factors)
                found.setdefault(edit.hook_point, []).append(part)
    return found


def _lanes_by_point(
    edits: Mapping[HookPoint, Sequence[SpanEdit]],
    tested: Set[HookPoint],
    num_slots: int,
    points: HookedPoints,
    rows: StepRows,
    num_rows: int,
) -> dict[HookPoint, PointLanes]:
    """Where tests are run and where edits wait for them; tells the tables which rows these edits are for."""
    waiting = {point for point, found in edits.items() if any(part.edit.lane is not None for part in found)}
    tested = tested | {point for point, hooked in points.items() if hooked.lanes.keeps_tests}
    waiting |= {point for point, hooked in points.items() if hooked.lanes.keeps_lanes}
    lanes = {}
    for point in tested | waiting:
        tables = points[point].lanes
        tables.begin(num_slots, num_rows)
        for part in edits.get(point, ()):
            if part.edit.lane is not None:
                tables.cover(part.first_row, part.factors > 0, part.edit.lane)
        lanes[point] = PointLanes(tables, rows, has_tests=point in tested, has_lanes=point in waiting)
    return lanes


def _point_edits(
    found: Sequence[SpanEdit], tables: EditTables, table: PointTable, num_rows: int
) -> PointEdits:
    columns = [part.edit.does.column for part in found if isinstance(part.edit.does, ColumnEdit)]
    window = range(min(columns, default=0), max(columns, default=-1) + 1)
    if table.is_fixed:
        window = range(table.width)
    tables.begin(num_rows, window)
    for part in found:
        if isinstance(part.edit.does, ColumnEdit):
            tables.write(part.first_row, part.factors, part.edit.does.column, part.edit.does.form)
        if part.edit.preserve_norm:
            # What a lane lets through is known in the forward only.
            tables.preserve(part.first_row, (part.factors > 0) & (part.edit.lane is None))
    numbers, preserve = tables.finish()
    return PointEdits(
        window=slice(window.start, window.stop),
        tables=numbers if window else None,
        reconstructions=tuple(_reconstructions(found, tables.device)),
        preserve=preserve,
        cells=edit_cells(found, table.lengths),
    )


def _reconstructions(found: Sequence[SpanEdit], device: torch.device) -> list[Reconstruction]:
    reconstructions = []
    for part in found:
        if not isinstance(part.edit.does, ColumnEdit):
            rows = part.rows
            reconstructions.append(
                Reconstruction(
                    sae=part.edit.does,
                    rows=torch.from_numpy(rows).to(device),
                    factors=torch.from_numpy(part.factors[rows - part.first_row]).to(device),
                    lane=part.edit.lane,
                )
            )
    return reconstructions


def _top_rows(spans: Sequence[RowSpan], wishes: Sequence[RequestWishes]) -> dict[SparseAutoencoder, TopRows]:
    found: dict[SparseAutoencoder, TopRows] = {}
    for span, request in zip(spans, wishes, strict=True):
        for reads in request.by_sae:
            if reads.top_k:
                before = found.get(reads.reader, TopRows(reads.sae, reads.hook_point))
                rows = before.rows.union(reported_rows(span, request.prompt_length, request.include_prompt))
                found[reads.reader] = replace(before, rows=rows, top_k=max(before.top_k, reads.top_k))
    return found
