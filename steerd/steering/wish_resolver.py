"""From what a request asks to columns in the tables of its hook points, when it starts."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence

from steerd.host.hook_point import HookPoint
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.steering.coverage import Coverage
from steerd.steering.hooked_points import HookedPoints
from steerd.steering.intervention import (
    DIRECTIONS,
    Direction,
    FeatureRef,
    Intervention,
    Target,
    WholeSae,
    affine,
    operation_name,
)
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.point_table import ColumnTarget
from steerd.steering.request_wishes import ColumnEdit, RequestWishes, ResolvedEdit, SaeReads
from steerd.steering.steering import Steering

_Columns = list[tuple[HookPoint, ColumnTarget, int]]


class WishResolver:
    """Gives running requests their columns and slots, and takes them back."""

    def __init__(self, points: HookedPoints, saes: LoadedSaes, special_ids: frozenset[int]) -> None:
        self._points = points
        self._saes = {sae.name: sae for sae in saes}
        self._special_ids = special_ids
        self._free_slots: list[int] = []
        self._num_slots = 0

    def resolve(
        self,
        *,
        prompt_ids: Sequence[int],
        steering: Steering,
        watch: Sequence[FeatureRef] = (),
        top_k: int = 0,
        top_k_saes: Sequence[str] = (),
        include_prompt: bool = False,
    ) -> RequestWishes:
        """Give every target of a request its column; `release` must follow when the request ends.

        Raises HostError, and holds nothing, for a direction at a hook point that the host does not have.
        """
        held: _Columns = []
        try:
            edits = self._edits(steering, prompt_ids, held)
            by_sae = [
                self._reads(name, steering.interventions, watch, top_k if name in top_k_saes else 0, held)
                for name in self._saes
            ]
        except BaseException:
            self._release_columns(held)
            raise
        return RequestWishes(
            slot=self._take_slot(),
            prompt_length=len(prompt_ids),
            include_prompt=include_prompt,
            edits=edits,
            by_sae=tuple(reads for reads in by_sae if reads.features or reads.top_k),
            columns=tuple(held),
            is_steady=all(edit.coverage.is_steady for edit in edits),
        )

    def release(self, wishes: RequestWishes) -> None:
        """Give back the slot and the columns of a request that ended."""
        self._release_columns(wishes.columns)
        heapq.heappush(self._free_slots, wishes.slot)

    def acquire(self, feature: FeatureRef) -> int:
        """A feature's column for good: the server's own readings."""
        return self._points[self._saes[feature.sae].hook_point].table.acquire(feature)

    def _edits(
        self, steering: Steering, prompt_ids: Sequence[int], held: _Columns
    ) -> tuple[ResolvedEdit, ...]:
        copies: Counter[Target] = Counter()
        edits = []
        for intervention in steering.interventions:
            target = intervention.target
            edits.append(
                ResolvedEdit(
                    hook_point=self._hook_point(target),
                    target=target,
                    does=self._does(intervention, copies[target], held),
                    coverage=Coverage(
                        intervention.scope,
                        intervention.schedule,
                        prompt_ids=prompt_ids,
                        roles=steering.roles,
                        special_ids=self._special_ids,
                    ),
                    preserve_norm=intervention.preserve_norm,
                    source=DIRECTIONS if isinstance(target, Direction) else target.sae,
                    operation=operation_name(intervention.operation),
                )
            )
            copies[target] += 1
        return tuple(edits)

    def _does(self, intervention: Intervention, copy: int, held: _Columns) -> ColumnEdit | SparseAutoencoder:
        target = intervention.target
        if isinstance(target, WholeSae):
            return self._saes[target.sae].sae
        return ColumnEdit(self._hold(target, copy, held), affine(intervention.operation))

    def _reads(
        self,
        sae: str,
        interventions: Sequence[Intervention],
        watch: Sequence[FeatureRef],
        top_k: int,
        held: _Columns,
    ) -> SaeReads:
        watched = list(dict.fromkeys(ref for ref in watch if ref.sae == sae))
        targets = [intervention.target for intervention in interventions]
        steered = [target for target in targets if isinstance(target, FeatureRef) and target.sae == sae]
        features = list(dict.fromkeys([*watched, *steered]))
        return SaeReads(
            sae=sae,
            hook_point=self._saes[sae].hook_point,
            features=tuple(feature.index for feature in features),
            columns=tuple(self._hold(feature, 0, held) for feature in features),
            num_watched=len(watched),
            top_k=min(top_k, self._saes[sae].sae.d_sae),
        )

    def _hold(self, target: ColumnTarget, copy: int, held: _Columns) -> int:
        hook_point = self._hook_point(target)
        column = self._points[hook_point].table.acquire(target, copy)
        held.append((hook_point, target, copy))
        return column

    def _hook_point(self, target: Target) -> HookPoint:
        if isinstance(target, Direction):
            return HookPoint.parse(target.hook_point)
        return self._saes[target.sae].hook_point

    def _release_columns(self, columns: Sequence[tuple[HookPoint, ColumnTarget, int]]) -> None:
        for hook_point, target, copy in columns:
            self._points[hook_point].table.release(target, copy)

    def _take_slot(self) -> int:
        if self._free_slots:
            return heapq.heappop(self._free_slots)
        self._num_slots += 1
        return self._num_slots - 1
