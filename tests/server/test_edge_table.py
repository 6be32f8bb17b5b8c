"""One row per rule of the edge: a bad request, its status, and what the message must name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from steerd.config import LimitsConfig, NamedTable
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.pb.v1.feature_pb2 import FeatureRef
from steerd.sae.sae_file import SaeBundle
from steerd.steering.loaded_saes import LoadedSaes
from tests.server.running_server import RunningServer, tiny_config
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae

LIMITS = LimitsConfig(
    max_new_tokens=100,
    default_max_new_tokens=10,
    max_prompt_characters=200,
    max_interventions=3,
    max_watched_features=2,
    max_top_k=5,
    max_stop_strings=2,
    max_stop_characters=4,
    max_magnitude=1000,
    max_direction_values=70,
    max_scope_items=4,
    max_tests=3,
    max_triggers=2,
)
D_MODEL = 32
EVERYWHERE = "blocks.1.hook_resid_pre"
AT_ALL = {"any_of": [{"all_of": [{"feature": {"sae": "late", "index": 1}}]}]}
GOOD = FeatureRef(sae="late", index=1)
DEAD = FeatureRef(sae="late", index=1)  # the tiny SAE's feature 1 has a recorded maximum of 0

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.fixture(scope="module")
def strict_server() -> Iterator[RunningServer]:
    """Small limits, a context of 150, and an SAE without statistics."""
    host = make_tiny_host("llama", max_position_embeddings=150)
    saes = LoadedSaes(host)
    saes.add("early", replace(tiny_sae(host, "blocks.0.hook_resid_post"), statistics=None))
    saes.add("late", with_norm(tiny_sae(host, "blocks.2.hook_resid_post"), 500.0))
    saes.add("other", tiny_sae(host, "blocks.2.hook_resid_post", seed=5))
    presets = (preset("calm", when=AT_ALL), preset("to-roles", scope={"roles": ["user"]}))
    with RunningServer(tiny_config(limits=LIMITS, presets=presets), host, saes) as running:
        yield running


def preset(name: str, **edit: object) -> NamedTable:
    edit = {"feature": {"sae": "late", "index": 1}, "ablate": {}} | edit
    named = {"name": name, "version": "1"}
    return NamedTable(**named, table=named | {"interventions": [edit]})


def with_norm(bundle: SaeBundle, norm: float) -> SaeBundle:
    """The SAE with a median residual norm in its provenance."""
    provenance = bundle.metadata.provenance | {"median_resid_norm": norm}
    return replace(bundle, metadata=replace(bundle.metadata, provenance=provenance))


def sampling(**fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="a", sampling=pb.SamplingParams(**fields))  # type: ignore[arg-type]


def steered(*interventions: steering.Intervention) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="a", interventions=interventions)


def captured(**fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="a", capture=pb.Capture(**fields))  # type: ignore[arg-type]


def chat(*turns: tuple[str, str]) -> pb.GenerateRequest:
    return pb.GenerateRequest(chat=pb.Chat(messages=[pb.ChatMessage(role=r, content=c) for r, c in turns]))


def add(feature: FeatureRef = GOOD, **fields: object) -> steering.Intervention:
    return steering.Intervention(feature=feature, add=steering.Add(**fields))  # type: ignore[arg-type]


def scoped(**fields: object) -> pb.GenerateRequest:
    scope = steering.Scope(**fields)  # type: ignore[arg-type]
    return steered(steering.Intervention(feature=GOOD, ablate=steering.Ablate(), scope=scope))


def limit(**fields: object) -> pb.GenerateRequest:
    bounds = steering.Limit(**fields)  # type: ignore[arg-type]
    return steered(steering.Intervention(feature=GOOD, limit=bounds))


def along(
    values: Sequence[float] = (1.0,) * D_MODEL, hook_point: str = EVERYWHERE, unit: int = 0, **fields: object
) -> steering.Intervention:
    direction = steering.Direction(hook_point=hook_point, values=values, **fields)  # type: ignore[arg-type]
    return steering.Intervention(direction=direction, add=steering.Add(strength=1, unit=unit))  # type: ignore[arg-type]


def reconstruct(sae: str) -> steering.Intervention:
    return steering.Intervention(sae=sae, reconstruct=steering.Reconstruct())


def scheduled(**fields: object) -> steering.Intervention:
    schedule = steering.Schedule(**fields)  # type: ignore[arg-type]
    return steering.Intervention(feature=GOOD, ablate=steering.Ablate(), schedule=schedule)


def set_to(value: float) -> steering.Intervention:
    return steering.Intervention(feature=GOOD, set=steering.Set(value=value))


def scale(factor: float) -> steering.Intervention:
    return steering.Intervention(feature=GOOD, scale=steering.Scale(factor=factor))


def is_above(above: float = 1, feature: FeatureRef = GOOD, **fields: object) -> steering.FeatureTest:
    return steering.FeatureTest(feature=feature, above=above, **fields)  # type: ignore[arg-type]


def is_beyond(num_values: int) -> steering.FeatureTest:
    direction = steering.Direction(hook_point=EVERYWHERE, values=[1.0] * num_values)
    return steering.FeatureTest(direction=direction, above=1)


def clauses(*tests: Sequence[steering.FeatureTest]) -> steering.Condition:
    return steering.Condition(any_of=[steering.Clause(all_of=all_of) for all_of in tests])


def when(*tests: steering.FeatureTest, feature: FeatureRef = GOOD) -> pb.GenerateRequest:
    return steered(steering.Intervention(feature=feature, ablate=steering.Ablate(), when=clauses(tests)))


def triggered(*names: str, condition: steering.Condition | None = None) -> pb.GenerateRequest:
    found = [
        steering.Trigger(name=name, when=condition or clauses([is_above()]), flag=steering.Flag())
        for name in names
    ]
    return pb.GenerateRequest(prompt="a", triggers=found)


def switching(preset: str, tests: int = 1) -> pb.GenerateRequest:
    condition, switch = clauses([is_above()] * tests), steering.Switch(preset=preset)
    trigger = steering.Trigger(name="a", when=condition, switch=switch)
    return pb.GenerateRequest(prompt="a", triggers=[trigger])


TEST = "interventions[0].when.any_of[0].all_of[0]"

RULES = [
    # request, status, field, what the sentence must hold
    (
        pb.GenerateRequest(prompt="a", request_id="a b"),
        INVALID,
        "request_id",
        ["[A-Za-z0-9_-]{1,64}", "'a b'"],
    ),
    (pb.GenerateRequest(prompt="a", request_id="a" * 65), INVALID, "request_id", ["{1,64}"]),
    (pb.GenerateRequest(), INVALID, "input", ["prompt, chat and token_ids"]),
    (pb.GenerateRequest(prompt=""), INVALID, "prompt", ["not be empty"]),
    (pb.GenerateRequest(prompt="a\0b"), INVALID, "prompt", ["NUL", "'a\\x00b'"]),
    (pb.GenerateRequest(prompt="a" * 201), INVALID, "prompt", ["at most 200 characters", "201"]),
    (pb.GenerateRequest(prompt="a" * 150), INVALID, "prompt", ["at most 149 tokens", "150"]),
    (chat(), INVALID, "chat.messages", ["not be empty"]),
    (chat(("", "hi")), INVALID, "chat.messages[0].role", ["not be empty"]),
    (chat(("user", "hi"), ("u\0", "hi")), INVALID, "chat.messages[1].role", ["NUL"]),
    (chat(("user", "\0")), INVALID, "chat.messages[0].content", ["NUL"]),
    (chat(("user", "a" * 200)), INVALID, "chat.messages", ["at most 200 characters", "204"]),
    (chat(("user", "a" * 145)), INVALID, "chat", ["at most 149 tokens"]),
    (pb.GenerateRequest(token_ids=pb.TokenIds()), INVALID, "token_ids.ids", ["not be empty"]),
    (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1, 259])), INVALID, "token_ids.ids[1]", ["below", "259"]),
    (pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1] * 150)), INVALID, "token_ids", ["at most 149 tokens"]),
    (sampling(max_new_tokens=0), INVALID, "sampling.max_new_tokens", ["between 1 and 100", "got 0"]),
    (sampling(max_new_tokens=101), INVALID, "sampling.max_new_tokens", ["between 1 and 100", "got 101"]),
    (sampling(temperature=-0.5), INVALID, "sampling.temperature", ["0 or between 0.01 and 100", "-0.5"]),
    (sampling(temperature=0.001), INVALID, "sampling.temperature", ["0.01", "got 0.001"]),
    (sampling(temperature=101), INVALID, "sampling.temperature", ["100", "got 101"]),
    (sampling(temperature=math.nan), INVALID, "sampling.temperature", ["nan"]),
    (sampling(temperature=math.inf), INVALID, "sampling.temperature", ["inf"]),
    (sampling(top_p=0), INVALID, "sampling.top_p", ["above 0 and at most 1", "got 0"]),
    (sampling(top_p=1.5), INVALID, "sampling.top_p", ["at most 1", "got 1.5"]),
    (sampling(top_p=math.nan), INVALID, "sampling.top_p", ["nan"]),
    (sampling(top_k=260), INVALID, "sampling.top_k", ["between 0 and 259", "got 260"]),
    (sampling(stop=["a", "b", "c"]), INVALID, "sampling.stop", ["at most 2 strings", "got 3"]),
    (sampling(stop=["a", ""]), INVALID, "sampling.stop[1]", ["not be empty"]),
    (sampling(stop=["aaaaa"]), INVALID, "sampling.stop[0]", ["at most 4 characters", "got 5"]),
    (steered(*[add(strength=1)] * 4), INVALID, "interventions", ["at most 3", "got 4"]),
    (
        steered(steering.Intervention(ablate=steering.Ablate())),
        INVALID,
        "interventions[0].target",
        ["required"],
    ),
    (
        steered(steering.Intervention(feature=GOOD)),
        INVALID,
        "interventions[0].operation",
        ["add, set, scale"],
    ),
    (steered(add(strength=math.nan)), INVALID, "interventions[0].add.strength", ["-1000 and 1000", "nan"]),
    (steered(add(strength=-math.inf)), INVALID, "interventions[0].add.strength", ["1000", "-inf"]),
    (steered(add(strength=1001)), INVALID, "interventions[0].add.strength", ["1000", "got 1001"]),
    (steered(set_to(math.inf)), INVALID, "interventions[0].set.value", ["1000", "inf"]),
    (steered(scale(math.nan)), INVALID, "interventions[0].scale.factor", ["1000", "nan"]),
    (steered(add(strength=1, unit=9)), INVALID, "interventions[0].add.unit", ["UNIT_FEATURE_MAX", "got 9"]),
    (
        steered(add(FeatureRef(sae="early", index=1), strength=1, unit=steering.UNIT_FEATURE_MAX)),
        INVALID,
        "interventions[0].add.unit",
        ["statistics", "'early'"],
    ),
    (
        steered(add(DEAD, strength=1, unit=steering.UNIT_FEATURE_MAX)),
        INVALID,
        "interventions[0].add.unit",
        ["maximum above 0", "has 0"],
    ),
    (
        steered(add(FeatureRef(sae="late", index=63), strength=100, unit=steering.UNIT_FEATURE_MAX)),
        INVALID,
        "interventions[0].add.strength",
        ["1000 in activation units", "got 1600"],
    ),
    (
        steered(steering.Intervention(feature=GOOD, ablate=steering.Ablate(), scope=steering.Scope(phase=7))),  # type: ignore[arg-type]
        INVALID,
        "interventions[0].scope.phase",
        ["PHASE_PROMPT", "got 7"],
    ),
    (steered(add(strength=1), set_to(2)), INVALID, "interventions[1]", ["late:1", "must all be add"]),
    (
        steered(add(strength=3, unit=steering.UNIT_RESID_NORM)),
        INVALID,
        "interventions[0].add.strength",
        ["1000 in activation units", "got 1500"],
    ),
    (limit(), INVALID, "interventions[0].limit", ["min, max or both"]),
    (limit(min=2, max=1), INVALID, "interventions[0].limit.min", ["at most max, 1", "got 2"]),
    (limit(min=math.nan), INVALID, "interventions[0].limit.min", ["1000", "nan"]),
    (limit(max=math.inf), INVALID, "interventions[0].limit.max", ["1000", "inf"]),
    (limit(max=1, unit=9), INVALID, "interventions[0].limit.unit", ["UNIT_RESID_NORM", "got 9"]),
    (steered(along([1.0])), INVALID, "interventions[0].direction.values", ["d_model, 32", "got 1"]),
    (
        steered(along([1.0] * 31 + [math.nan])),
        INVALID,
        "interventions[0].direction.values[31]",
        ["finite", "nan"],
    ),
    (
        steered(along([math.inf] * D_MODEL)),
        INVALID,
        "interventions[0].direction.values[0]",
        ["finite", "inf"],
    ),
    (steered(along([0.0] * D_MODEL)), INVALID, "interventions[0].direction.values", ["not all be 0"]),
    (steered(along(sha256="ab")), INVALID, "interventions[0].direction.sha256", ["left to the server"]),
    (steered(along([1.0] * 71)), INVALID, "interventions", ["at most 70 values of directions", "got 71"]),
    (
        steered(along(unit=steering.UNIT_FEATURE_MAX)),
        INVALID,
        "interventions[0].add.unit",
        ["nothing is recorded of a direction"],
    ),
    (
        steered(
            along(),
            steering.Intervention(direction=along([2.0] * D_MODEL).direction, scale=steering.Scale()),
        ),
        INVALID,
        "interventions[1]",
        ["same direction", "must all be add"],
    ),
    (
        steered(steering.Intervention(sae="late", ablate=steering.Ablate())),
        INVALID,
        "interventions[0].operation",
        ["whole SAE", "reconstruct"],
    ),
    (
        steered(steering.Intervention(feature=GOOD, reconstruct=steering.Reconstruct())),
        INVALID,
        "interventions[0].operation",
        ["only a whole SAE"],
    ),
    (
        steered(reconstruct("late"), reconstruct("late")),
        INVALID,
        "interventions[1]",
        ["'late'", "more than once"],
    ),
    (
        steered(reconstruct("late"), reconstruct("other")),
        INVALID,
        "interventions[1].reconstruct",
        ["blocks.2.hook_resid_post", "by 'late'"],
    ),
    (scoped(last_n=1), INVALID, "interventions[0].scope.last_n", ["PHASE_PROMPT"]),
    (scoped(roles=["user"]), INVALID, "interventions[0].scope.roles", ["chat"]),
    (scoped(token_ids=[1, 259]), INVALID, "interventions[0].scope.token_ids[1]", ["below", "got 259"]),
    (scoped(excluded_token_ids=[400]), INVALID, "interventions[0].scope.excluded_token_ids[0]", ["259"]),
    (scoped(token_ids=[1] * 5), INVALID, "interventions[0].scope", ["at most 4 positions", "got 5"]),
    (
        scoped(positions=[steering.PositionRange(start=3, end=3)]),
        INVALID,
        "interventions[0].scope.positions[0].end",
        ["above its start, 3", "got 3"],
    ),
    (
        scoped(positions=[steering.PositionRange(start=-3, end=-4)]),
        INVALID,
        "interventions[0].scope.positions[0].end",
        ["above its start, -3"],
    ),
    (
        steered(scheduled(half_life=-1)),
        INVALID,
        "interventions[0].schedule.half_life",
        ["between 0 and 1000000", "got -1"],
    ),
    (steered(scheduled(half_life=math.nan)), INVALID, "interventions[0].schedule.half_life", ["nan"]),
    (
        steered(steering.Intervention(feature=GOOD, ablate=steering.Ablate(), when=steering.Condition())),
        INVALID,
        "interventions[0].when.any_of",
        ["not be empty"],
    ),
    (when(), INVALID, "interventions[0].when.any_of[0].all_of", ["not be empty"]),
    (when(*[is_above()] * 9), INVALID, "interventions[0].when.any_of[0].all_of", ["at most 8 tests", "9"]),
    (
        triggered("a", condition=clauses(*[[is_above()]] * 5)),
        INVALID,
        "triggers[0].when.any_of",
        ["at most 4 clauses", "got 5"],
    ),
    (when(steering.FeatureTest(above=1)), INVALID, f"{TEST}.target", ["feature and direction"]),
    (when(is_above(math.nan)), INVALID, f"{TEST}.above", ["1000", "nan"]),
    (when(is_above(math.inf)), INVALID, f"{TEST}.above", ["1000", "inf"]),
    (when(is_above(unit=9)), INVALID, f"{TEST}.unit", ["UNIT_RESID_NORM", "got 9"]),
    (when(is_above(release_below=2)), INVALID, f"{TEST}.release_below", ["at most above, 1", "got 2"]),
    (when(is_above(release_below=math.nan)), INVALID, f"{TEST}.release_below", ["1000", "nan"]),
    (when(is_above(release_below=0, from_first=True)), INVALID, f"{TEST}.release_below", ["from_first"]),
    (
        when(is_above(), feature=FeatureRef(sae="early", index=1)),
        INVALID,
        TEST,
        ["blocks.2.hook_resid_post", "comes after blocks.0.hook_resid_post"],
    ),
    (when(*[is_above()] * 4), INVALID, "interventions", ["at most 3 tests in all conditions", "got 4"]),
    (
        triggered("a", "b", condition=clauses([is_above()], [is_above()])),
        INVALID,
        "triggers",
        ["at most 3 tests in all conditions", "got 4"],
    ),
    (
        when(steering.FeatureTest(direction=steering.Direction(hook_point=EVERYWHERE, values=[0.0] * 71))),
        INVALID,
        "interventions",
        ["at most 70 values of directions", "got 71"],
    ),
    (
        when(steering.FeatureTest(direction=steering.Direction(hook_point=EVERYWHERE, values=[1.0]))),
        INVALID,
        f"{TEST}.direction.values",
        ["d_model, 32", "got 1"],
    ),
    (
        triggered("a", "b", condition=clauses([is_beyond(36)])),
        INVALID,
        "triggers",
        ["at most 70 values of directions", "got 72"],
    ),
    (
        pb.GenerateRequest(
            prompt="a",
            interventions=[along()],
            triggers=triggered("a", condition=clauses([is_beyond(39)])).triggers,
        ),
        INVALID,
        "triggers",
        ["at most 70 values of directions", "got 71"],
    ),
    (triggered("a", "b", "c"), INVALID, "triggers", ["at most 2 triggers", "got 3"]),
    (triggered("A b"), INVALID, "triggers[0].name", ["[a-z0-9_-]{1,40}", "'A b'"]),
    (triggered(""), INVALID, "triggers[0].name", ["{1,40}"]),
    (triggered("a", "a"), INVALID, "triggers[1].name", ["unlike those before it", "'a'"]),
    (switching("calm", tests=3), INVALID, "triggers", ["at most 3 tests in all conditions", "got 4"]),
    (switching("to-roles"), INVALID, "triggers[0].switch.preset", ["messages of roles", "chat"]),
    (switching("lost"), NOT_FOUND, "triggers[0].switch.preset", ["'lost'", "calm@1, to-roles@1"]),
    (switching(""), NOT_FOUND, "triggers[0].switch.preset", ["''"]),
    (switching("calm@2"), NOT_FOUND, "triggers[0].switch.preset", ["'calm@2'"]),
    (
        pb.GenerateRequest(prompt="a", triggers=[steering.Trigger(name="a", flag=steering.Flag())]),
        INVALID,
        "triggers[0].when.any_of",
        ["not be empty"],
    ),
    (
        pb.GenerateRequest(prompt="a", triggers=[steering.Trigger(name="a", when=clauses([is_above()]))]),
        INVALID,
        "triggers[0].action",
        ["stop, switch and flag"],
    ),
    (
        triggered("a", condition=clauses([is_above(feature=FeatureRef(sae="lost"))])),
        NOT_FOUND,
        "triggers[0].when.any_of[0].all_of[0].feature.sae",
        ["'lost'"],
    ),
    (
        when(is_above(feature=FeatureRef(sae="late", index=64))),
        NOT_FOUND,
        f"{TEST}.feature.index",
        ["0 to 63"],
    ),
    (
        steered(along(hook_point="blocks.9.hook_resid_pre")),
        NOT_FOUND,
        "interventions[0].direction.hook_point",
        ["layers 0 to 2"],
    ),
    (
        steered(along(hook_point="blocks.1.hook_mlp_out")),
        NOT_FOUND,
        "interventions[0].direction.hook_point",
        ["no hook point blocks.1.hook_mlp_out"],
    ),
    (steered(along(hook_point="lm_head")), NOT_FOUND, "interventions[0].direction.hook_point", ["'lm_head'"]),
    (steered(reconstruct("lost")), NOT_FOUND, "interventions[0].sae", ["'lost'"]),
    (captured(top_k=6), INVALID, "capture.top_k", ["between 0 and 5", "got 6"]),
    (captured(watch=[GOOD] * 3), INVALID, "capture.watch", ["at most 2 features", "got 3"]),
    (captured(watch=[GOOD, GOOD]), INVALID, "capture.watch[1]", ["named once", "late:1"]),
    (captured(top_k_saes=["late"]), INVALID, "capture.top_k", ["at least 1", "got 0"]),
    (captured(top_k=1, top_k_saes=["late"] * 2), INVALID, "capture.top_k_saes[1]", ["named once", "late"]),
    (captured(top_k=1, top_k_saes=["late"] * 4), INVALID, "capture.top_k_saes", ["at most 3", "got 4"]),
    (
        steered(add(FeatureRef(sae="lost"), strength=1)),
        NOT_FOUND,
        "interventions[0].feature.sae",
        ["'lost'", "early, late, other"],
    ),
    (
        steered(add(FeatureRef(sae="late", index=64), strength=1)),
        NOT_FOUND,
        "interventions[0].feature.index",
        ["64", "0 to 63"],
    ),
    (captured(watch=[FeatureRef(sae="lost")]), NOT_FOUND, "capture.watch[0].sae", ["'lost'"]),
    (captured(top_k=1, top_k_saes=["lost"]), NOT_FOUND, "capture.top_k_saes[0]", ["'lost'"]),
]


@pytest.mark.parametrize(
    ("message", "code", "field", "words"), RULES, ids=[f"{r[2]}-{r[3][0]}" for r in RULES]
)
def test_a_broken_rule_is_named(
    strict_server: RunningServer,
    message: pb.GenerateRequest,
    code: grpc.StatusCode,
    field: str,
    words: list[str],
) -> None:
    error = refused(strict_server, message)

    assert error.code() is code
    told = violations(error) if code is INVALID else {error_info(error).metadata["field"]: error.details()}
    assert list(told) == [field]
    for word in words:
        assert word in told[field]


def test_prompt_and_budget_must_fit_the_context_together(strict_server: RunningServer) -> None:
    message = pb.GenerateRequest(prompt="a" * 100, sampling=pb.SamplingParams(max_new_tokens=51))

    told = violations(refused(strict_server, message))

    assert "at most 50" in told["sampling.max_new_tokens"]
    assert "of 150; got 51" in told["sampling.max_new_tokens"]


def test_every_broken_rule_is_told_at_once(strict_server: RunningServer) -> None:
    message = pb.GenerateRequest(
        prompt="",
        sampling=pb.SamplingParams(top_p=2, temperature=-1),
        interventions=[add(FeatureRef(sae="lost"), strength=1)],
    )

    told = violations(refused(strict_server, message))

    assert set(told) == {
        "prompt",
        "sampling.top_p",
        "sampling.temperature",
        "interventions[0].feature.sae",
    }


def test_more_violations_than_a_status_can_hold_are_counted(strict_server: RunningServer) -> None:
    turns = [("", "hi")] * 100

    error = refused(strict_server, chat(*turns))

    told = violations(error)
    shown = len(told) - 1
    assert told[""] == f"and {100 - shown} more violations"
    assert len(error.details().encode()) <= 1024


def test_reasons_are_stable_words(strict_server: RunningServer) -> None:
    unknown_sae = steered(add(FeatureRef(sae="lost"), strength=1))
    unknown_feature = steered(add(FeatureRef(sae="late", index=64), strength=1))

    assert error_info(refused(strict_server, sampling(top_p=2))).reason == "INVALID_REQUEST"
    assert error_info(refused(strict_server, unknown_sae)).reason == "SAE_NOT_FOUND"
    assert error_info(refused(strict_server, unknown_feature)).reason == "FEATURE_NOT_FOUND"
    assert error_info(refused(strict_server, unknown_feature)).domain == "steerd.dev"


@pytest.mark.parametrize(
    "message",
    [
        sampling(temperature=0.0, top_p=1.0, top_k=0, seed=0, max_new_tokens=1),
        sampling(temperature=0.01, top_p=1e-6, top_k=259, seed=2**64 - 1, max_new_tokens=1),
        sampling(temperature=100, max_new_tokens=5, stop=["aaaa", "b"]),
        steered(add(strength=1), add(strength=-1000)),
        steered(
            set_to(1000),
            steering.Intervention(feature=FeatureRef(sae="early"), ablate=steering.Ablate()),
        ),
        captured(watch=[GOOD, FeatureRef(sae="early")], top_k=5, top_k_saes=["early"]),
        pb.GenerateRequest(prompt="a" * 149, request_id="a" * 64),
        chat(("user", "")),
        limit(min=-1000, max=1000),
        limit(min=2, max=2, unit=steering.UNIT_RESID_NORM),
        steered(along(), along([-1.0] * D_MODEL, "blocks.2.hook_resid_post")),
        steered(reconstruct("late"), reconstruct("early"), add(strength=1)),
        scoped(phase=steering.PHASE_PROMPT, last_n=2**32 - 1, first_n=2**32 - 1, token_ids=[258]),
        scoped(positions=[steering.PositionRange(start=-(2**31), end=2**31 - 1)]),
        steered(scheduled(start_after=2**32 - 1, ramp=2**32 - 1, half_life=1e6, at_most=2**32 - 1)),
        steered(scheduled(half_life=1e-45)),
    ],
)
def test_values_at_their_bounds_are_taken(strict_server: RunningServer, message: pb.GenerateRequest) -> None:
    assert strict_server.generate(message).completed.finish_reason != pb.FINISH_REASON_UNSPECIFIED


def refused(server: RunningServer, message: pb.GenerateRequest) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        server.generate(message)
    return caught.value


def violations(error: grpc.RpcError) -> dict[str, str]:
    bad_request = detail(error, error_details_pb2.BadRequest())
    return {violation.field: violation.description for violation in bad_request.field_violations}


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    return detail(error, error_details_pb2.ErrorInfo())


def detail(error: grpc.RpcError, into: object) -> object:
    for packed in rpc_status.from_call(error).details:
        if packed.Unpack(into):
            return into
    raise AssertionError(f"no {type(into).__name__} in the status")
