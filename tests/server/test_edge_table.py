"""One row per rule of the edge: a bad request, its status, and what the message must name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from steerd.config import LimitsConfig
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1.feature_pb2 import FeatureRef
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
)
GOOD = FeatureRef(sae="late", index=1)
DEAD = FeatureRef(sae="late", index=1)  # the tiny SAE's feature 1 has a recorded maximum of 0

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.fixture(scope="module")
def strict_server() -> Iterator[RunningServer]:
    """Small limits, a context of 150, and an SAE without statistics."""
    host = make_tiny_host("llama", max_position_embeddings=150)
    saes = LoadedSaes(host)
    saes.add("early", replace(tiny_sae(host, "blocks.0.hook_resid_post"), statistics=None))
    saes.add("late", tiny_sae(host, "blocks.2.hook_resid_post"))
    with RunningServer(tiny_config(limits=LIMITS), host, saes) as running:
        yield running


def sampling(**fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="a", sampling=pb.SamplingParams(**fields))  # type: ignore[arg-type]


def steered(*interventions: pb.Intervention) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="a", interventions=interventions)


def captured(**fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt="a", capture=pb.Capture(**fields))  # type: ignore[arg-type]


def chat(*turns: tuple[str, str]) -> pb.GenerateRequest:
    return pb.GenerateRequest(chat=pb.Chat(messages=[pb.ChatMessage(role=r, content=c) for r, c in turns]))


def add(feature: FeatureRef = GOOD, **fields: object) -> pb.Intervention:
    return pb.Intervention(feature=feature, add=pb.Add(**fields))  # type: ignore[arg-type]


def set_to(value: float) -> pb.Intervention:
    return pb.Intervention(feature=GOOD, set=pb.Set(value=value))


def scale(factor: float) -> pb.Intervention:
    return pb.Intervention(feature=GOOD, scale=pb.Scale(factor=factor))


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
    (steered(pb.Intervention(ablate=pb.Ablate())), INVALID, "interventions[0].feature", ["required"]),
    (steered(pb.Intervention(feature=GOOD)), INVALID, "interventions[0].operation", ["add, set, scale"]),
    (steered(add(strength=math.nan)), INVALID, "interventions[0].add.strength", ["-1000 and 1000", "nan"]),
    (steered(add(strength=-math.inf)), INVALID, "interventions[0].add.strength", ["1000", "-inf"]),
    (steered(add(strength=1001)), INVALID, "interventions[0].add.strength", ["1000", "got 1001"]),
    (steered(set_to(math.inf)), INVALID, "interventions[0].set.value", ["1000", "inf"]),
    (steered(scale(math.nan)), INVALID, "interventions[0].scale.factor", ["1000", "nan"]),
    (steered(add(strength=1, unit=9)), INVALID, "interventions[0].add.unit", ["UNIT_FEATURE_MAX", "got 9"]),
    (
        steered(add(FeatureRef(sae="early", index=1), strength=1, unit=pb.UNIT_FEATURE_MAX)),
        INVALID,
        "interventions[0].add.unit",
        ["statistics", "'early'"],
    ),
    (
        steered(add(DEAD, strength=1, unit=pb.UNIT_FEATURE_MAX)),
        INVALID,
        "interventions[0].add.unit",
        ["maximum above 0", "has 0"],
    ),
    (
        steered(add(FeatureRef(sae="late", index=63), strength=100, unit=pb.UNIT_FEATURE_MAX)),
        INVALID,
        "interventions[0].add.strength",
        ["1000 in activation units", "got 1600"],
    ),
    (
        steered(pb.Intervention(feature=GOOD, ablate=pb.Ablate(), scope=pb.Scope(phase=7))),  # type: ignore[arg-type]
        INVALID,
        "interventions[0].scope.phase",
        ["PHASE_PROMPT", "got 7"],
    ),
    (steered(add(strength=1), set_to(2)), INVALID, "interventions[1]", ["late:1", "must all be add"]),
    (captured(top_k=6), INVALID, "capture.top_k", ["between 0 and 5", "got 6"]),
    (captured(watch=[GOOD] * 3), INVALID, "capture.watch", ["at most 2 features", "got 3"]),
    (captured(watch=[GOOD, GOOD]), INVALID, "capture.watch[1]", ["named once", "late:1"]),
    (captured(top_k_saes=["late"]), INVALID, "capture.top_k", ["at least 1", "got 0"]),
    (captured(top_k=1, top_k_saes=["late"] * 2), INVALID, "capture.top_k_saes[1]", ["named once", "late"]),
    (captured(top_k=1, top_k_saes=["late"] * 3), INVALID, "capture.top_k_saes", ["at most 2", "got 3"]),
    (
        steered(add(FeatureRef(sae="lost"), strength=1)),
        NOT_FOUND,
        "interventions[0].feature.sae",
        ["'lost'", "early, late"],
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
        steered(set_to(1000), pb.Intervention(feature=FeatureRef(sae="early"), ablate=pb.Ablate())),
        captured(watch=[GOOD, FeatureRef(sae="early")], top_k=5, top_k_saes=["early"]),
        pb.GenerateRequest(prompt="a" * 149, request_id="a" * 64),
        chat(("user", "")),
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
