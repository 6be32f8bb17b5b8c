"""What runs inside the forward: readings are taken, then edits added, as was planned before it.

At one hook point every reading is taken and every edit computed from the same rows, then the edits are added;
so a reading is what the host itself produced there. What policies demand is computed after that, from the
rows as these edits left them, so that no edit takes it back.

Readings that no edit needs are taken after the forward where that is cheaper: between two layers of the host
each operation finds the caches full of other things.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from steerd.sae.autoencoder import SparseAutoencoder
from steerd.steering.apply import AffineTables, add_directions, amounts, keep_lengths, reconstruct_rows
from steerd.steering.edit_cells import EditCells
from steerd.steering.kept_readings import KeptPoint
from steerd.steering.lane_tables import LaneTables
from steerd.steering.point_table import PointTable
from steerd.steering.row_mean import RowMean
from steerd.steering.step_rows import StepRows

_MOST_WAITING_ROWS = 256
"""Of a hook point, kept until the forward ends; with more, arithmetic costs more than full caches."""


@dataclass(slots=True)
class SaeEncoding:
    """The rows [encoded] of a step on which an SAE encodes its whole dictionary.

    At `sampled` [samples], indices into them, everything is kept. Filled by the hook: top_values and
    top_features [encoded, top_k], sampled_acts [samples, d_sae], unexplained [samples] against `mean`.
    """

    name: str
    sae: SparseAutoencoder
    rows: Tensor
    sampled: Tensor
    top_k: int
    mean: RowMean
    top_values: Tensor = field(init=False)
    top_features: Tensor = field(init=False)
    sampled_acts: Tensor = field(init=False)
    unexplained: Tensor = field(init=False)

    def read(self, x: Tensor) -> None:
        """Take the readings of rows x [rows, d_model], float32."""
        resid = x[self.rows]  # [encoded, d_model]
        feature_acts = self.sae.encode(resid)  # [encoded, d_sae]
        self.sampled_acts, sampled = feature_acts[self.sampled], resid[self.sampled]
        self.mean.add(sampled)
        self.unexplained = self.mean.unexplained(sampled, self.sae.decode(self.sampled_acts))
        self.top_values, self.top_features = feature_acts.topk(self.top_k, dim=-1)


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """The rows [reconstructed] of a step that become what an SAE makes of them, each by a factor.

    `lane` is the one that they wait for, if any.
    """

    sae: SparseAutoencoder
    rows: Tensor
    factors: Tensor
    lane: int | None


@dataclass(frozen=True, slots=True)
class PointEdits:
    """The edits of a hook point in a step: tables over the columns of `window`, rows to reconstruct, rows
    [rows] that keep their length."""

    window: slice
    tables: AffineTables | None
    reconstructions: tuple[Reconstruction, ...]
    preserve: Tensor | None
    cells: EditCells


@dataclass(frozen=True, slots=True)
class PointLanes:
    """The tests that are run at a hook point in a step, and the lanes that edits there wait for."""

    tables: LaneTables
    rows: StepRows
    has_tests: bool
    has_lanes: bool

    def run(self, acts: Tensor) -> Tensor | None:
        """Run the tests on acts [rows, columns]; whether each lane is open [rows, lanes], if any is there."""
        if self.has_tests:
            self.tables.run_tests(acts, self.rows.rows, self.rows.bits)
        return self.tables.open(self.rows.bits, self.rows.rows) if self.has_lanes else None


@dataclass(frozen=True, slots=True)
class ReconstructionDone:
    """How far each of a reconstruction's rows was moved, and by which length; both [reconstructed]."""

    factors: Tensor
    lengths: Tensor


@dataclass(frozen=True, slots=True)
class EditsDone:
    """What some edits of a hook point did in a step.

    `amounts` [rows, window], None without tables, are the multiples of directions that were added; `made`
    [rows, window], None where no edit waits for a lane, says which edits were made. `reconstructions` are in
    the order of the plan.
    """

    amounts: Tensor | None
    made: Tensor | None
    reconstructions: tuple[ReconstructionDone, ...]


@dataclass(frozen=True, slots=True)
class RowsAfter:
    """What all edits of a hook point made of the rows.

    `acts` [rows, columns] are the readings after them, `lengths` [rows] those of the rows before and
    `changes` [rows] those of what was added altogether.
    """

    acts: Tensor
    lengths: Tensor
    changes: Tensor


NOTHING_DONE = EditsDone(amounts=None, made=None, reconstructions=())


@dataclass(frozen=True, slots=True)
class Keeping:
    """Where a hook leaves what it read, and the `rows` [rows, d_model] if an SAE is to encode some of them.

    `step` [1] is the number of the step under way.
    """

    kept: KeptPoint
    step: Tensor
    rows: Tensor | None


@dataclass(slots=True)
class PointStep:
    """One hook point's part of a step: what requests ask for there, and what policies demand after that.

    `run` fills it inside the forward and `settle` after it: `acts` [rows, columns], `is_open` [rows, lanes]
    where edits wait for lanes, and what was done where there are any. With `keeping` it is filled by `take`
    after the forward, as the hook may have run as part of a recording.
    """

    table: PointTable
    edits: PointEdits | None
    demanded: PointEdits | None
    lanes: PointLanes | None
    encodings: tuple[SaeEncoding, ...] = ()
    keeping: Keeping | None = None
    acts: Tensor = field(init=False)
    is_open: Tensor | None = field(init=False, default=None)
    edits_done: EditsDone = field(init=False, default=NOTHING_DONE)
    demanded_done: EditsDone = field(init=False, default=NOTHING_DONE)
    after: RowsAfter = field(init=False)
    _waiting: tuple[Tensor, Tensor] | None = field(init=False, default=None)

    def run(self, x: Tensor, *, is_shared: bool) -> Tensor:
        """The edited rows of x [rows, d_model], float32; x itself where nothing is edited.

        What is returned may be changed by others if it `is_shared`.
        """
        waits = self.keeping is None and x.device.type == "cpu" and len(x) <= _MOST_WAITING_ROWS
        if not waits or self._edits_need_acts:
            self.read(x)
        result = x if self.edits is None else self.edited(x, self.edits)
        if self.demanded is not None:
            result = self.with_demanded(result, self.demanded)
        if waits:
            after = result.clone() if is_shared else result
            self._waiting = (after if result is x else x, after)
        else:
            self.finish(x, result)
        return result

    def settle(self) -> None:
        """After the forward: take the readings that have waited for it."""
        if self._waiting is None:
            return
        x, result = self._waiting
        self._waiting = None
        if not self._edits_need_acts:
            self.read(x)
        self.finish(x, result)

    def read(self, x: Tensor) -> None:
        """Take the planned readings of rows x [rows, d_model], float32."""
        self.acts = self.table.read(x)
        if self.lanes is not None:
            self.is_open = self.lanes.run(self.acts)

    def edited(self, x: Tensor, edits: PointEdits) -> Tensor:
        """The rows with the planned edits, all computed from x [rows, d_model]."""
        result, reconstructions = self._reconstructed(x, edits.reconstructions)
        amount, made = None, None
        if edits.tables is not None:
            amount, made = self._amount(edits.tables, edits.window)
            result = add_directions(result, amount, self.table.directions[edits.window])
        self.edits_done = EditsDone(amount, made, reconstructions)
        preserve = self._preserve(edits)
        return result if preserve is None else keep_lengths(result, x, preserve)

    def with_demanded(self, x: Tensor, demanded: PointEdits) -> Tensor:
        """The rows x [rows, d_model], as the other edits left them, with those of policies.

        These wait for no lane.
        """
        result, reconstructions = self._reconstructed(x, demanded.reconstructions)
        amount = None
        if demanded.tables is not None:
            amount = amounts(self.table.read(x)[:, demanded.window], demanded.tables)
            result = add_directions(result, amount, self.table.directions[demanded.window])
        self.demanded_done = EditsDone(amount, None, reconstructions)
        return result

    def finish(self, x: Tensor, result: Tensor) -> None:
        """Take all that no edit needed: of the rows x [rows, d_model], and of what edits made of them."""
        if self.is_edited:
            self.after = RowsAfter(self.table.read(result), x.norm(dim=1), (result - x).norm(dim=1))
        if self.keeping is not None:
            self.keep(x, self.keeping)
            return
        for encoding in self.encodings:
            encoding.read(x)

    def keep(self, x: Tensor, keeping: Keeping) -> None:
        """Leave what was read of rows x [rows, d_model], and done, where it is found after the forward."""
        kept = keeping.kept
        kept.acts.copy_(self.acts)
        if keeping.rows is not None:
            keeping.rows.copy_(x)
        if self.edits is not None and self.edits_done.amounts is not None:
            kept.amounts.copy_(self.edits_done.amounts)
            if self.edits_done.made is not None:
                kept.made.copy_(self.edits_done.made)
        if self.demanded is not None and self.demanded_done.amounts is not None:
            kept.demanded_amounts.copy_(self.demanded_done.amounts)
        if self.is_edited:
            kept.acts_after.copy_(self.after.acts)
            kept.lengths.copy_(self.after.lengths)
            kept.changes.copy_(self.after.changes)
        kept.step.copy_(keeping.step)

    def take(self, kept: KeptPoint) -> None:
        """After the forward: take what the hook left, on the CPU; SAEs encode the rows left for them."""
        self.acts = kept.acts
        made = kept.made > 0 if self.lanes is not None and self.lanes.has_lanes else None
        self.edits_done = replace(self.edits_done, amounts=kept.amounts, made=made)
        self.demanded_done = replace(self.demanded_done, amounts=kept.demanded_amounts)
        if self.is_edited:
            self.after = RowsAfter(kept.acts_after, kept.lengths, kept.changes)
        for encoding in self.encodings:
            assert self.keeping is not None
            assert self.keeping.rows is not None  # where there are encodings
            encoding.read(self.keeping.rows)

    @property
    def is_edited(self) -> bool:
        """Whether anything may be done to the rows."""
        return self.edits is not None or self.demanded is not None

    @property
    def _edits_need_acts(self) -> bool:
        """Whether edits here depend on what is read here, or edits anywhere on tests that are run here."""
        tables = None if self.edits is None else self.edits.tables
        return self.lanes is not None or (tables is not None and tables.need_acts)

    def _reconstructed(
        self, x: Tensor, parts: Sequence[Reconstruction]
    ) -> tuple[Tensor, tuple[ReconstructionDone, ...]]:
        result, done = x, []
        for part in parts:
            factors = self._factors(part)
            result = reconstruct_rows(result, part.sae, part.rows, factors)
            done.append(ReconstructionDone(factors, (result[part.rows] - x[part.rows]).norm(dim=1)))
        return result, tuple(done)

    def _amount(self, tables: AffineTables, window: slice) -> tuple[Tensor, Tensor | None]:
        """How much of each direction is added [rows, window], and whether its edit is made if any may not."""
        amount = amounts(self.acts[:, window], tables) if tables.need_acts else tables.bias
        if self.is_open is None or self.lanes is None:
            return amount, None
        made = self.lanes.tables.gates(self.is_open, self.lanes.rows.rows, self.acts.shape[1])[:, window]
        return torch.where(made, amount, 0.0), made

    def _factors(self, part: Reconstruction) -> Tensor:
        """How far each of the rows is reconstructed, [reconstructed]."""
        if part.lane is None or self.is_open is None:
            return part.factors
        return torch.where(self.is_open[part.rows, part.lane], part.factors, 0.0)

    def _preserve(self, edits: PointEdits) -> Tensor | None:
        """The rows that keep their length [rows], if any may."""
        if edits.preserve is None or self.is_open is None or self.lanes is None:
            return edits.preserve
        return edits.preserve | self.lanes.tables.keeps_length(self.is_open, self.lanes.rows.rows)


class SteeredPoint:
    """The hook of one hook point. With nothing planned it returns None, and the forward is untouched."""

    def __init__(self) -> None:
        self.step: PointStep | None = None
        self.seconds = 0.0  # that its work took, or on a device its launch

    def __call__(self, resid: Tensor) -> Tensor | None:
        step = self.step
        if step is None:
            return None
        started = time.perf_counter()
        result = self._steered(resid, step)
        self.seconds += time.perf_counter() - started
        return result

    def _steered(self, resid: Tensor, step: PointStep) -> Tensor | None:
        x = resid.float()  # [rows, d_model]
        result = step.run(x, is_shared=x is resid)
        return result.to(resid.dtype) if step.is_edited else None
