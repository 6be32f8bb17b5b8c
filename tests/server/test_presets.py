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
from steerd.server.preset_book import read_presets
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


def presets_of(toml: str) -> tuple[NamedTable, ...]:
    return parse_config(tomllib.loads(toml), folder=Path()).presets


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


GOOD = '[[presets]]\nname = "a"\nversion = "1"\n'
EDIT = '[[presets.interventions]]\nfeature = { sae = "late", index = 3 }\n'


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        (GOOD, ["presets[0].interventions", "empty"]),
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
