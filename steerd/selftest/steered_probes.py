"""Interventions of every kind, on every SAE and on directions of no SAE, each strong enough to be seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.selftest.plain_rows import PlainRows
from steerd.selftest.probes import Probe
from steerd.steering.intervention import (
    Ablate,
    Add,
    Condition,
    Direction,
    FeatureRef,
    FeatureTest,
    Intervention,
    Limit,
    Reconstruct,
    Scale,
    Set,
    WholeSae,
    unit_direction,
)
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.steering.scope import Phase, PositionRange, Schedule, Scope

_PUSH = 0.3  # of the median length of a row
_RECONSTRUCTED_ROWS = 12
_ROUNDING = 1e-4  # more than another order of summation changes a row by


@dataclass(frozen=True, slots=True)
class _Place:
    """A target, what moves a row there by `_PUSH` of its length, and its largest activation on the text."""

    target: FeatureRef | Direction
    push: float
    largest: float


def _fires(place: _Place) -> FeatureTest:
    """On from where it is strong to where it is weak."""
    above = 0.5 * place.largest
    return FeatureTest(target=place.target, above=above, release_below=above - 0.4 * abs(place.largest))


_KINDS: dict[str, Callable[[_Place], Intervention]] = {
    "add": lambda place: Intervention(
        target=place.target, operation=Add(place.push), scope=Scope(include_special_tokens=True)
    ),
    "set": lambda place: Intervention(
        target=place.target, operation=Set(place.push), scope=Scope(phase=Phase.GENERATED)
    ),
    "set where active": lambda place: Intervention(
        target=place.target, operation=Set(place.push, only_if_active=True)
    ),
    "scale": lambda place: Intervention(
        target=place.target,
        operation=Scale(3.0),
        schedule=Schedule(start_after=2, ramp=6, half_life=8.0),
    ),
    "ablate": lambda place: Intervention(
        target=place.target, operation=Ablate(), scope=Scope(positions=(PositionRange(2),))
    ),
    "limit from above": lambda place: Intervention(
        target=place.target,
        operation=Limit(high=0.2 * place.largest),
        scope=Scope(phase=Phase.GENERATED, first_n=20),
    ),
    "limit from below": lambda place: Intervention(
        target=place.target, operation=Limit(low=place.push), scope=Scope(phase=Phase.PROMPT, last_n=9)
    ),
    "add to few rows": lambda place: Intervention(
        target=place.target,
        operation=Add(-place.push),
        scope=Scope(phase=Phase.GENERATED),
        schedule=Schedule(at_most=5),
    ),
    "add and keep length": lambda place: Intervention(
        target=place.target,
        operation=Add(place.push),
        scope=Scope(positions=(PositionRange(-6),)),
        preserve_norm=True,
    ),
    "add where it fires": lambda place: Intervention(
        target=place.target,
        operation=Add(place.push),
        schedule=Schedule(at_most=12),
        condition=Condition(((_fires(place),),)),
    ),
}


def direction_points(host: HostModel) -> list[HookPoint]:
    """Where the directions of no SAE are."""
    return [HookPoint(0, "resid_post"), HookPoint(host.num_layers // 2, "resid_pre")]


def steered_probes(host: HostModel, saes: LoadedSaes, plain: Probe, rows: PlainRows) -> list[Probe]:
    """The plain probe under every kind of intervention; `rows` are those of its ids."""
    directions = [_direction_place(point, rows) for point in direction_points(host)]
    by_sae = [_feature_places(loaded, rows, len(_KINDS)) for loaded in saes]
    probes = [
        replace(plain, name=name, interventions=tuple(make(place) for place in (*features, *directions)))
        for (name, make), *features in zip(_KINDS.items(), *by_sae, strict=True)
    ]
    return probes + [
        replace(plain, name=f"reconstruct {loaded.name}", interventions=(_reconstruct(loaded, rows),))
        for loaded in saes
    ]


def shoves(host: HostModel, rows: PlainRows) -> tuple[Intervention, ...]:
    """What moves rows by their own length."""
    places = [_direction_place(point, rows) for point in direction_points(host)]
    return tuple(Intervention(target=place.target, operation=Add(place.push / _PUSH)) for place in places)


def _feature_places(loaded: LoadedSae, rows: PlainRows, count: int) -> list[_Place]:
    """The features that are the most active on the text, others where there are fewer."""
    acts = loaded.sae.encode(rows.ordinary_at(loaded.hook_point))  # [ordinary, d_sae]
    push = _PUSH * rows.median_norm(loaded.hook_point)
    strongest = acts.mean(dim=0).argsort(descending=True)[:count].tolist()
    return [
        _Place(
            target=FeatureRef(loaded.name, feature),
            push=push / (float(loaded.sae.W_dec[feature].norm()) or 1.0),
            largest=float(acts[:, feature].max()),
        )
        for feature in islice(cycle(strongest), count)
    ]


def _direction_place(point: HookPoint, rows: PlainRows) -> _Place:
    """The direction in which the strangest row differs from the mean."""
    differences = rows.ordinary_at(point) - rows.ordinary_at(point).mean(dim=0)
    target = unit_direction(str(point), differences[differences.norm(dim=-1).argmax()].tolist())
    projections = rows.ordinary_at(point) @ torch.tensor(target.values, device=differences.device)
    return _Place(target, _PUSH * rows.median_norm(point), float(projections.max()))


def _reconstruct(loaded: LoadedSae, rows: PlainRows) -> Intervention:
    clear = _clear_positions(loaded.sae, rows.at(loaded.hook_point), rows.ordinary)
    ranges = tuple(PositionRange(position, position + 1) for position in clear[:_RECONSTRUCTED_ROWS])
    return Intervention(target=WholeSae(loaded.name), operation=Reconstruct(), scope=Scope(positions=ranges))


def _clear_positions(sae: SparseAutoencoder, rows: Tensor, ordinary: Sequence[int]) -> list[int]:
    """The ordinary positions where rounding decides of no feature whether it is active; all, if of none."""
    less, more = (sae.encode(rows * (1 + change)) > 0 for change in (-_ROUNDING, _ROUNDING))
    is_clear = (less == more).all(dim=-1).tolist()
    return [position for position in ordinary if is_clear[position]] or list(ordinary)
