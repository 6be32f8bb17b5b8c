"""From the rows of a step and the wishes of their requests to tensors, before the forward.

The planner does all the looking-up, so that what runs inside the forward (`steered_point`) only does
arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.steering.hooked_points import HookedPoints
from steerd.steering.intervention import FeatureRef
from steerd.steering.kept_readings import KeptReadings
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.request_wishes import HeldColumn, RequestWishes
from steerd.steering.room import PADDING_SLOT, Room
from steerd.steering.row_mean import RowMean
from steerd.steering.row_span import RowSpan
from steerd.steering.steered_point import Keeping, PointStep, SaeEncoding
from steerd.steering.step_layout import Ints, StepLayout, TopRows, lay_out
from steerd.steering.step_rows import StepRows
from steerd.steering.wish_resolver import WishResolver


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The plan of one step: its layout, each hook point's part, and where the SAEs are that are read.

    While a layout stands and nothing is sampled it is the same plan, whose hooks overwrite their readings.
    `kept` is where they leave them, if they do.
    """

    layout: StepLayout
    points: dict[HookPoint, PointStep]
    saes: dict[str, HookPoint]
    kept: KeptReadings | None

    def settle(self) -> None:
        """After the forward, before anything is read of it: take in what the hooks left.

        Raises RuntimeError when one of them had no part in a step that could be recorded.
        """
        if self.kept is None:
            for step in self.points.values():
                step.settle()
            return
        found = self.kept.fetch(len(self.layout.ordinary), self.layout.padding)
        for hook_point, step in self.points.items():
            step.take(found[hook_point])

    def bits(self) -> NDArray[np.int64] | None:
        """Which tests are on, by row and bit, after the forward; None when no request has triggers."""
        rows = self.layout.rows
        return rows.bits.cpu().numpy() if rows is not None and self.layout.has_triggers else None


class StepPlanner:
    """Owns the hook points' tables and hooks. Used by the engine thread alone."""

    def __init__(
        self, host: HostModel, saes: LoadedSaes, sample_every: int, room: Room | None = None
    ) -> None:
        """Every `sample_every`-th row is encoded whole; 0: none. Steps can only be recorded with a Room."""
        self._device = host.device
        self._special = host.special_token_ids
        self._sample_every = sample_every
        self._rows_seen = 0
        self._saes = saes
        self._means = {sae.name: RowMean(sae.sae.b_dec) for sae in saes}
        self._points = HookedPoints(host, room)
        self._rows = StepRows(host.device, room)
        self._kept = None if room is None else KeptReadings(room, host.d_model, host.device)
        self._resolver = WishResolver(
            self._points, saes, host.special_token_ids, first_slot=0 if room is None else PADDING_SLOT + 1
        )
        self.resolve, self.release = self._resolver.resolve, self._resolver.release
        self.switch = self._resolver.switch
        self.at_rest = self._points.at_rest
        self._key: list[Any] | None = None
        self._layout: StepLayout | None = None
        self._standing: StepPlan | None = None
        self._program = self.program
        self.watched_columns: dict[str, Ints] = {}
        self._watch: Sequence[FeatureRef] = ()
        self._watch_holds: list[HeldColumn] = []

    def serve(self, saes: LoadedSaes) -> None:
        """Let requests that come from now on, and the server's own readings, be of these SAEs.

        They have the names and hook points of those before. What was resolved keeps what it was resolved to.
        """
        self._saes = self._resolver.saes = saes
        self.watch(self._watch)

    def watch(self, watch: Sequence[FeatureRef]) -> None:
        """Read these features, and no others of the server's, on every row of the coming steps."""
        columns: dict[str, list[int]] = {}
        holds = [self._resolver.acquire(ref) for ref in watch]
        for ref, (_, column) in zip(watch, holds, strict=True):
            columns.setdefault(ref.sae, []).append(column)
        self._resolver.give_back(self._watch_holds)  # after, so that one in both lists keeps its column
        self._watch, self._watch_holds = tuple(watch), holds
        self.watched_columns = {sae: np.array(found) for sae, found in columns.items()}
        self._standing = None

    @property
    def program(self) -> Hashable:
        """What the hooks do, but for the numbers in their tensors: while it is equal, a recording of them
        holds. None without a Room, as nothing is recorded then."""
        if self._kept is None:
            return None
        points = tuple((hook_point, *point.versions) for hook_point, point in self._points.items())
        return self._rows.version, self._kept.version, points

    def can_record(self, wishes: Iterable[RequestWishes]) -> bool:
        """Whether steps of these requests have a form that does not depend on the rows.

        Where a whole SAE is to be decoded, or encoded for the sake of a few columns, they do not.
        """
        if self._kept is None or any(point.table.encodes_whole for point in self._points.all()):
            return False
        return all(request.is_along_directions for request in wishes)

    def plan(
        self, spans: Sequence[RowSpan], wishes: Mapping[str, RequestWishes], padding: int = 0
    ) -> StepPlan:
        """Put the plan of the coming forward in place; the hooks will fill its readings.

        So many rows of nobody follow those of the spans; there can only be some with a Room.
        """
        if self.program != self._program:  # something moved
            self._key = None
            self._standing = None
        layout = self._laid_out(spans, [wishes[span.request_id] for span in spans], padding)
        if layout.rows is not None:
            layout.rows.begin()
        sampled_rows = self._sampled_rows(layout)
        plan = self._standing
        if plan is None or sampled_rows or layout is not plan.layout:
            everywhere = [sae.name for sae in self._saes] if sampled_rows else self.watched_columns
            plan = self._put_in_place(layout, everywhere, sampled_rows, self._kept)
            self._standing = None if sampled_rows else plan
        if self._kept is not None:
            self._kept.begin()
        self._program = self.program
        return plan

    @contextmanager
    def beside(self, spans: Sequence[RowSpan], wishes: Mapping[str, RequestWishes]) -> Iterator[StepPlan]:
        """Inside, the hooks do what the wishes ask for on a forward of these rows, from position 0 on, that
        is no step: nothing is read for the server itself.

        Between two steps only, of which the coming one is planned anew.
        """
        self._key = self._layout = self._standing = None
        of_spans = [wishes[span.request_id] for span in spans]
        strengths = [
            request.factors(span.first_position, span.token_ids)
            for span, request in zip(spans, of_spans, strict=True)
        ]
        layout = lay_out(spans, of_spans, strengths, self._points, self._rows, self._special)
        if layout.rows is not None:
            layout.rows.begin()
        try:
            yield self._put_in_place(layout, (), (), kept=None)
        finally:
            for point in self._points.all():
                point.hook.step = None
            self.take_hook_seconds()  # which no step has taken

    def take_hook_seconds(self) -> float:
        """The time that went by in the hooks since this was last asked."""
        seconds = 0.0
        for point in self._points.all():
            seconds += point.hook.seconds
            point.hook.seconds = 0.0
        return seconds

    def close(self) -> None:
        """Detach every hook."""
        self._points.close()

    def _put_in_place(
        self,
        layout: StepLayout,
        everywhere: Collection[str],
        sampled_rows: Sequence[int],
        kept: KeptReadings | None,
    ) -> StepPlan:
        """Give each hook its part; SAEs are read that the layout wants, or that are read `everywhere`.

        With `kept`, where hooks are to leave what they read, each hook that there is has a part.
        """
        read = {
            sae.name: sae.hook_point
            for sae in self._saes
            if sae.name in layout.saes or sae.name in everywhere
        }
        wanted = layout.points.union(read.values())
        in_place = wanted if kept is None else wanted.union(self._points.attached)
        for point in self._points.all():
            point.hook.step = None
        steps = self._steps(in_place, layout, sampled_rows, kept)
        for hook_point, step in steps.items():
            self._points[hook_point].hook.step = step
        return StepPlan(
            layout,
            points={hook_point: steps[hook_point] for hook_point in wanted},
            saes=read,
            kept=kept,
        )

    def _steps(
        self,
        hook_points: Collection[HookPoint],
        layout: StepLayout,
        sampled_rows: Sequence[int],
        kept: KeptReadings | None,
    ) -> dict[HookPoint, PointStep]:
        """The parts of these hook points in a step."""
        if kept is not None:
            kept.fit({hook_point: self._points[hook_point].table.width for hook_point in hook_points})
        steps = {}
        for hook_point in hook_points:
            point = self._points[hook_point]
            encodings = self._encodings(hook_point, layout, sampled_rows)
            steps[hook_point] = PointStep(
                table=point.table,
                edits=layout.edits.get(hook_point),
                demanded=layout.demanded.get(hook_point),
                lanes=layout.lanes.get(hook_point),
                encodings=encodings,
                keeping=None if kept is None else _keeping(kept, hook_point, layout, bool(encodings)),
            )
        return steps

    def _laid_out(
        self, spans: Sequence[RowSpan], wishes: Sequence[RequestWishes], padding: int
    ) -> StepLayout:
        """The layout of the step before while requests, order and edits are the same and all decode."""
        key: list[Any] | None = [padding]
        strengths: list[Any] = []
        for span, request in zip(spans, wishes, strict=True):
            decodes = span.first_position >= request.prompt_length and len(span.token_ids) == 1
            factors = None
            if not (decodes and request.is_steady):
                factors = request.factors(span.first_position, span.token_ids)
            strengths.append(factors)
            if not decodes:
                key = None
            if key is not None:
                special = span.token_ids[0] in self._special
                key.append((request, special, None if factors is None else [float(f[0]) for f in factors]))
        if key is None or key != self._key or self._layout is None:
            for index, (span, request) in enumerate(zip(spans, wishes, strict=True)):
                if strengths[index] is None:
                    strengths[index] = request.factors(span.first_position, span.token_ids)
            self._key = key
            self._layout = lay_out(spans, wishes, strengths, self._points, self._rows, self._special, padding)
        return self._layout

    def _encodings(
        self, hook_point: HookPoint, layout: StepLayout, sampled_rows: Sequence[int]
    ) -> tuple[SaeEncoding, ...]:
        """What the SAEs of a point encode whole: the sampled rows, and those whose strongest are wanted."""
        sampling = [sae for sae in self._saes if sae.hook_point == hook_point] if sampled_rows else []
        encodings = [
            self._encoding(
                sae.name, sae.sae, layout.top_rows.get(sae.sae, TopRows(sae.name, hook_point)), sampled_rows
            )
            for sae in sampling
        ]
        done = {encoding.sae for encoding in encodings}
        for reader, top in layout.top_rows.items():
            if reader not in done and top.hook_point == hook_point and top.rows:
                encodings.append(self._encoding(top.sae, reader, top, ()))
        return tuple(encodings)

    def _encoding(
        self, name: str, sae: SparseAutoencoder, top: TopRows, sampled_rows: Sequence[int]
    ) -> SaeEncoding:
        encoded = {row: index for index, row in enumerate(sorted(top.rows.union(sampled_rows)))}
        sampled = [encoded[row] for row in sampled_rows]
        return SaeEncoding(
            name=name,
            sae=sae,
            rows=torch.tensor(list(encoded), device=self._device),
            sampled=torch.tensor(sampled, dtype=torch.long, device=self._device),
            top_k=top.top_k,
            mean=self._means[name],
        )

    def _sampled_rows(self, layout: StepLayout) -> list[int]:
        """Every `sample_every`-th ordinary row over all steps; none when it is 0."""
        if self._sample_every == 0:
            return []
        ordinary_rows = np.flatnonzero(layout.ordinary)
        first = -self._rows_seen % self._sample_every
        self._rows_seen += len(ordinary_rows)
        sampled: list[int] = ordinary_rows[first :: self._sample_every].tolist()
        return sampled


def _keeping(kept: KeptReadings, hook_point: HookPoint, layout: StepLayout, has_encodings: bool) -> Keeping:
    num_rows = len(layout.ordinary) + layout.padding
    keeps_rows = has_encodings or kept.keeps_rows(hook_point)
    return Keeping(
        kept=kept.at(hook_point, num_rows),
        step=kept.step,
        rows=kept.rows_at(hook_point)[:num_rows] if keeps_rows else None,
    )
