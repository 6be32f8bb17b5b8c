"""The hash of a plan is the same in every process and changes with everything that steers."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from math import inf
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import torch

from steerd.host.host_model import HostModel
from steerd.sae.activation_function import JumpReLU, ReLU, TopK
from steerd.sae.sae_file import SaeBundle
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
from steerd.steering.plan_hash import canonical_bytes, edit_bytes, plan_hash
from steerd.steering.scope import Phase, PositionRange, RoleSpan, Schedule, Scope
from steerd.steering.steering import NamedVersion, Steering
from steerd.steering.trigger import Flag, Stop, Switch, Trigger
from tests.tiny_saes import tiny_sae

IDENTITIES = {"one": b"1" * 32, "other": b"2" * 32}

TEST = FeatureTest(target=FeatureRef("one", 3), above=2.0, release_below=1.0)
CONDITION = Condition(((TEST, replace(TEST, above=4.0)), (replace(TEST, target=FeatureRef("other", 3)),)))

EXAMPLES = [
    Intervention(target=FeatureRef("one", 7), operation=Add(2.5)),
    Intervention(target=FeatureRef("one", 7), operation=Set(1.0, only_if_active=True)),
    Intervention(target=FeatureRef("other", 7), operation=Scale(0.5), preserve_norm=True),
    Intervention(target=unit_direction("blocks.1.hook_resid_post", [3.0, 4.0]), operation=Limit(-1.0, inf)),
    Intervention(target=WholeSae("one"), operation=Reconstruct()),
    Intervention(
        target=FeatureRef("one", 8),
        operation=Ablate(),
        scope=Scope(
            phase=Phase.PROMPT,
            last_n=4,
            positions=(PositionRange(2), PositionRange(-3, -1)),
            token_ids=frozenset({5, 300, 70000}),
            roles=("user",),
        ),
        schedule=Schedule(start_after=1, ramp=2, half_life=3.5, at_most=4),
        condition=CONDITION,
    ),
]


def hash_of(*interventions: Intervention) -> str:
    return plan_hash("host", Steering(interventions=interventions), IDENTITIES)


def others(kind: Any, value: Any) -> Iterator[Any]:
    """Values of a declared type that differ from this one, in every field of what lies inside."""
    if get_origin(kind) is UnionType:
        yield from (
            example for part in get_args(kind) for example in EXAMPLES_OF.get(part, ()) if example != value
        )
        kind = next(part for part in get_args(kind) if isinstance(value, get_origin(part) or part))
    if kind is type(None):
        yield 3
    elif kind is bool:
        yield not value
    elif kind in (int, float):
        yield value + 1 if value < inf else 5.0
    elif kind is str:
        yield {"one": "other", "other": "one"}.get(value, value + "x")
    elif get_origin(kind) is tuple:
        part = get_args(kind)[0]
        yield (*value, EXAMPLES_OF[part][0])
        yield from (
            (*value[:i], each, *value[i + 1 :]) for i in range(len(value)) for each in others(part, value[i])
        )
    elif get_origin(kind) is frozenset:
        yield value | {99}
    elif isinstance(kind, type) and issubclass(kind, Enum):
        yield from (each for each in kind if each is not value)
    else:
        assert is_dataclass(kind), f"say here what else a {kind} can be"
        yield from variants(value)


EXAMPLES_OF: dict[Any, list[Any]] = {
    int: [4],
    str: ["assistant"],
    RoleSpan: [RoleSpan("user", 0, 2)],
    Intervention: EXAMPLES[1:2],
    type(None): [None],
    PositionRange: [PositionRange(1, 2)],
    FeatureRef: [FeatureRef("one", 9)],
    Direction: [unit_direction("blocks.0.hook_resid_pre", [1.0, 1.0])],
    WholeSae: [WholeSae("other")],
    Add: [Add(9.0)],
    Set: [Set(9.0)],
    Scale: [Scale(9.0)],
    Ablate: [Ablate()],
    Limit: [Limit(high=9.0)],
    Reconstruct: [Reconstruct()],
    Condition: [Condition(((TEST,),))],
    tuple[FeatureTest, ...]: [(TEST, TEST)],
    FeatureTest: [TEST],
    Trigger: [Trigger("end", CONDITION, Stop())],
    Stop: [Stop()],
    Flag: [Flag()],
    Switch: [Switch("calm@1")],
    NamedVersion: [NamedVersion("calm", "1")],
}


def variants(value: Any) -> Iterator[Any]:
    """The value with one field changed at a time, in every way that `others` knows."""
    hints = get_type_hints(type(value))
    for field in fields(value):
        if field.compare:
            found = list(others(hints[field.name], getattr(value, field.name)))
            assert found, f"{field.name} was not changed"
            yield from (replace(value, **{field.name: other}) for other in found)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example.operation).__name__)
def test_the_hash_changes_with_every_field(example: Intervention) -> None:
    changed = list(variants(example))

    assert len(changed) > 20
    assert len({hash_of(each) for each in [example, *changed]}) == len(set(changed)) + 1


def test_the_hash_changes_with_every_field_of_the_steering_but_what_says_nothing_new() -> None:
    plain = Steering(interventions=(EXAMPLES[0],))
    trigger = Trigger("more", CONDITION, Switch("calm@1", (EXAMPLES[0],)))
    triggered = [replace(plain, triggers=(each,)) for each in (trigger, *variants(trigger))]
    assert len({plan_hash("host", each, IDENTITIES) for each in triggered}) == len(triggered)
    for name in (field.name for field in fields(Steering)):
        kind = get_type_hints(Steering)[name]
        changed = {replace(plain, **{name: other}) for other in others(kind, getattr(plain, name))}
        hashes = {plan_hash("host", each, IDENTITIES) for each in changed} - {hash_of(EXAMPLES[0])}

        # Where roles stand the prompt says; warnings say what interventions do.
        assert len(hashes) == (0 if name in ("roles", "warnings") else len(changed)), name
        assert changed


def test_the_hash_changes_with_host_order_and_number() -> None:
    first, second = EXAMPLES[:2]
    hashes = {
        hash_of(),
        hash_of(first),
        hash_of(first, first),
        hash_of(first, second),
        hash_of(second, first),
        plan_hash("another", Steering(interventions=(first,)), IDENTITIES),
        plan_hash("host", Steering(interventions=(first,)), IDENTITIES | {"one": b"3" * 32}),
    }

    assert len(hashes) == 7
    assert all(len(each) == 64 for each in hashes)


def test_another_name_for_the_same_sae_is_the_same_plan() -> None:
    renamed = replace(EXAMPLES[0], target=FeatureRef("new name", 7))

    steering = Steering(interventions=(renamed,))
    assert plan_hash("host", steering, {"new name": b"1" * 32}) == hash_of(EXAMPLES[0])


def test_the_hash_is_the_same_in_another_process() -> None:
    """Sets have another order there."""
    code = "from tests.steering.test_plan_hash import EXAMPLES, hash_of; print(hash_of(*EXAMPLES))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()

    assert found == hash_of(*EXAMPLES)


def test_different_values_never_have_the_same_bytes() -> None:
    chance = random.Random(0)

    def value(depth: int) -> Any:
        kinds = ["", "a", "ab", 0, 1, 10, 0.0, 1.0, True, False, None, Phase.ALL]
        if depth and chance.random() < 0.6:
            return tuple(value(depth - 1) for _ in range(chance.randrange(4)))
        return chance.choice(kinds)

    by_bytes: dict[bytes, str] = {}
    for _ in range(3000):
        made = value(3)
        assert by_bytes.setdefault(canonical_bytes(made, {}), repr(made)) == repr(made)
    assert len(by_bytes) > 500


def test_the_bytes_of_an_edit_leave_its_rows_out() -> None:
    example = EXAMPLES[5]
    elsewhere = replace(example, scope=Scope(first_n=2), schedule=Schedule(at_most=4))

    assert edit_bytes(example, IDENTITIES) == edit_bytes(elsewhere, IDENTITIES)
    kept = {
        each for each in variants(example) if (each.scope, each.schedule) == (example.scope, example.schedule)
    }
    kept.add(replace(example, schedule=replace(example.schedule, at_most=5)))
    assert len({edit_bytes(each, IDENTITIES) for each in kept}) == len(kept)
    assert edit_bytes(example, IDENTITIES) not in {edit_bytes(each, IDENTITIES) for each in kept}


def served(host: HostModel, bundle: SaeBundle) -> LoadedSae:
    return LoadedSaes(host).add("any", bundle)


def test_an_sae_is_known_by_what_it_computes_and_where(tiny_host: HostModel) -> None:
    bundle = tiny_sae(tiny_host, "blocks.1.hook_resid_post")
    sae, metadata = bundle.sae, bundle.metadata
    jump = sae.activation
    assert isinstance(jump, JumpReLU)
    weights = [
        replace(sae, **{name: getattr(sae, name) + 0.5}) for name in ("W_enc", "b_enc", "W_dec", "b_dec")
    ]
    activations = [ReLU(), TopK(4), TopK(5), JumpReLU(jump.threshold + 0.5)]
    changed = [replace(bundle, sae=each) for each in weights]
    changed += [replace(bundle, sae=replace(sae, activation=each)) for each in activations]
    changed += [replace(bundle, metadata=replace(metadata, hook_point="blocks.0.hook_resid_post"))]
    changed += [replace(bundle, metadata=replace(metadata, weights_sha256=digit * 64)) for digit in "ab"]

    found = {served(tiny_host, each).identity for each in [bundle, *changed]}

    assert len(found) == len(changed) + 1
    again = replace(
        bundle, sae=replace(sae, W_enc=sae.W_enc.clone()), metadata=replace(metadata, name="renamed")
    )
    assert served(tiny_host, again).identity in found
    assert torch.equal(again.sae.W_enc, sae.W_enc)
