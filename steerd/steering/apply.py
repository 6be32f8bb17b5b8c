"""The arithmetic of steering: pure functions of tensors, run inside the host's forward.

rows: residual rows of a step; columns: features and directions of a table. Everything is float32 whatever the
host computes in; the caller rounds once. What is planned for a row is zero in every other row, so that a row
without edits comes out as it was, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steerd.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True, slots=True)
class Limits:
    """Where activations are to be brought, each tensor [rows, columns]; weight 0 leaves them."""

    weight: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True, slots=True)
class ActiveTables:
    """Edits that are made only where the activation is above 0, each tensor [rows, columns]."""

    gain: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class AffineTables:
    """The edits of a step, each tensor [rows, columns]; None for what no edit of the step needs."""

    gain: Tensor | None
    bias: Tensor
    active: ActiveTables | None
    limits: Limits | None

    @property
    def need_acts(self) -> bool:
        """Whether how much is added depends on activations."""
        return any(part is not None for part in (self.gain, self.active, self.limits))


@dataclass(frozen=True, slots=True)
class Rows:
    """Whose the rows of a step are.

    By row, each [rows]: the slot of its request, the first row of its request, its own number, and whether it
    is neither a special token nor the very first. By request, each [requests]: its slot and its last row.
    """

    slots: Tensor
    starts: Tensor
    numbers: Tensor
    ordinary: Tensor
    request_slots: Tensor
    request_lasts: Tensor


@dataclass(frozen=True, slots=True)
class Tests:
    """The tests of each slot at one hook point, each tensor [slots, tests].

    The column that is tested, the bounds of turning on and off, whether rows that are not ordinary count.
    """

    column: Tensor
    above: Tensor
    release_below: Tensor
    every_row: Tensor


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes of each slot at one hook point.

    Open where a row's bits hold all of `needs` [slots, lanes, clauses] of any clause, on `budget`
    [slots, lanes] rows at most.
    """

    needs: Tensor
    budget: Tensor


def read_columns(x: Tensor, enc: Tensor, b_enc: Tensor, threshold: Tensor) -> Tensor:
    """Activations [rows, columns] of features whose encoder vectors are the rows of enc [columns, d_model].

    A feature is active where its pre-activation is strictly above its threshold (0 for ReLU); a direction's
    threshold is -inf.
    """
    pre_acts = torch.addmm(b_enc, x, enc.T)  # [rows, columns]
    return pre_acts.masked_fill_(pre_acts <= threshold, 0.0)


def run_tests(acts: Tensor, tests: Tests, on: Tensor, rows: Rows) -> Tensor:
    """Whether each test is on, [rows, tests]; `on` [slots, tests] is how the step before left them.

    What turned a test on or off last holds, and a request's first row in the step follows on `on`: cut where
    it may be, a text comes out as it does a row at a time.
    """
    slots = rows.slots
    z = acts.gather(1, tests.column[slots])  # [rows, tests]
    rises = z > tests.above[slots]
    falls = z <= tests.release_below[slots]
    turns = (rises | falls) & (rows.ordinary.unsqueeze(1) | tests.every_row[slots])
    last = torch.where(turns, rows.numbers.unsqueeze(1), -1).cummax(dim=0).values
    return torch.where(last >= rows.starts.unsqueeze(1), rises.gather(0, last.clamp(min=0)), on[slots])


def open_lanes(
    bits: Tensor, lanes: Lanes, used: Tensor, covered: Tensor, rows: Rows
) -> tuple[Tensor, Tensor]:
    """Whether each lane is open [rows, lanes], and how many rows it was wanted on by then [rows, lanes].

    `bits` [rows] has one for each test that is on; `covered` [rows, lanes] are the rows that an edit is for;
    `used` [slots, lanes] counts the rows of the steps before.
    """
    needs = lanes.needs[rows.slots]  # [rows, lanes, clauses]
    wanted = ((bits[:, None, None] & needs) == needs).any(dim=2) & covered
    so_far = wanted.cumsum(dim=0)
    before = (so_far - wanted.long())[rows.starts]  # of the requests packed before
    counted = used[rows.slots] + so_far - before
    return wanted & (counted <= lanes.budget[rows.slots]), counted


def gates(is_open: Tensor, columns: Tensor, num_columns: int) -> Tensor:
    """Whether the edit in each column is made [rows, num_columns]: always, unless its lane is shut.

    `columns` [rows, lanes] is one more than the column that a lane is for, 0 for none.
    """
    made = is_open.new_ones(len(is_open), 1 + num_columns)
    return made.scatter(1, columns, is_open)[:, 1:]


def amounts(acts: Tensor, tables: AffineTables) -> Tensor:
    """How much of each column's direction is added to each row, [rows, columns]."""
    amount = tables.bias if tables.gain is None else torch.addcmul(tables.bias, tables.gain, acts)
    if tables.active is not None:
        amount = amount + torch.where(
            acts > 0, torch.addcmul(tables.active.bias, tables.active.gain, acts), 0.0
        )
    if tables.limits is not None:
        limits = tables.limits
        amount = amount + limits.weight * (torch.clamp(acts, limits.low, limits.high) - acts)
    return amount


def add_directions(x: Tensor, amount: Tensor, directions: Tensor) -> Tensor:
    """Rows x [rows, d_model] with amount [rows, columns] of directions [columns, d_model] added."""
    return torch.addmm(x, amount, directions)


def reconstruct_rows(x: Tensor, sae: SparseAutoencoder, rows: Tensor, factors: Tensor) -> Tensor:
    """x [rows, d_model] with `rows` moved towards their reconstruction, by factors [rows] from 0 to 1."""
    resid = x[rows]
    # lerp gives its end exactly at 1.
    moved = torch.lerp(resid, sae.decode(sae.encode(resid)), factors.unsqueeze(1))
    return x.index_copy(0, rows, moved)


def keep_lengths(edited: Tensor, x: Tensor, preserve: Tensor) -> Tensor:
    """The edited rows, those of `preserve` [rows] brought back to the length that they have in x."""
    lengths = edited.norm(dim=1)
    scale = torch.where(preserve & (lengths > 0), x.norm(dim=1) / lengths, 1.0)
    return edited * scale.unsqueeze(1)
