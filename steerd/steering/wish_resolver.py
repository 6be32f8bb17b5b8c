"""From what a request asks to columns in the tables of its hook points, when it starts."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from steerd.host.hook_point import HookPoint
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.steering.coverage import Coverage
from steerd.steering.hooked_points import HookedPoints
from steerd.steering.intervention import (
    FeatureRef,
    FeatureTest,
    Intervention,
    Target,
    WholeSae,
    affine,
)
from steerd.steering.lanes import ALWAYS, Lane, LaneBook
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.steering.point_table import ColumnTarget
from steerd.steering.request_wishes import (
    ColumnEdit,
    HeldColumn,
    NumberedTarget,
    RequestWishes,
    ResolvedEdit,
    ResolvedTrigger,
    SaeReads,
)
from steerd.steering.steering import Steering


@dataclass(frozen=True, slots=True)
class _Held:
    """What one request is being given: columns, for features of these SAEs."""

    saes: LoadedSaes
    columns: list[HeldColumn]


class WishResolver:
    """Gives running requests their columns and slots, and takes them back.

    What a request asks for is looked up in the SAEs that are served when it comes; `saes`, those that are
    served now, may change.
    """

    def __init__(
        self, points: HookedPoints, saes: LoadedSaes, special_ids: frozenset[int], *, first_slot: int = 0
    ) -> None:
        """Slots are numbered from `first_slot` on."""
        self._points = points
        self.saes = saes
        self._special_ids = special_ids
        self._free_slots: list[int] = []
        self._next_slot = first_slot

    def resolve(
        self,
        *,
        prompt_ids: Sequence[int],
        steering: Steering,
        watch: Sequence[FeatureRef] = (),
        top_k: int = 0,
        top_k_saes: Sequence[str] = (),
        include_prompt: bool = False,
        after_edit: bool = False,
        saes: LoadedSaes | None = None,
    ) -> RequestWishes:
        """Give every target of a request its column; `release` must follow when the request ends.

        `saes` are those that it was made for; those that are served now when nothing is said.

        Raises HostError for a direction at a hook point that the host does not have, and OutOfMemoryError;
        nothing is held then.
        """
        saes = saes or self.saes
        with self._holding(saes) as held:
            book = LaneBook(lambda test: self._read(test, held))
            # First, so that their tests keep their numbers whatever a switch makes of the rest.
            triggers = [
                ResolvedTrigger(trigger, book.needs(trigger.condition)) for trigger in steering.triggers
            ]
            edits = self._edits(steering, range(len(steering.interventions)), prompt_ids, 0, book, held)
            by_sae = [
                self._reads(sae, steering.numbered, watch, top_k if sae.name in top_k_saes else 0, held)
                for sae in saes
            ]
            numbered = [
                NumberedTarget(saes.hook_point(each.target), each.target) for each in steering.numbered
            ]
            with self._in_slot() as slot:
                wishes = RequestWishes(
                    saes=saes,
                    slot=slot,
                    prompt_length=len(prompt_ids),
                    include_prompt=include_prompt,
                    after_edit=after_edit,
                    edits=edits,
                    numbered=tuple(numbered),
                    by_sae=tuple(reads for reads in by_sae if reads.features or reads.top_k),
                    triggers=tuple(triggers),
                    tests=tuple(book.tests),
                    lanes=tuple(book.lanes),
                    columns=tuple(held.columns),
                    is_steady=all(edit.coverage.is_steady for edit in edits),
                )
                self._put(wishes)
        return wishes

    def switch(
        self,
        wishes: RequestWishes,
        steering: Steering,
        *,
        prompt_ids: Sequence[int],
        first_position: int,
        numbers: Sequence[int],
    ) -> RequestWishes:
        """The wishes of a request whose rows from a position on are edited otherwise; the old ones are void.

        When it raises, they hold what they held, but the request cannot go on: its tests are gone.
        `numbers` are its interventions' among all that the request may have. Slot, readings and triggers
        stay, the tests of these in the state in which they are.
        """
        with self._holding(wishes.saes) as held:
            for reads in wishes.by_sae:
                for feature in reads.features:
                    self._hold(FeatureRef(reads.sae, feature), 0, held)
            book = LaneBook(lambda test: self._read(test, held))
            for resolved in wishes.triggers:
                book.needs(resolved.trigger.condition)
            num_kept = len(book.tests)
            edits = self._edits(steering, numbers, prompt_ids, first_position, book, held)
            switched = replace(
                wishes,
                edits=edits,
                tests=tuple(book.tests),
                lanes=tuple(book.lanes),
                columns=tuple(held.columns),
                is_steady=all(edit.coverage.is_steady for edit in edits),
            )
            for point in _points(wishes) - _points(switched):
                self._points[point].lanes.clear(wishes.slot)
            self._put(switched, num_kept)
        self.give_back(wishes.columns)
        return switched

    def release(self, wishes: RequestWishes) -> None:
        """Give back the slot and the columns of a request that ended."""
        for point in _points(wishes):
            self._points[point].lanes.clear(wishes.slot)
        self.give_back(wishes.columns)
        heapq.heappush(self._free_slots, wishes.slot)

    def acquire(self, feature: FeatureRef) -> HeldColumn:
        """A feature's column, for the server's own readings; `give_back` must follow."""
        sae = self.saes.get(feature.sae)
        return sae.hook_point, self._points[sae.hook_point].table.acquire(feature, sae.sae)

    def give_back(self, columns: Sequence[HeldColumn]) -> None:
        """Undo an `acquire` of each."""
        for hook_point, column in columns:
            self._points[hook_point].table.release(column)

    @contextmanager
    def _holding(self, saes: LoadedSaes) -> Iterator[_Held]:
        """Columns that are given back should the block fail."""
        held = _Held(saes, [])
        try:
            yield held
        except BaseException:
            self.give_back(held.columns)
            raise

    @contextmanager
    def _in_slot(self) -> Iterator[int]:
        """A slot that is given back should the block fail."""
        slot = self._take_slot()
        try:
            yield slot
        except BaseException:
            heapq.heappush(self._free_slots, slot)
            raise

    def _edits(
        self,
        steering: Steering,
        numbers: Sequence[int],
        prompt_ids: Sequence[int],
        first_position: int,
        book: LaneBook,
        held: _Held,
    ) -> tuple[ResolvedEdit, ...]:
        copies: Counter[Target] = Counter()
        edits = []
        for number, intervention in zip(numbers, steering.interventions, strict=True):
            target = intervention.target
            does = self._does(intervention, copies[target], held)
            edits.append(
                ResolvedEdit(
                    number=number,
                    hook_point=held.saes.hook_point(target),
                    target=target,
                    does=does,
                    coverage=Coverage(
                        intervention.scope,
                        intervention.schedule,
                        prompt_ids=prompt_ids,
                        roles=steering.roles,
                        special_ids=self._special_ids,
                        origin=0 if intervention.is_demanded else first_position,
                    ),
                    preserve_norm=intervention.preserve_norm,
                    is_demanded=intervention.is_demanded,
                    lane=self._lane(intervention, does, book, held),
                )
            )
            copies[target] += 1
        return tuple(edits)

    def _does(self, intervention: Intervention, copy: int, held: _Held) -> ColumnEdit | SparseAutoencoder:
        target = intervention.target
        if isinstance(target, WholeSae):
            return held.saes.get(target.sae).sae
        return ColumnEdit(self._hold(target, copy, held), affine(intervention.operation))

    def _lane(
        self,
        intervention: Intervention,
        does: ColumnEdit | SparseAutoencoder,
        book: LaneBook,
        held: _Held,
    ) -> int | None:
        condition, budget = intervention.condition, intervention.schedule.at_most
        if condition is None and not budget:
            return None
        hook_point = held.saes.hook_point(intervention.target)
        return book.add(
            Lane(
                hook_point=hook_point,
                needs=ALWAYS if condition is None else book.needs(condition),
                budget=budget,
                column=does.column if isinstance(does, ColumnEdit) else None,
                keeps_length=intervention.preserve_norm,
            )
        )

    def _read(self, test: FeatureTest, held: _Held) -> tuple[HookPoint, int]:
        return held.saes.hook_point(test.target), self._hold(test.target, 0, held)

    def _put(self, wishes: RequestWishes, num_kept: int = 0) -> None:
        """Put tests and lanes in place, all at their start but the first `num_kept` tests; or none."""
        try:
            for point in _points(wishes):
                tests = [test for test in wishes.tests if test.hook_point == point]
                lanes = [lane for lane in wishes.lanes if lane.hook_point == point]
                kept = sum(test.bit < num_kept for test in tests)
                self._points[point].lanes.put(wishes.slot, tests, lanes, num_kept=kept)
        except BaseException:
            for point in _points(wishes):
                self._points[point].lanes.clear(wishes.slot)
            raise

    def _reads(
        self,
        sae: LoadedSae,
        interventions: Sequence[Intervention],
        watch: Sequence[FeatureRef],
        top_k: int,
        held: _Held,
    ) -> SaeReads:
        watched = list(dict.fromkeys(ref for ref in watch if ref.sae == sae.name))
        targets = [intervention.target for intervention in interventions]
        steered = [target for target in targets if isinstance(target, FeatureRef) and target.sae == sae.name]
        features = list(dict.fromkeys([*watched, *steered]))
        return SaeReads(
            sae=sae.name,
            reader=sae.sae,
            hook_point=sae.hook_point,
            features=tuple(feature.index for feature in features),
            columns=tuple(self._hold(feature, 0, held) for feature in features),
            num_watched=len(watched),
            top_k=min(top_k, sae.sae.d_sae),
        )

    def _hold(self, target: ColumnTarget, copy: int, held: _Held) -> int:
        hook_point = held.saes.hook_point(target)
        sae = held.saes.get(target.sae).sae if isinstance(target, FeatureRef) else None
        column = self._points[hook_point].table.acquire(target, sae, copy)
        held.columns.append((hook_point, column))
        return column

    def _take_slot(self) -> int:
        if self._free_slots:
            return heapq.heappop(self._free_slots)
        self._next_slot += 1
        return self._next_slot - 1


def _points(wishes: RequestWishes) -> set[HookPoint]:
    """Where a request has tests or lanes."""
    return {test.hook_point for test in wishes.tests} | {lane.hook_point for lane in wishes.lanes}
