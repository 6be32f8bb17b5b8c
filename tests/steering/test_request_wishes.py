from __future__ import annotations

from steerd.steering.intervention import Ablate, Add, FeatureRef, Intervention, Scale, Set
from steerd.steering.request_wishes import operation_name, resolve_edits, wanted_features


def test_wanted_features_are_the_watched_then_the_steered_each_once() -> None:
    watch = [FeatureRef("a", 5), FeatureRef("b", 1), FeatureRef("a", 2), FeatureRef("a", 5)]
    interventions = [
        Intervention(target=FeatureRef("a", 9), operation=Ablate()),
        Intervention(target=FeatureRef("a", 2), operation=Add(1.0)),
        Intervention(target=FeatureRef("b", 3), operation=Add(1.0)),
    ]

    assert wanted_features("a", watch, interventions) == ((5, 2, 9), 2)
    assert wanted_features("b", watch, interventions) == ((1, 3), 1)
    assert wanted_features("c", watch, interventions) == ((), 0)


def test_edits_of_other_saes_are_left_out() -> None:
    interventions = [
        Intervention(target=FeatureRef("a", 9), operation=Set(2.0)),
        Intervention(target=FeatureRef("b", 3), operation=Add(1.0)),
    ]

    edits = resolve_edits("a", interventions, {9: 4})

    assert [(e.feature, e.column, e.gain, e.bias, e.operation) for e in edits] == [(9, 4, -1.0, 2.0, "set")]


def test_every_operation_has_its_word() -> None:
    words = [operation_name(operation) for operation in (Add(1.0), Set(1.0), Scale(1.0), Ablate())]

    assert words == ["add", "set", "scale", "ablate"]
