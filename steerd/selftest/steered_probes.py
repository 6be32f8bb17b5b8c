"""Interventions of every kind, on every SAE and on directions of no SAE, each strong enough to be seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from steerd.host.host_model import HostModel
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.selftest.places import PUSH, Place, direction_place, direction_points, feature_places
from steerd.selftest.plain_rows import PlainRows
from steerd.selftest.probes import Probe
from steerd.steering.intervention import (
    Ablate,
    Add,
    Condition,
    FeatureTest,
    Intervention,
    Limit,
    Reconstruct,
    Scale,
    Set,
    WholeSae,
)
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.steering.scope import Phase, PositionRange, Schedule, Scope

_RECONSTRUCTED_ROWS = 12
_ROUNDING = 1e-4  # more than another order of summation changes a row by


def _fires(place: Place) -> FeatureTest:
    """On from where it is strong to where it is weak."""
    above = 0.5 * place.largest
    return FeatureTest(target=place.target, above=above, release_below=above - 0.4 * abs(place.largest))


_KINDS: dict[str, Callable[[Place], Intervention]] = {
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
        scope=Scope(phase=Phase.GENERATED, first_n=12),
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
    "add to a role": lambda place: Intervention(
        target=place.target, operation=Add(place.push), scope=Scope(roles=("user",))
    ),
}


def steered_probes(host: HostModel, saes: LoadedSaes, plain: Probe, rows: PlainRows) -> list[Probe]:
    """The plain probe under every kind of intervention; `rows` are those of its ids."""
    directions = [direction_place(point, rows) for point in direction_points(host)]
    by_sae = [feature_places(loaded, rows, len(_KINDS)) for loaded in saes]
    probes = [
        replace(plain, name=name, interventions=tuple(make(place) for place in (*features, *directions)))
        for (name, make), *features in zip(_KINDS.items(), *by_sae, strict=True)
    ]
    under_policy = _under_policy([place for features in (*by_sae, directions) for place in features[:1]])
    return [
        *probes,
        replace(plain, name="under a policy", interventions=under_policy),
        *(
            replace(plain, name=f"reconstruct {loaded.name}", interventions=(_reconstruct(loaded, rows),))
            for loaded in saes
        ),
    ]


def _under_policy(places: Sequence[Place]) -> tuple[Intervention, ...]:
    """Edits, and what takes them back: policies have the last word on a row."""
    own = (Intervention(target=place.target, operation=Add(place.push)) for place in places)
    demanded = (
        Intervention(target=place.target, operation=Set(-place.push), source="policy:selftest@1")
        for place in places
    )
    return (*own, *demanded)


def shoves(host: HostModel, rows: PlainRows) -> tuple[Intervention, ...]:
    """What moves rows by their own length."""
    places = [direction_place(point, rows) for point in direction_points(host)]
    return tuple(Intervention(target=place.target, operation=Add(place.push / PUSH)) for place in places)


def _reconstruct(loaded: LoadedSae, rows: PlainRows) -> Intervention:
    clear = _clear_positions(loaded.sae, rows.at(loaded.hook_point), rows.ordinary)
    ranges = tuple(PositionRange(position, position + 1) for position in clear[:_RECONSTRUCTED_ROWS])
    return Intervention(target=WholeSae(loaded.name), operation=Reconstruct(), scope=Scope(positions=ranges))


def _clear_positions(sae: SparseAutoencoder, rows: Tensor, ordinary: Sequence[int]) -> list[int]:
    """The ordinary positions where rounding decides of no feature whether it is active; all, if of none."""
    less, more = (sae.encode(rows * (1 + change)) > 0 for change in (-_ROUNDING, _ROUNDING))
    is_clear = (less == more).all(dim=-1).tolist()
    return [position for position in ordinary if is_clear[position]] or list(ordinary)
