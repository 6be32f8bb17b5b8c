"""What runs inside the forward: readings are taken, then edits added, as was planned before it.

At one hook point every reading is taken and every edit computed from the same rows, then the edits are added;
so a reading is what the host itself produced there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from steerd.sae.autoencoder import SparseAutoencoder
from steerd.steering.apply import AffineTables, add_directions, amounts, keep_lengths, reconstruct_rows
from steerd.steering.point_table import PointTable


@dataclass(slots=True)
class SaeEncoding:
    """The rows [encoded] of a step on which an SAE encodes its whole dictionary.

    At `sampled` [samples], indices into them, the number of active features is reported. Filled by the hook:
    top_values and top_features [encoded, top_k], active_features [samples].
    """

    name: str
    sae: SparseAutoencoder
    rows: Tensor
    sampled: Tensor
    top_k: int
    top_values: Tensor = field(init=False)
    top_features: Tensor = field(init=False)
    active_features: Tensor = field(init=False)

    def read(self, x: Tensor) -> None:
        """Take the readings of rows x [rows, d_model], float32."""
        feature_acts = self.sae.encode(x[self.rows])  # [encoded, d_sae]
        self.active_features = (feature_acts[self.sampled] > 0).sum(dim=-1)
        self.top_values, self.top_features = feature_acts.topk(self.top_k, dim=-1)


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """The rows [reconstructed] of a step that become what an SAE makes of them, each by a factor."""

    sae: SparseAutoencoder
    rows: Tensor
    factors: Tensor


@dataclass(frozen=True, slots=True)
class PointEdits:
    """The edits of a hook point in a step: tables over the columns of `window`, rows to reconstruct, rows
    [rows] that keep their length."""

    window: slice
    tables: AffineTables | None
    reconstructions: tuple[Reconstruction, ...]
    preserve: Tensor | None


@dataclass(slots=True)
class PointStep:
    """One hook point's part of a step. `acts` [rows, columns] is filled by the hook."""

    table: PointTable
    edits: PointEdits | None
    encodings: tuple[SaeEncoding, ...] = ()
    acts: Tensor = field(init=False)

    def read(self, x: Tensor) -> None:
        """Take the planned readings of rows x [rows, d_model], float32."""
        self.acts = self.table.read(x)
        for encoding in self.encodings:
            encoding.read(x)

    def edited(self, x: Tensor, edits: PointEdits) -> Tensor:
        """The rows with the planned edits, all computed from x [rows, d_model]."""
        result = x
        for part in edits.reconstructions:
            result = reconstruct_rows(result, part.sae, part.rows, part.factors)
        if edits.tables is not None:
            amount = amounts(self.acts[:, edits.window], edits.tables)
            result = add_directions(result, amount, self.table.directions[edits.window])
        return result if edits.preserve is None else keep_lengths(result, x, edits.preserve)


class SteeredPoint:
    """The hook of one hook point. With nothing planned it returns None, and the forward is untouched."""

    def __init__(self) -> None:
        self.step: PointStep | None = None

    def __call__(self, resid: Tensor) -> Tensor | None:
        step = self.step
        if step is None:
            return None
        x = resid.float()  # [rows, d_model]
        step.read(x)
        return None if step.edits is None else step.edited(x, step.edits).to(resid.dtype)
