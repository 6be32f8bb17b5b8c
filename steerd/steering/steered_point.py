"""What runs inside the forward: readings are taken, then edits added, as was planned before it.

At one hook point every reading is taken and every edit computed from the same rows, then the edits are added;
so a reading is what the host itself produced there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from steerd.steering.apply import edit_deltas
from steerd.steering.feature_table import FeatureTable


@dataclass(frozen=True, slots=True)
class PlannedEdits:
    """The edits of one SAE in one step, each tensor [edits]: row, table column, gain and bias."""

    rows: Tensor
    columns: Tensor
    gain: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class EditedRows:
    """How many rows of one request an edit is for in this step."""

    request_id: str
    feature: int
    operation: str
    num_rows: int


@dataclass(slots=True)
class SaeStep:
    """One SAE's part of a step: what is planned, and the readings once the forward has run.

    `encoded_rows` [encoded] are the rows whose whole dictionary is encoded, None for none; at `sampled`
    [samples], indices into them, the number of active features is reported. Filled by the hook, for the rows
    of the step: acts [rows, columns], top_values and top_features [encoded, top_k], active_features
    [samples].
    """

    table: FeatureTable
    edits: PlannedEdits | None
    encoded_rows: Tensor | None
    sampled: Tensor
    top_k: int
    edited_rows: tuple[EditedRows, ...]
    acts: Tensor = field(init=False)
    top_values: Tensor = field(init=False)
    top_features: Tensor = field(init=False)
    active_features: Tensor = field(init=False)

    def read(self, x: Tensor) -> None:
        """Take the planned readings of rows x [rows, d_model], float32."""
        self.acts = self.table.read(x)
        if self.encoded_rows is not None:
            feature_acts = self.table.sae.encode(x[self.encoded_rows])  # [encoded, d_sae]
            self.active_features = (feature_acts[self.sampled] > 0).sum(dim=-1)
            self.top_values, self.top_features = feature_acts.topk(self.top_k, dim=-1)

    def add_edits(self, edited: Tensor) -> None:
        """Add the planned edits to `edited` [rows, d_model], in place."""
        edits = self.edits
        if edits is not None:
            deltas = edit_deltas(
                self.acts, self.table.directions, edits.rows, edits.columns, edits.gain, edits.bias
            )
            edited.index_add_(0, edits.rows, deltas)


class SteeredPoint:
    """The hook of one hook point. With nothing planned it returns None, and the forward is untouched."""

    def __init__(self) -> None:
        self.steps: list[SaeStep] = []

    def __call__(self, resid: Tensor) -> Tensor | None:
        if not self.steps:
            return None
        x = resid.float()  # [rows, d_model]
        for step in self.steps:
            step.read(x)
        if all(step.edits is None for step in self.steps):
            return None
        edited = x.clone()
        for step in self.steps:
            step.add_edits(edited)
        return edited.to(resid.dtype)
