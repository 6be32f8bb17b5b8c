"""What one request asks for on its way to columns: edits, readings, tests and the lanes that these open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from steerd.host.hook_point import HookPoint
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.steering.coverage import Coverage
from steerd.steering.hooked_points import HookedPoints
from steerd.steering.intervention import (
    Add,
    Affine,
    FeatureRef,
    FeatureTest,
    Intervention,
    Operation,
    Target,
    WholeSae,
    affine,
)
from steerd.steering.lanes import ALWAYS, Lane, LaneBook, ResolvedTest
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.steering.point_table import ColumnTarget
from steerd.steering.request_wishes import (
    ColumnEdit,
    HeldColumn,
    ResolvedEdit,
    ResolvedTrigger,
    SaeReads,
)
from steerd.steering.steering import Steering
from steerd.steering.trigger import Trigger

_LEAST_RESPONSE = 0.5
"""Of a feature, for what policies demand of it to be made in full; trained ones have about 0.7 to 1.1."""


class WishResolution:
    """Holds columns for one request, for features of these SAEs; use it as a context manager.

    What it holds is the request's when its block ends, and is given back should the block fail. Tests are
    numbered as they come.
    """

    def __init__(self, points: HookedPoints, saes: LoadedSaes, special_ids: frozenset[int]) -> None:
        self._points = points
        self._saes = saes
        self._special_ids = special_ids
        self._book = LaneBook(self._read)
        self._columns: list[HeldColumn] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            give_back(self._points, self._columns)

    @property
    def tests(self) -> tuple[ResolvedTest, ...]:
        """All tests so far."""
        return tuple(self._book.tests)

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """All lanes so far."""
        return tuple(self._book.lanes)

    @property
    def columns(self) -> tuple[HeldColumn, ...]:
        """All columns so far, one as often as it is held."""
        return tuple(self._columns)

    def hold(self, target: ColumnTarget, copy: int = 0) -> int:
        """The column of a target; copies of one are for edits of their own."""
        hook_point = self._saes.hook_point(target)
        sae = self._saes.get(target.sae).sae if isinstance(target, FeatureRef) else None
        column = self._points[hook_point].table.acquire(target, sae, copy)
        self._columns.append((hook_point, column))
        return column

    def trigger(self, trigger: Trigger) -> ResolvedTrigger:
        """A trigger with tests of its own."""
        return ResolvedTrigger(trigger, self._book.needs(trigger.condition))

    def edits(
        self, steering: Steering, numbers: Sequence[int], prompt_ids: Sequence[int], first_position: int
    ) -> tuple[ResolvedEdit, ...]:
        """Interventions that count from a position on; `numbers` are theirs among all of the request."""
        copies: Counter[Target] = Counter()
        edits = []
        for number, intervention in zip(numbers, steering.interventions, strict=True):
            target = intervention.target
            does = self._does(intervention, copies[target])
            edits.append(
                ResolvedEdit(
                    number=number,
                    hook_point=self._saes.hook_point(target),
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
                    lane=self._lane(intervention, does),
                )
            )
            copies[target] += 1
        return tuple(edits)

    def reads(
        self,
        sae: LoadedSae,
        interventions: Sequence[Intervention],
        watch: Sequence[FeatureRef],
        top_k: int,
    ) -> SaeReads:
        """What is read of one SAE: the features that are watched, and those that are steered."""
        watched = list(dict.fromkeys(ref for ref in watch if ref.sae == sae.name))
        targets = [intervention.target for intervention in interventions]
        steered = [target for target in targets if isinstance(target, FeatureRef) and target.sae == sae.name]
        features = list(dict.fromkeys([*watched, *steered]))
        return SaeReads(
            sae=sae.name,
            reader=sae.sae,
            hook_point=sae.hook_point,
            features=tuple(feature.index for feature in features),
            columns=tuple(self.hold(feature) for feature in features),
            num_watched=len(watched),
            top_k=min(top_k, sae.sae.d_sae),
        )

    def _does(self, intervention: Intervention, copy: int) -> ColumnEdit | SparseAutoencoder:
        target = intervention.target
        if isinstance(target, WholeSae):
            return self._saes.get(target.sae).sae
        form = affine(intervention.operation)
        if intervention.is_demanded and isinstance(target, FeatureRef):
            form = self._in_full(form, intervention.operation, target)
        return ColumnEdit(self.hold(target, copy), form)

    def _in_full(self, form: Affine, operation: Operation, feature: FeatureRef) -> Affine:
        """What a policy demands moves what is read of the feature all the way to where the operation says.

        An Add says how much is added, not where to. A feature whose encoder hardly sees its direction can't
        be moved along it, so nothing is made of it that is many times as large.
        """
        response = self._saes.get(feature.sae).sae.response(feature.index)
        if isinstance(operation, Add) or response < _LEAST_RESPONSE:
            return form
        return form.times(1 / response)

    def _lane(self, intervention: Intervention, does: ColumnEdit | SparseAutoencoder) -> int | None:
        condition, budget = intervention.condition, intervention.schedule.at_most
        if condition is None and not budget:
            return None
        return self._book.add(
            Lane(
                hook_point=self._saes.hook_point(intervention.target),
                needs=ALWAYS if condition is None else self._book.needs(condition),
                budget=budget,
                column=does.column if isinstance(does, ColumnEdit) else None,
                keeps_length=intervention.preserve_norm,
            )
        )

    def _read(self, test: FeatureTest) -> tuple[HookPoint, int]:
        return self._saes.hook_point(test.target), self.hold(test.target)


def give_back(points: HookedPoints, columns: Sequence[HeldColumn]) -> None:
    """Hold these columns no more, each as often as it is named."""
    for hook_point, column in columns:
        points[hook_point].table.release(column)
