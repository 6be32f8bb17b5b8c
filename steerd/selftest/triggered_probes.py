"""Probes that test features and directions on a text: what fires where, what ends it, what is switched to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, pairwise
from math import inf

from steerd.host.host_model import HostModel
from steerd.selftest.places import Place, direction_place, direction_points, feature_places
from steerd.selftest.plain_rows import PlainRows
from steerd.selftest.probes import Probe
from steerd.steering.intervention import Add, Condition, FeatureTest, Intervention
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.scope import Phase, Schedule, Scope
from steerd.steering.trigger import Flag, Stop, Switch, Trigger

_TESTED = 6  # places; every one takes a test of its own and shares in others

# How a test is released: where it is no longer on, never, or later.
_AT_ONCE, _NEVER, _LATE = range(3)

_POLICY = "policy:selftest@1"


def triggered_probes(host: HostModel, saes: LoadedSaes, plain: Probe, rows: PlainRows) -> list[Probe]:
    """The plain probe with features flagged, alone and together, and with one that ends it.

    The text is steered where the last of the tests has read it.
    """
    places = _places(host, saes, rows, 1)
    tested = [*places[-1], *chain.from_iterable(places[:-1])][:_TESTED]
    tests = [_clear_test(place, number % 3) for number, place in enumerate(tested)]
    conditions = [
        *(Condition(((test,),)) for test in tests),
        Condition((tuple(tests[:2]),)),
        Condition(tuple((test,) for test in tests[:3])),
    ]
    flags = [Trigger(f"flag-{number}", condition, Flag()) for number, condition in enumerate(conditions)]
    last = max(tested, key=lambda place: saes.hook_point(place.target).depth)
    flagged = replace(
        plain,
        name="flagged",
        interventions=(Intervention(target=last.target, operation=Add(last.push)),),
        triggers=tuple(flags),
    )
    stop = Trigger("stop", conditions[0], Stop())
    return [flagged, replace(flagged, name="stopped", triggers=(*flags, stop))]


def switched_probes(host: HostModel, saes: LoadedSaes, plain: Probe, rows: PlainRows) -> tuple[Probe, Probe]:
    """A probe that switches in its prompt, and what that comes to where nothing is switched.

    What a policy demands stays.
    """
    places = _places(host, saes, rows, 3)
    own, brought, demanded = (
        [Intervention(target=of[number].target, operation=Add(of[number].push)) for of in places]
        for number in range(3)
    )
    brought = [replace(edit, schedule=Schedule(ramp=4)) for edit in brought]
    demanded = [replace(edit, source=_POLICY) for edit in demanded]
    tested = places[-1][0]
    always = FeatureTest(target=tested.target, above=_below(tested), release_below=_below(tested))
    turn = Trigger("turn", Condition(((always,),)), Switch("selftest@1", tuple(brought)))
    switched = replace(plain, name="switched", interventions=(*own, *demanded), triggers=(turn,))
    scoped = (*_within(own, Phase.PROMPT), *_within(brought, Phase.GENERATED), *demanded)
    return switched, replace(plain, name="as if switched", interventions=scoped)


def _clear_test(place: Place, release: int) -> FeatureTest:
    """On above the widest gap between the values of the text, which no rounding can cross.

    One that is released late goes off below the widest gap beneath.
    """
    values = sorted(set(place.acts))
    above = _widest_gap(values)
    below = {_AT_ONCE: above, _NEVER: -inf, _LATE: _widest_gap([v for v in values if v < above] or values)}
    return FeatureTest(target=place.target, above=above, release_below=below[release])


def _widest_gap(values: Sequence[float]) -> float:
    """The middle of it; the value itself where there is one only."""
    if len(values) == 1:
        return values[0]
    low, high = max(pairwise(values), key=lambda pair: pair[1] - pair[0])
    return (low + high) / 2


def _below(place: Place) -> float:
    """Well below all values of the text."""
    return min(place.acts) - (max(place.acts) - min(place.acts)) - 1.0


def _within(edits: Sequence[Intervention], phase: Phase) -> list[Intervention]:
    return [replace(edit, scope=Scope(phase=phase)) for edit in edits]


def _places(host: HostModel, saes: LoadedSaes, rows: PlainRows, count: int) -> list[list[Place]]:
    """Of each SAE and each point of directions so many; those of directions come last."""
    features = [feature_places(loaded, rows, count) for loaded in saes]
    directions = [
        [direction_place(point, rows, rank) for rank in range(count)] for point in direction_points(host)
    ]
    return [*features, *directions]
