"""What a step read from the SAEs, on its way from tensors to events."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from steerd.engine.events import (
    ActiveEntries,
    Bools,
    Floats,
    Ints,
    SampledRows,
    TokenReading,
    WatchedRows,
)
from steerd.engine.watch_list import WatchList
from steerd.host.hook_point import HookPoint
from steerd.steering.request_wishes import RequestWishes, SaeReads
from steerd.steering.row_span import RowSpan, reported_rows
from steerd.steering.steered_point import EditsDone, PointEdits, PointStep, SaeEncoding
from steerd.steering.step_plan import StepPlan


class TopReadings:
    """The strongest features of the rows that one SAE encoded whole, copied to the CPU once."""

    def __init__(self, encoding: SaeEncoding) -> None:
        self._rows = {row: index for index, row in enumerate(encoding.rows.tolist())}
        self._values: list[list[float]] = encoding.top_values.tolist()
        self._features: list[list[int]] = encoding.top_features.tolist()
        self._active: list[int] = (encoding.top_values > 0).sum(dim=1).tolist()

    def of(self, row: int, top_k: int) -> tuple[list[int], list[float]]:
        """Features and activations of a row in falling order, at most top_k and none that is 0."""
        index = self._rows[row]
        count = min(self._active[index], top_k)
        return self._features[index][:count], self._values[index][:count]


class DoneReadings:
    """What some edits of one hook point did in a step, as EditsDone says, on the CPU."""

    def __init__(self, edits: PointEdits, done: EditsDone) -> None:
        self.edits = edits
        self.amounts: Floats | None = None if done.amounts is None else done.amounts.cpu().numpy()
        self.made: Bools | None = None if done.made is None else done.made.cpu().numpy()
        self.reconstructions = [
            (part.factors.cpu().numpy(), part.lengths.cpu().numpy()) for part in done.reconstructions
        ]


class EditReadings:
    """What all edits of one hook point did in a step: `done` in turn, and RowsAfter, on the CPU."""

    def __init__(self, step: PointStep) -> None:
        self.done: list[DoneReadings] = []
        if step.edits is not None:
            self.done.append(DoneReadings(step.edits, step.edits_done))
        if step.demanded is not None:
            self.done.append(DoneReadings(step.demanded, step.demanded_done))
        self.acts: Floats = step.after.acts.cpu().numpy()
        self.lengths: Floats = step.after.lengths.cpu().numpy()
        self.changes: Floats = step.after.changes.cpu().numpy()


class StepReadings:
    """The readings of all SAEs in one step, and what was edited, by hook point, on the CPU.

    `acts` [rows, columns] are those before the edits of their hook point.
    """

    def __init__(self, plan: StepPlan) -> None:
        self.plan = plan
        self.acts: dict[HookPoint, Floats] = {
            hook_point: step.acts.cpu().numpy() for hook_point, step in plan.points.items()
        }
        self.edits = {
            hook_point: EditReadings(step)
            for hook_point, step in plan.points.items()
            if step.edits is not None or step.demanded is not None
        }
        self._top = {
            encoding.sae: TopReadings(encoding)
            for step in plan.points.values()
            for encoding in step.encodings
        }

    def rows(self, span: RowSpan, wishes: RequestWishes) -> dict[int, tuple[TokenReading, ...]]:
        """Readings of the reported rows of a request, by row; empty when it reads nothing."""
        reading = [reads for reads in wishes.by_sae if reads.num_watched or reads.top_k]
        if not reading:
            return {}
        offset = span.first_position - span.first_row
        return {
            row: tuple(self._token(row, row + offset, reads, wishes.after_edit) for reads in reading)
            for row in reported_rows(span, wishes.prompt_length, wishes.include_prompt)
        }

    def monitored_tokens(self) -> dict[str, int]:
        """By SAE, the rows that its watched features were read on: only ordinary ones count."""
        return dict.fromkeys(self.plan.saes, int(self.plan.layout.ordinary.sum()))

    def sampled(self) -> dict[str, SampledRows]:
        """By SAE, the rows that were sampled and what was active there; none in most steps."""
        return {
            encoding.name: sampled_rows(encoding)
            for step in self.plan.points.values()
            for encoding in step.encodings
            if len(encoding.sampled)
        }

    def watched(self, columns: Mapping[str, Ints], watch: WatchList) -> WatchedRows:
        """What the server's watch list did; columns are by SAE, in the order of the list."""
        ordinary = self.plan.layout.ordinary
        acts = np.zeros((len(ordinary), len(watch)), dtype=np.float32)
        for sae, positions in watch.by_sae.items():
            acts[:, positions] = self.acts[self.plan.saes[sae]][:, columns[sae]]
        rows, features = np.nonzero((acts > 0) & ordinary[:, None])
        return WatchedRows(watch, ActiveEntries(rows, features, acts[rows, features]))

    def _token(self, row: int, position: int, reads: SaeReads, after_edit: bool) -> TokenReading:
        """The watched features of a row, then its strongest others among the top k that are active."""
        features = list(reads.features[: reads.num_watched])
        columns, acts = list(reads.columns[: reads.num_watched]), self.acts[reads.hook_point]
        values = acts[row, columns].tolist()
        after = []
        if after_edit:
            edits = self.edits.get(reads.hook_point)
            after = (acts if edits is None else edits.acts)[row, columns].tolist()
        if reads.top_k:
            top_features, top_values = self._top[reads.reader].of(row, reads.top_k)
            watched = set(features)
            new = [place for place, feature in enumerate(top_features) if feature not in watched]
            features += [top_features[place] for place in new]
            values += [top_values[place] for place in new]
        return TokenReading(position, reads.sae, features, values, after)


def sampled_rows(encoding: SaeEncoding) -> SampledRows:
    """The sampled rows of an encoding, with their active features."""
    rows = encoding.rows[encoding.sampled].cpu().numpy()
    acts = encoding.sampled_acts
    found = acts.nonzero()
    active = ActiveEntries(
        rows=rows[found[:, 0].cpu().numpy()],
        features=found[:, 1].cpu().numpy(),
        values=acts[found[:, 0], found[:, 1]].float().cpu().numpy(),
    )
    return SampledRows(rows, active, encoding.unexplained.cpu().numpy())
