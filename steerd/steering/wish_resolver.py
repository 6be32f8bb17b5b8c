"""From what a request asks to columns in the tables of its hook points, when it starts."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from steerd.host.hook_point import HookPoint
from steerd.steering.hooked_points import HookedPoints
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.request_wishes import HeldColumn, NumberedTarget, RequestWishes
from steerd.steering.steering import Steering
from steerd.steering.wish_resolution import WishResolution, give_back


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
        with self._resolution(saes) as resolution:
            # First, so that their tests keep their numbers whatever a switch makes of the rest.
            triggers = [resolution.trigger(trigger) for trigger in steering.triggers]
            edits = resolution.edits(steering, range(len(steering.interventions)), prompt_ids, 0)
            by_sae = [
                resolution.reads(sae, steering.numbered, watch, top_k if sae.name in top_k_saes else 0)
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
                    tests=resolution.tests,
                    lanes=resolution.lanes,
                    columns=resolution.columns,
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
        with self._resolution(wishes.saes) as resolution:
            for reads in wishes.by_sae:
                for feature in reads.features:
                    resolution.hold(FeatureRef(reads.sae, feature))
            for resolved in wishes.triggers:
                resolution.trigger(resolved.trigger)
            num_kept = len(resolution.tests)
            edits = resolution.edits(steering, numbers, prompt_ids, first_position)
            switched = replace(
                wishes,
                edits=edits,
                tests=resolution.tests,
                lanes=resolution.lanes,
                columns=resolution.columns,
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
        give_back(self._points, columns)

    def _resolution(self, saes: LoadedSaes) -> WishResolution:
        return WishResolution(self._points, saes, self._special_ids)

    @contextmanager
    def _in_slot(self) -> Iterator[int]:
        """A slot that is given back should the block fail."""
        slot = self._take_slot()
        try:
            yield slot
        except BaseException:
            heapq.heappush(self._free_slots, slot)
            raise

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

    def _take_slot(self) -> int:
        if self._free_slots:
            return heapq.heappop(self._free_slots)
        self._next_slot += 1
        return self._next_slot - 1


def _points(wishes: RequestWishes) -> set[HookPoint]:
    """Where a request has tests or lanes."""
    return {test.hook_point for test in wishes.tests} | {lane.hook_point for lane in wishes.lanes}
