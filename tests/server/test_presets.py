"""Presets: steering that the operator has named, asked for by name, under the rules of a request."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from steerd.config import Config, LimitsConfig, NamedTable, SteeringConfig
from steerd.config_file import parse_config
from steerd.errors import ConfigError
from steerd.host.host_model import HostModel
from steerd.pb.v1 import catalog_service_pb2
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.pb.v1.feature_pb2 import FeatureRef
from steerd.server.preset_tables import read_presets
from tests.server.running_server import TIMEOUT_SECONDS, RunningServer, tiny_config, tiny_parts
from tests.server.test_dose import known_saes
from tests.server.test_edge_table import error_info, refused, violations
from tests.tiny_hosts import make_tiny_host

PRESETS = f"""
    [[presets]]
    name = "loud"
    version = "1"
    [[presets.interventions]]
    feature = {{ sae = "late", index = 3 }}
    add = {{ strength = 1 }}

    [[presets]]
    name = "loud"
    version = "2"
    description = "more of it"
    [[presets.interventions]]
    feature = {{ sae = "late", index = 3 }}
    add = {{ strength = 2.5, unit = "UNIT_FEATURE_MAX" }}
    scope = {{ phase = "PHASE_GENERATED", positions = [{{ start = -3 }}], excluded_token_ids = [7] }}
    [[presets.interventions]]
    direction = {{ hook_point = "blocks.1.hook_resid_pre", values = {[1.0] + [0.0] * 31} }}
    limit = {{ min = -0.5, max = 0.5 }}
    schedule = {{ ramp = 3, half_life = 9.0, at_most = 20 }}
    preserve_norm = true

    [[presets]]
    name = "polite"
    version = "1"
    [[presets.interventions]]
    feature = {{ sae = "early", index = 5 }}
    ablate = {{}}
    scope = {{ roles = ["user"] }}
"""
ON_THE_WIRE = [
    steering.Intervention(
        feature=FeatureRef(sae="late", index=3),
        add=steering.Add(strength=2.5, unit=steering.UNIT_FEATURE_MAX),
        scope=steering.Scope(
            phase=steering.PHASE_GENERATED,
            positions=[steering.PositionRange(start=-3)],
            excluded_token_ids=[7],
        ),
    ),
    steering.Intervention(
        direction=steering.Direction(hook_point="blocks.1.hook_resid_pre", values=[2.0] + [0.0] * 31),
        limit=steering.Limit(min=-0.5, max=0.5),
        schedule=steering.Schedule(ramp=3, half_life=9.0, at_most=20),
        preserve_norm=True,
    ),
]
ADD = steering.Intervention(feature=FeatureRef(sae="late", index=3), add=steering.Add(strength=1))
FORGED = steering.Intervention(
    feature=FeatureRef(sae="late", index=3), ablate=steering.Ablate(), source="policy:mine@1"
)
ABLATE = steering.Intervention(feature=FeatureRef(sae="late", index=3), ablate=steering.Ablate())


def config_of(toml: str) -> Config:
    return parse_config(tomllib.loads(toml), folder=Path())


def presets_of(toml: str) -> tuple[NamedTable, ...]:
    return config_of(toml).presets


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    limits = LimitsConfig(max_presets=2)
    with RunningServer(tiny_config(presets=presets_of(PRESETS), limits=limits), *tiny_parts()) as running:
        yield running


def request(*presets: str, **fields: object) -> pb.GenerateRequest:
    sampling = pb.SamplingParams(max_new_tokens=6)
    return pb.GenerateRequest(**({"prompt": "Hello", "sampling": sampling, "presets": presets} | fields))  # type: ignore[arg-type]


def test_a_preset_does_what_its_interventions_do(server: RunningServer) -> None:
    named = server.generate(request("loud@2"))
    spelled = server.generate(request(interventions=ON_THE_WIRE))

    assert [edit.source for edit in named.started.interventions] == ["preset:loud@2"] * 2
    for edit in named.started.interventions:
        edit.source = ""
    assert list(named.started.interventions) == list(spelled.started.interventions)
    assert named.text == spelled.text
    assert named.text != server.generate(request()).text


def test_a_name_alone_means_its_last_version(server: RunningServer) -> None:
    for name, version in (("loud", "2"), ("loud@2", "2"), ("loud@1", "1")):
        started = server.generate(request(name)).started
        assert list(started.presets) == [steering.NamedVersion(name="loud", version=version)]
        assert started.interventions[0].source == f"preset:loud@{version}"


def test_a_preset_comes_after_the_requests_own_interventions(server: RunningServer) -> None:
    started = server.generate(request("loud@1", interventions=[ADD])).started

    assert [edit.source for edit in started.interventions] == ["", "preset:loud@1"]


def test_continuations_are_scored_under_presets(server: RunningServer) -> None:
    def score(presets: list[str], interventions: list[steering.Intervention]) -> pb.ScoreResponse:
        call = pb.ScoreRequest(
            prompt="Hello",
            continuations=[pb.Continuation(text=" there")],
            presets=presets,
            interventions=interventions,
            baseline=True,
        )
        response: pb.ScoreResponse = server.generation.Score(call, timeout=TIMEOUT_SECONDS)
        return response

    named, spelled = score(["loud"], []), score([], ON_THE_WIRE)

    assert list(named.presets) == [steering.NamedVersion(name="loud", version="2")]
    assert named.scores[0].total_logprob == pytest.approx(spelled.scores[0].total_logprob, abs=1e-4)
    assert named.scores[0].total_logprob != pytest.approx(named.scores[0].baseline_total_logprob, abs=1e-3)


def test_the_baseline_is_without_presets(server: RunningServer) -> None:
    plain = server.generate(request())
    both = server.generate(request("loud", baseline=True))

    baseline = [token_id for delta in both.deltas for token_id in delta.baseline.token_ids]
    assert baseline == plain.token_ids


def test_presets_are_listed_as_they_will_be_applied(server: RunningServer) -> None:
    listed = server.catalog.ListPresets(catalog_service_pb2.ListPresetsRequest()).presets

    assert [(preset.name, preset.version, preset.description) for preset in listed] == [
        ("loud", "1", ""),
        ("loud", "2", "more of it"),
        ("polite", "1", ""),
    ]
    assert list(listed[1].interventions) == list(server.generate(request("loud")).started.interventions)


@pytest.mark.parametrize(
    ("message", "field", "word"),
    [
        (request("loud", "loud@2"), "presets[1]", "loud@2 once more"),
        (request("loud", "loud", "loud"), "presets", "at most 2"),
        (request("loud@1", interventions=[ABLATE]), "presets[0]", "edited more than once"),
        (request("polite"), "presets[0]", "chat"),
        (
            request(interventions=[FORGED]),
            "interventions[0].source",
            "left to the server",
        ),
    ],
    ids=["twice", "too many", "conflict", "roles", "source"],
)
def test_a_broken_rule_is_named(
    server: RunningServer, message: pb.GenerateRequest, field: str, word: str
) -> None:
    error = refused(server, message)

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    told = violations(error)
    assert list(told) == [field]
    assert word in told[field]


@pytest.mark.parametrize("name", ["lost", "loud@3", "", "loud@"])
def test_an_unknown_preset_is_not_found(server: RunningServer, name: str) -> None:
    error = refused(server, request("loud", name))

    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error_info(error).reason == "PRESET_NOT_FOUND"
    assert error_info(error).metadata["field"] == "presets[1]"
    assert "loud@1, loud@2, polite@1" in error.details()


def test_a_preset_for_roles_reaches_their_messages(server: RunningServer) -> None:
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="Hello")])
    message = request("polite", chat=chat, prompt=None)
    spelled = steering.Intervention(
        feature=FeatureRef(sae="early", index=5),
        ablate=steering.Ablate(),
        scope=steering.Scope(roles=["user"]),
    )

    named = server.generate(message)

    (use,) = named.completed.features
    assert use.steered_tokens == len("Hello")
    assert named.text == server.generate(request(chat=chat, prompt=None, interventions=[spelled])).text


def test_doses_of_presets_and_request_add_up() -> None:
    host = make_tiny_host()
    presets = presets_of(PRESETS.replace('"late"', '"known"').replace('"early"', '"unknown"'))
    config = tiny_config(presets=presets, steering=SteeringConfig(max_dose=0.15, over_dose="reject"))
    with RunningServer(config, host, known_saes(host)) as server:
        own = steering.Intervention(feature=FeatureRef(sae="known", index=3), add=steering.Add(strength=1))

        assert server.generate(request("loud@1")).started.presets
        assert "0.2 times" in refused(server, request("loud@1", interventions=[own])).details()


TRIGGERS = """
    [[presets]]
    name = "careful"
    version = "1"
    [[presets.interventions]]
    feature = { sae = "late", index = 3 }
    add = { strength = 1 }
    [[presets.triggers]]
    name = "seen"
    when = { any_of = [{ all_of = [{ feature = { sae = "early", index = 1 }, above = -1 }] }] }
    flag = {}
    [[presets.triggers]]
    name = "over"
    when = { any_of = [{ all_of = [{ feature = { sae = "early", index = 1 }, above = -1 }] }] }
    switch = { preset = "calm" }

    [[presets]]
    name = "calm"
    version = "1"
    [[presets.interventions]]
    feature = { sae = "late", index = 3 }
    add = { strength = -3 }

    [[presets]]
    name = "stopper"
    version = "1"
    [[presets.triggers]]
    name = "seen"
    when = { any_of = [{ all_of = [{ feature = { sae = "early", index = 1 }, above = -1 }] }] }
    stop = {}
"""
SEEN = steering.Trigger(
    name="seen",
    when=steering.Condition(
        any_of=[
            steering.Clause(all_of=[steering.FeatureTest(feature=FeatureRef(sae="early", index=1), above=-1)])
        ]
    ),
    flag=steering.Flag(),
)


@pytest.fixture(scope="module")
def careful() -> Iterator[RunningServer]:
    limits = LimitsConfig(max_triggers=2, max_presets=3)
    with RunningServer(tiny_config(presets=presets_of(TRIGGERS), limits=limits), *tiny_parts()) as running:
        yield running


def to_stopper() -> steering.Trigger:
    return steering.Trigger(name="over", when=SEEN.when, switch=steering.Switch(preset="stopper"))


def switching() -> list[steering.Trigger]:
    switch = steering.Trigger(name="over", when=SEEN.when, switch=steering.Switch(preset="calm"))
    return [SEEN, switch]


def test_triggers_of_a_preset_do_what_those_of_a_request_do(careful: RunningServer) -> None:
    named = careful.generate(request("careful"))
    spelled = careful.generate(request(interventions=[ADD], triggers=switching()))

    assert [trigger.source for trigger in named.started.triggers] == ["preset:careful@1"] * 2
    for trigger in named.started.triggers:
        trigger.source = ""
    assert list(named.started.triggers) == list(spelled.started.triggers)
    assert named.text == spelled.text
    assert named.text != careful.generate(request(interventions=[ADD])).text
    fired = [[event for delta in each.deltas for event in delta.fired] for each in (named, spelled)]
    assert fired[0] == fired[1] != []
    receipt = named.completed.receipt
    positions = {name: [f.position for f in fired[0] if f.trigger == name] for name in ("seen", "over")}
    assert list(receipt.fired) == [
        pb.TriggerReceipt(
            trigger=name,
            action=action,
            source="preset:careful@1",
            times=len(positions[name]),
            first_position=positions[name][0],
        )
        for name, action in (("seen", pb.TRIGGER_ACTION_FLAG), ("over", pb.TRIGGER_ACTION_SWITCH))
    ]
    assert receipt.switched == pb.SwitchReceipt(preset="calm@1", first_position=named.started.prompt_tokens)
    assert [part.source for part in spelled.completed.receipt.fired] == ["", ""]


def test_a_preset_may_be_nothing_but_triggers(careful: RunningServer) -> None:
    stopped = careful.generate(request("stopper"))

    assert stopped.completed.finish_reason == pb.FINISH_REASON_FEATURE
    assert stopped.text == ""


def test_a_baseline_and_a_score_are_without_the_triggers_of_presets(careful: RunningServer) -> None:
    plain = careful.generate(request())
    both = careful.generate(request("stopper", baseline=True))
    call = pb.ScoreRequest(
        prompt="Hello", continuations=[pb.Continuation(text=" there")], presets=["stopper"]
    )

    assert [i for delta in both.deltas for i in delta.baseline.token_ids] == plain.token_ids
    scored = careful.generation.Score(call, timeout=TIMEOUT_SECONDS)
    assert len(scored.scores[0].token_ids) == len(" there")
    assert list(scored.warnings) == ["preset stopper@1: its triggers are for Generate, and are left out"]
    assert not both.started.warnings


def test_a_policy_governs_what_the_triggers_of_presets_switch_to() -> None:
    policy = """
        [[policies]]
        name = "only"
        version = "1"
        allow = { presets = ["careful"] }
    """
    config = tiny_config(presets=presets_of(TRIGGERS), policies=config_of(policy).policies)
    with RunningServer(config, *tiny_parts()) as server:
        error = refused(server, request("careful"))

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error_info(error).metadata == {"field": "presets[0]", "policy": "only@1"}
    assert "calm@1" in error.details()


def test_the_triggers_of_presets_are_listed(careful: RunningServer) -> None:
    listed = careful.catalog.ListPresets(catalog_service_pb2.ListPresetsRequest()).presets

    assert list(listed[0].triggers) == list(careful.generate(request("careful")).started.triggers)
    assert listed[0].triggers[1].switch.preset == "calm@1"
    assert [len(preset.triggers) for preset in listed] == [2, 0, 1]


@pytest.mark.parametrize(
    ("message", "field", "word"),
    [
        (request("stopper", triggers=[SEEN]), "presets[0]", "named seen, as triggers[0].name does"),
        (request("calm", "stopper", triggers=switching()), "triggers", "at most 2 triggers"),
        (request("calm", "stopper", triggers=[SEEN]), "presets[1]", "named seen"),
        (
            request(triggers=[to_stopper()]),
            "triggers[0].switch.preset",
            "stopper@1 has triggers, which a switch does not bring",
        ),
    ],
)
def test_triggers_of_presets_are_under_the_rules_of_a_requests_own(
    careful: RunningServer, message: pb.GenerateRequest, field: str, word: str
) -> None:
    error = refused(careful, message)

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert word in violations(error)[field]


GOOD = '[[presets]]\nname = "a"\nversion = "1"\n'
FIRES = """
[[presets.triggers]]
name = "seen"
when = { any_of = [{ all_of = [{ feature = { sae = "late", index = 3 }, above = 1 }] }] }
"""
EDIT = '[[presets.interventions]]\nfeature = { sae = "late", index = 3 }\n'
TEST = '{ feature = { sae = "early", index = 1 }, above = 1 }'
CLAUSES = ", ".join(f"{{ all_of = [{', '.join([TEST] * count)}] }}" for count in (8, 1))
CONDITION = f"ablate = {{}}\nwhen = {{ any_of = [{CLAUSES}] }}"


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        (GOOD, ["presets[0].interventions", "empty"]),
        (GOOD + FIRES, ["presets[0].triggers[0].action", "required"]),
        (GOOD + FIRES + "stop = {}" + FIRES + "flag = {}", ["presets[0].triggers[1].name", "'seen'"]),
        (
            GOOD + FIRES + 'switch = { preset = "lost" }',
            ["presets[0].triggers[0].switch.preset", "'lost'", "a@1"],
        ),
        (
            GOOD + FIRES + 'switch = { preset = "b@1" }\n' + GOOD.replace('"a"', '"b"') + FIRES + "flag = {}",
            ["presets[0].triggers[0].switch.preset", "b@1 has triggers"],
        ),
        (
            GOOD + FIRES + 'switch = { preset = "a" }',
            ["presets[0].triggers[0].switch.preset", "a@1 has triggers"],
        ),
        (
            GOOD
            + (EDIT + CONDITION)
            + "".join(FIRES.replace("seen", f"s{n}") + 'switch = { preset = "b" }\n' for n in range(2))
            + GOOD.replace('"a"', '"b"')
            + (EDIT + CONDITION),
            ["presets[0]", "at most limits.max_tests, 16", "got 29"],
        ),
        (
            GOOD + "".join(FIRES.replace("seen", f"seen-{n}") + "flag = {}" for n in range(9)),
            ["presets[0].triggers", "at most 8", "9"],
        ),
        (
            GOOD
            + (EDIT + CONDITION)
            + "".join(FIRES.replace("seen", f"s{n}") + "flag = {}" for n in range(8)),
            ["presets[0]", "at most limits.max_tests, 16", "got 17"],
        ),
        (GOOD + "strength = 3", ["presets[0]", "strength"]),
        (GOOD + "description = 1979-05-27", ["presets[0]", "description"]),
        (GOOD + EDIT + "add = { strenght = 3 }", ["presets[0]", "strenght"]),
        (GOOD + EDIT + "add = { strength = 1e9 }", ["presets[0].interventions[0].add.strength", "1000000"]),
        (GOOD + EDIT + "add = { strength = nan }", ["presets[0]", "strength"]),
        (GOOD + EDIT + 'add = { strength = "NaN" }', ["presets[0].interventions[0].add.strength", "nan"]),
        (GOOD + EDIT + "add = { strength = 1, unit = 'UNIT_X' }", ["presets[0]", "unit"]),
        (
            GOOD + EDIT + "add = { strength = 1 }\n" + EDIT + "set = { value = inf }",
            ["presets[0]", "value"],
        ),
        (GOOD + EDIT, ["presets[0].interventions[0].operation", "required"]),
        (
            GOOD + EDIT + "ablate = {}\n" + EDIT + "ablate = {}",
            ["presets[0].interventions[1]", "more than once"],
        ),
        (
            GOOD + EDIT.replace("late", "lost") + "ablate = {}",
            ["presets[0].interventions[0].feature.sae", "'lost'"],
        ),
        (
            GOOD + EDIT.replace("3", "64") + "ablate = {}",
            ["presets[0].interventions[0].feature.index", "0 to 63"],
        ),
        (GOOD + EDIT + "ablate = {}\nsource = 'policy:a@1'", ["presets[0].interventions[0].source"]),
        (
            GOOD + EDIT + "ablate = {}\nscope = { last_n = 3 }",
            ["presets[0].interventions[0].scope.last_n", "PHASE_PROMPT"],
        ),
    ],
)
def test_a_fault_of_a_preset_is_named_by_its_key(tiny_host: HostModel, toml: str, words: list[str]) -> None:
    _, saes = tiny_parts()

    with pytest.raises(ConfigError) as caught:
        read_presets(presets_of(toml), tiny_host, saes, Config().limits)

    for word in words:
        assert word in str(caught.value)
