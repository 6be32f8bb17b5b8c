"""What is typed on the command line."""

from __future__ import annotations

import argparse
from math import inf

import pytest

from steerd.__main__ import main, make_parser
from steerd.cli import arguments
from steerd.cli.generate import generate_call
from steerd.client_messages import ChatTurn, GenerateCall, Unit
from steerd.steering.intervention import (
    Ablate,
    Add,
    Condition,
    FeatureRef,
    FeatureTest,
    Intervention,
    Limit,
    Reconstruct,
    Scale,
    Set,
    WholeSae,
)
from steerd.steering.scope import Phase, Schedule, Scope
from steerd.steering.trigger import Flag, Stop, Switch


def call(*words: str) -> GenerateCall:
    return generate_call(make_parser().parse_args(["generate", *words]))


@pytest.mark.parametrize(
    ("text", "feature"),
    [("starter:12", FeatureRef("starter", 12)), ("a.b:c:0", FeatureRef("a.b:c", 0))],
)
def test_a_feature_is_sae_and_index(text: str, feature: FeatureRef) -> None:
    assert arguments.feature(text) == feature


@pytest.mark.parametrize(
    "text", ["", "12", "starter", "starter:", ":12", "starter:-1", "starter:1.5", "starter:x"]
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="starter-14:1234"):
        arguments.feature(text)


@pytest.mark.parametrize("text", ["starter:12", "starter:12=", "starter:12=much"])
def test_an_edit_needs_a_number(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="starter-14:1234=8"):
        arguments.edit(Add)(text)


def test_a_prompt_is_a_chat_unless_it_is_raw() -> None:
    assert call("Hi").chat == (ChatTurn("user", "Hi"),)
    assert call("Hi", "--system", "Be brief.").chat == (
        ChatTurn("system", "Be brief."),
        ChatTurn("user", "Hi"),
    )
    assert call("Hi", "--raw").prompt == "Hi"
    assert call("Hi", "--raw").chat == ()


def test_edits_keep_their_order_and_share_the_scope() -> None:
    steered = call(
        *("Hi", "--add", "s:1=2", "--set", "s:2=3", "--scale", "s:3=0.5", "--ablate", "s:4"),
        *("--phase", "generated", "--special-tokens", "--unit", "feature-max"),
    )

    scope = Scope(phase=Phase.GENERATED, include_special_tokens=True)
    operations = (Add(2.0), Set(3.0), Scale(0.5), Ablate())
    assert steered.unit is Unit.FEATURE_MAX
    assert steered.interventions == tuple(
        Intervention(target=FeatureRef("s", index), operation=operation, scope=scope)
        for index, operation in enumerate(operations, start=1)
    )


def test_every_way_to_steer_can_be_typed() -> None:
    steered = call(
        *("Hi", "--limit", "s:1=-0.5:2", "--limit", "s:2=:3", "--set", "s:3=1", "--reconstruct", "s"),
        *("--only-if-active", "--preserve-norm", "--role", "user", "--role", "system", "--first-n", "9"),
        *("--last-n", "8", "--phase", "prompt", "--start-after", "1", "--ramp", "2", "--at-most", "4"),
        *("--half-life", "0.5", "--unit", "resid-norm"),
    )

    assert steered.unit is Unit.RESID_NORM
    assert not steered.after_edit
    assert steered.watch == (FeatureRef("s", 1), FeatureRef("s", 2), FeatureRef("s", 3))
    assert [(edit.target, edit.operation) for edit in steered.interventions] == [
        (FeatureRef("s", 1), Limit(-0.5, 2.0)),
        (FeatureRef("s", 2), Limit(high=3.0)),
        (FeatureRef("s", 3), Set(1.0, only_if_active=True)),
        (WholeSae("s"), Reconstruct()),
    ]
    for edit in steered.interventions:
        assert edit.scope == Scope(phase=Phase.PROMPT, first_n=9, last_n=8, roles=("user", "system"))
        assert edit.schedule == Schedule(start_after=1, ramp=2, half_life=0.5, at_most=4)
        assert edit.preserve_norm


def test_steering_and_ends_may_depend_on_features() -> None:
    def test_of(index: int, above: float, release_below: float) -> FeatureTest:
        return FeatureTest(target=FeatureRef("s", index), above=above, release_below=release_below)

    plain = call("Hi", "--ablate", "s:1", "--when", "s:2=3", "--when", "s:3=0.5")
    released = call("Hi", "--ablate", "s:1", "--when", "s:2=3", "--release-below", "1")
    forever = call("Hi", "--ablate", "s:1", "--when", "s:2=3", "--from-first")
    ended = call(
        "Hi",
        "--flag-on",
        "s:4=1",
        "--stop-on",
        "s:5=2",
        "--stop-on",
        "s:6=7",
        "--switch-on",
        "s:7=-0.5:calm@2",
    )

    conditions = [each.interventions[0].condition for each in (plain, released, forever)]
    assert conditions == [
        Condition(((test_of(2, 3.0, 3.0), test_of(3, 0.5, 0.5)),)),
        Condition(((test_of(2, 3.0, 1.0),),)),
        Condition(((test_of(2, 3.0, -inf),),)),
    ]
    assert plain.watch == (FeatureRef("s", 1), FeatureRef("s", 2), FeatureRef("s", 3))
    assert [(trigger.condition, trigger.action) for trigger in ended.triggers] == [
        (Condition(((test_of(5, 2.0, 2.0),),)), Stop()),
        (Condition(((test_of(6, 7.0, 7.0),),)), Stop()),
        (Condition(((test_of(7, -0.5, -0.5),),)), Switch("calm@2")),
        (Condition(((test_of(4, 1.0, 1.0),),)), Flag()),
    ]
    assert len({trigger.name for trigger in ended.triggers}) == 4
    assert set(ended.watch) == {FeatureRef("s", index) for index in (4, 5, 6, 7)}


@pytest.mark.parametrize("text", ["s:1=2", "s:1=2:", "s:1:calm", "s:1=x:calm", ":calm", "s=1:calm"])
def test_a_switch_needs_a_number_and_a_preset(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="starter-14:1234=8:calm"):
        arguments.switch(text)


@pytest.mark.parametrize("text", ["s:1", "s:1=2", "s:1=:", "s:1=a:b", "s=1:2"])
def test_a_limit_needs_a_bound(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="starter-14:1234=0:8"):
        arguments.limit(text)


@pytest.mark.parametrize("text", ["-1", "1.5", "x", ""])
def test_a_count_is_a_whole_number(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="0 or more"):
        arguments.count(text)


def test_steered_features_are_watched_after_those_that_are_asked_for() -> None:
    watched = call("Hi", "--add", "s:1=2", "--add", "s:1=3", "--watch", "s:7").watch

    assert watched == (FeatureRef("s", 7), FeatureRef("s", 1))


def test_sampling_that_is_not_given_is_left_to_the_server() -> None:
    assert call("Hi").temperature is None
    assert call("Hi", "--temperature", "0", "--seed", "0", "--stop", "a", "--stop", "b").stop == ("a", "b")
    assert call("Hi", "--seed", "0").seed == 0


def test_bad_usage_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["generate", "Hi", "--add", "nonsense"])

    assert exit_.value.code == 2
    assert "expected SAE:FEATURE=NUMBER" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["saes", "--address", "127.0.0.1:1"])

    output = capsys.readouterr()
    assert status == 1
    assert output.err.startswith("steerd: ")
    assert "127.0.0.1:1" in output.err
    assert output.err.count("\n") == 1


def test_health_of_a_server_that_is_not_there_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--address", "127.0.0.1:1"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err
