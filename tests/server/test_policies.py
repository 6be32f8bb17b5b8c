"""Policies: what holds for every request, and what requests are refused for."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from steerd.config import Config
from steerd.config_file import parse_config
from steerd.errors import ConfigError
from steerd.host.host_model import HostModel
from steerd.pb.v1 import catalog_service_pb2
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.pb.v1.feature_pb2 import FeatureRef
from steerd.server.policy_book import read_policies
from steerd.server.preset_tables import read_presets
from steerd.steering.loaded_saes import LoadedSaes
from tests.server.running_server import TIMEOUT_SECONDS, RunningServer, tiny_config, tiny_parts
from tests.server.test_dose import known_saes
from tests.server.test_edge_table import error_info, refused, violations
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae

PRESETS = """
    [[presets]]
    name = "loud"
    version = "1"
    [[presets.interventions]]
    feature = { sae = "early", index = 30 }
    add = { strength = 2 }

    [[presets]]
    name = "quiet"
    version = "1"
    [[presets.interventions]]
    feature = { sae = "early", index = 31 }
    ablate = {}
"""
POLICIES = """
    [[policies]]
    name = "never"
    version = "3"
    description = "no late 7"
    [[policies.interventions]]
    feature = { sae = "late", index = 7 }
    set = { value = 25 }

    [[policies]]
    name = "only"
    version = "1"
    allow = { features = ["early:0-9", "late:3", "pre:*"], presets = ["loud@1"] }
"""
NEVER = [steering.NamedVersion(name="never", version="3"), steering.NamedVersion(name="only", version="1")]


def config_of(toml: str) -> Config:
    return parse_config(tomllib.loads(toml), folder=Path())


def parts() -> tuple[HostModel, LoadedSaes]:
    """A third SAE reads what leaves the point of `early`, under its other name."""
    host, saes = tiny_parts()
    saes.add("pre", tiny_sae(host, "blocks.1.hook_resid_pre", seed=3))
    return host, saes


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    read = config_of(PRESETS + POLICIES)
    with RunningServer(tiny_config(presets=read.presets, policies=read.policies), *parts()) as running:
        yield running


def on(sae: str, index: int, **operation: object) -> steering.Intervention:
    operation = operation or {"ablate": steering.Ablate()}
    return steering.Intervention(feature=FeatureRef(sae=sae, index=index), **operation)  # type: ignore[arg-type]


def request(*edits: steering.Intervention, **fields: object) -> pb.GenerateRequest:
    sampling = pb.SamplingParams(max_new_tokens=6)
    whole = {"prompt": "Hello", "sampling": sampling, "interventions": edits} | fields
    return pb.GenerateRequest(**whole)  # type: ignore[arg-type]


def test_a_policy_is_applied_unasked_and_said(server: RunningServer) -> None:
    plain = server.generate(request())

    assert list(plain.started.policies) == NEVER
    (edit,) = plain.started.interventions
    assert (edit.feature, edit.set.value, edit.source) == (
        FeatureRef(sae="late", index=7),
        25.0,
        "policy:never@3",
    )
    (use,) = plain.completed.features
    assert use.steered_tokens > 0


def test_a_policy_does_what_a_request_could_have_asked_for(server: RunningServer) -> None:
    held = server.generate(request())
    with RunningServer(tiny_config(), *tiny_parts()) as free:
        asked = free.generate(request(on("late", 7, set=steering.Set(value=25))))
        plain = free.generate(request())

    assert held.token_ids == asked.token_ids
    assert held.token_ids != plain.token_ids


def test_the_baseline_keeps_policies(server: RunningServer) -> None:
    plain = server.generate(request())

    both = server.generate(request(on("late", 3, add=steering.Add(strength=90)), baseline=True))

    assert both.token_ids != plain.token_ids
    assert [token for delta in both.deltas for token in delta.baseline.token_ids] == plain.token_ids


def test_continuations_are_scored_under_policies(server: RunningServer) -> None:
    call = pb.ScoreRequest(
        prompt="Hello", continuations=[pb.Continuation(text=" there")], presets=["loud"], baseline=True
    )

    held = server.generation.Score(call, timeout=TIMEOUT_SECONDS)
    with RunningServer(tiny_config(), *tiny_parts()) as free:
        call.ClearField("presets")
        plain = free.generation.Score(call, timeout=TIMEOUT_SECONDS)
        call.interventions.append(on("late", 7, set=steering.Set(value=25)))
        asked = free.generation.Score(call, timeout=TIMEOUT_SECONDS)

    assert list(held.policies) == NEVER
    assert [edit.source for edit in held.interventions] == ["preset:loud@1", "policy:never@3"]
    held_baseline = held.scores[0].baseline_total_logprob
    assert held_baseline == pytest.approx(asked.scores[0].total_logprob, abs=1e-3)
    assert held_baseline != pytest.approx(plain.scores[0].total_logprob, abs=1e-2)


STOP = """
    [[policies]]
    name = "halt"
    version = "1"
    [[policies.triggers]]
    name = "too-far"
    stop = {{}}
    when = {{ any_of = [{{ all_of = [{{ feature = {{ sae = "late", index = 3 }}, above = {above} }}] }}] }}
"""


def halting(above: float) -> RunningServer:
    return RunningServer(tiny_config(policies=config_of(STOP.format(above=above)).policies), *tiny_parts())


def test_a_policy_stops_every_text_and_refuses_to_score_past_it() -> None:
    watch = pb.Capture(watch=[FeatureRef(sae="late", index=3)], include_prompt=True)
    with halting(above=1e5) as server:
        plain = server.generate(request(capture=watch))
        (trigger,) = plain.started.triggers
        assert (trigger.name, trigger.source) == ("too-far", "policy:halt@1")
        assert plain.completed.finish_reason == pb.FINISH_REASON_LENGTH
        whole = [reading.values[0] for reading in plain.readings]
        mine = steering.Trigger(name="too-far", when=trigger.when, flag=steering.Flag())
        assert list(violations(refused(server, request(triggers=[mine])))) == ["triggers[0].name"]
    num_prompt = plain.started.prompt_tokens
    # Of the rows that run, the one after which no token may come.
    limit = max(whole[1:]) - 1e-3
    position = next(place for place, value in enumerate(whole) if place and value > limit)

    with halting(above=limit) as server:
        both = server.generate(request(baseline=True))
        score = pb.ScoreRequest(prompt="Hello", baseline=True)
        score.continuations.add().token_ids.ids.extend(plain.token_ids)
        with pytest.raises(grpc.RpcError) as caught:
            server.generation.Score(score, timeout=TIMEOUT_SECONDS)

    assert both.completed.finish_reason == pb.FINISH_REASON_FEATURE
    assert both.completed.baseline.finish_reason == pb.FINISH_REASON_FEATURE
    assert len(both.token_ids) == max(position + 1 - num_prompt, 0)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error_info(caught.value).reason == "POLICY_STOPPED"
    assert error_info(caught.value).metadata["policy"] == "halt@1"


def test_what_a_policy_flags_is_in_every_receipt() -> None:
    policies = config_of(STOP.format(above=-1).replace("stop", "flag")).policies
    score = pb.ScoreRequest(prompt="Hello", continuations=[pb.Continuation(text=" there")])
    with RunningServer(tiny_config(policies=policies), *tiny_parts()) as server:
        receipts = [
            server.generate(request()).completed.receipt,
            server.generation.Score(score, timeout=TIMEOUT_SECONDS).scores[0].receipt,
        ]

    expected = pb.TriggerReceipt(
        trigger="too-far",
        action=pb.TRIGGER_ACTION_FLAG,
        source="policy:halt@1",
        times=1,
        first_position=1,
    )
    for receipt in receipts:
        assert list(receipt.fired) == [expected]
        assert not receipt.HasField("switched")


DIRECTION = steering.Direction(hook_point="blocks.1.hook_resid_pre", values=[1.0] * 32)


@pytest.mark.parametrize(
    ("message", "field", "policy"),
    [
        (request(on("early", 5), on("late", 7)), "interventions[1]", "never@3"),
        (request(on("early", 5), on("late", 7, add=steering.Add(strength=1))), "interventions[1]", "never@3"),
        (request(on("early", 10)), "interventions[0]", "only@1"),
        (request(on("early", 9), on("late", 4)), "interventions[1]", "only@1"),
        (
            request(steering.Intervention(direction=DIRECTION, ablate=steering.Ablate())),
            "interventions[0]",
            "only@1",
        ),
        (
            request(steering.Intervention(sae="early", reconstruct=steering.Reconstruct())),
            "interventions[0]",
            "only@1",
        ),
        (request(presets=["quiet"]), "presets[0]", "only@1"),
        (request(presets=["loud@1", "quiet@1"]), "presets[1]", "only@1"),
    ],
)
def test_what_a_policy_refuses_names_field_and_policy(
    server: RunningServer, message: pb.GenerateRequest, field: str, policy: str
) -> None:
    error = refused(server, message)

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error_info(error).reason == "POLICY_DENIED"
    assert error_info(error).metadata == {"field": field, "policy": policy}
    assert policy in error.details()
    score = pb.ScoreRequest(
        prompt="Hello",
        continuations=[pb.Continuation(text="a")],
        interventions=message.interventions,
        presets=message.presets,
    )
    with pytest.raises(grpc.RpcError) as caught:
        server.generation.Score(score, timeout=TIMEOUT_SECONDS)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    "message",
    [
        request(on("early", 0), on("early", 9), on("late", 3), presets=["loud"]),
        request(capture=pb.Capture(watch=[FeatureRef(sae="late", index=7)], top_k=3)),
        request(on("pre", 60)),
    ],
)
def test_what_is_allowed_goes_through(server: RunningServer, message: pb.GenerateRequest) -> None:
    assert server.generate(message).completed.usage.generated_tokens > 0


def test_a_broken_rule_is_told_before_a_policy_and_with_it(server: RunningServer) -> None:
    error = refused(server, request(on("late", 7), on("late", 3, add=steering.Add(strength=float("nan")))))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert set(violations(error)) == {"interventions[0]", "interventions[1].add.strength"}


def test_rows_with_two_names_are_protected_under_both() -> None:
    """What enters layer 1 is what left layer 0, so an edit there would come after the policy's."""
    read = config_of(POLICIES.split('[[policies]]\n    name = "only"')[0].replace("late", "early"))
    with RunningServer(tiny_config(policies=read.policies), *parts()) as server:
        for edit in (
            steering.Intervention(direction=DIRECTION, ablate=steering.Ablate()),
            on("pre", 3),
        ):
            error = refused(server, request(edit))
            assert error_info(error).metadata == {"field": "interventions[0]", "policy": "never@3"}
            assert "blocks.0.hook_resid_post" in error.details()


@pytest.mark.parametrize("over_dose", ["WARN", "CLAMP", "REJECT"])
def test_the_cap_of_a_policy_holds_beside_the_servers(over_dose: str) -> None:
    policy = f"""
        [[policies]]
        name = "cap"
        version = "1"
        max_dose = 0.5
        over_dose = "OVER_DOSE_{over_dose}"
    """
    host = make_tiny_host()
    with RunningServer(tiny_config(policies=config_of(policy).policies), host, known_saes(host)) as server:
        edits = [on("known", n, add=steering.Add(strength=4)) for n in (3, 4)]
        assert server.generate(request(edits[0])).started.warnings == []
        if over_dose == "REJECT":
            error = refused(server, request(*edits))
            assert error_info(error).metadata == {"field": "interventions", "policy": "cap@1"}
            assert "0.8 times" in error.details()
        else:
            started = server.generate(request(*edits)).started
            (warning,) = started.warnings
            assert "cap@1" in warning
            assert started.interventions[0].add.strength == (2.5 if over_dose == "CLAMP" else 4)


def test_what_a_cap_cannot_count_is_refused() -> None:
    policy = "[[policies]]\nname = 'cap'\nversion = '1'\nmax_dose = 9.0\nover_dose = 'OVER_DOSE_WARN'"
    host = make_tiny_host()
    saes = LoadedSaes(host)
    saes.add("bare", replace(tiny_sae(host, "blocks.0.hook_resid_post"), statistics=None))
    with RunningServer(tiny_config(policies=config_of(policy).policies), host, saes) as server:
        error = refused(server, request(on("bare", 3, scale=steering.Scale(factor=2))))

        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert error_info(error).metadata["field"] == "interventions[0]"


def test_policies_are_listed(server: RunningServer) -> None:
    never, only = server.catalog.ListPresets(catalog_service_pb2.ListPresetsRequest()).policies

    assert (never.name, never.version, never.description) == ("never", "3", "no late 7")
    assert list(never.interventions) == list(server.generate(request()).started.interventions)
    assert not never.HasField("allow")
    assert not never.HasField("max_dose")
    assert only.allow == catalog_service_pb2.Allow(
        features=["early:0-9", "late:3-3", "pre:0-63"], presets=["loud@1"]
    )


GOOD = '[[policies]]\nname = "a"\nversion = "1"\n'
WHEN = '{ any_of = [{ all_of = [{ feature = { sae = "early", index = 3 } }] }] }'
TRIGGER = f"[[policies.triggers]]\nname = 'x'\nwhen = {WHEN}\n"
EDIT = '[[policies.interventions]]\nfeature = { sae = "early", index = 3 }\n'


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        (GOOD + "forbid = 3", ["policies[0]", "forbid"]),
        (GOOD + EDIT + "add = { strength = 1e9 }", ["policies[0].interventions[0].add.strength"]),
        (GOOD + EDIT + "ablate = {}\nscope = { roles = ['user'] }", ["interventions[0].scope.roles"]),
        (GOOD + EDIT + "ablate = {}\npreserve_norm = true", ["interventions[0].preserve_norm"]),
        (GOOD + EDIT + "ablate = {}\nschedule = { at_most = 3 }", ["interventions[0].schedule"]),
        (GOOD + EDIT + f"ablate = {{}}\nwhen = {WHEN}", ["interventions[0].when"]),
        (GOOD + EDIT + "ablate = {}\n" + GOOD.replace('"a"', '"b"') + EDIT + "ablate = {}", ["policies[1]"]),
        (GOOD + "[[policies.triggers]]\nname = 'x'\nstop = {}", ["policies[0].triggers[0].when.any_of"]),
        (GOOD + TRIGGER + "flag = {}\n" + TRIGGER.replace("'x'", "'y'"), ["triggers[1].action"]),
        (PRESETS + GOOD + TRIGGER + "switch = { preset = 'loud' }", ["policies[0].triggers[0].switch"]),
        (
            GOOD + TRIGGER + "flag = {}\n" + GOOD.replace('"a"', '"b"') + TRIGGER + "flag = {}\n",
            ["two triggers", "'x'"],
        ),
        (GOOD + "allow = { features = ['early'] }", ["policies[0].allow.features[0]", "'early'"]),
        (GOOD + "allow = { features = ['early:9-3'] }", ["policies[0].allow.features[0]", "0 to 63"]),
        (GOOD + "allow = { features = ['early:*', 'early:64'] }", ["allow.features[1]", "'early:64'"]),
        (GOOD + "allow = { features = ['lost:*'] }", ["policies[0].allow.features[0]", "'lost'"]),
        (GOOD + "allow = { presets = ['*', 'lost'] }", ["policies[0].allow.presets[1]", "'lost'"]),
        (GOOD + "max_dose = 1.0", ["policies[0].over_dose"]),
        (GOOD + "max_dose = -1.0\nover_dose = 'OVER_DOSE_WARN'", ["policies[0].max_dose", "-1"]),
        (
            PRESETS + GOOD + EDIT.replace("3", "31") + "ablate = {}",
            ["presets[1].interventions[0]", "policy a@1", "feature early:31"],
        ),
        (
            (GOOD + TRIGGER + "flag = {}\n").replace("policies", "presets") + GOOD + TRIGGER + "stop = {}",
            ["presets[0].triggers[0].name", "policy a@1", "'x'"],
        ),
    ],
)
def test_a_fault_of_a_policy_is_named_by_its_key(tiny_host: HostModel, toml: str, words: list[str]) -> None:
    config, (_, saes) = config_of(toml), tiny_parts()
    presets = read_presets(config.presets, tiny_host, saes, config.limits)

    with pytest.raises(ConfigError) as caught:
        read_policies(config.policies, presets, tiny_host, saes, config.limits)

    for word in words:
        assert word in str(caught.value)
