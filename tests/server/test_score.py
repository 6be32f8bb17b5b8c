"""Score over gRPC against a plain forward, and every rule that it refuses by."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
import torch
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from steerd.config import EngineConfig, LimitsConfig
from steerd.engine.request import GenerationRequest
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.pb.v1.feature_pb2 import FeatureRef
from steerd.steering.intervention import Add, Intervention
from steerd.steering.intervention import FeatureRef as Feature
from steerd.steering.scope import Phase, Scope
from steerd.steering.steering import Steering
from tests.engine.reference import acts_of, plain_hooks
from tests.engine.requests import sampling
from tests.server.running_server import TIMEOUT_SECONDS, RunningServer, tiny_config, tiny_parts

TOLERANCE = 1e-4
PROMPT = "the cat sat"
TEXTS = [" on the mat", "!", "\N{SNOWMAN} and more"]
LATE = FeatureRef(sae="late", index=3)
STRONG = steering.Intervention(
    feature=LATE, add=steering.Add(strength=2), scope=steering.Scope(phase=steering.PHASE_GENERATED)
)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    limits = LimitsConfig(max_continuations=4, max_prompt_characters=300)
    engine = EngineConfig(kv_cache_gib=0.01, max_running_requests=3, max_waiting_requests=3)
    with RunningServer(tiny_config(limits=limits, engine=engine), *tiny_parts()) as running:
        yield running


def score(server: RunningServer, **fields: object) -> pb.ScoreResponse:
    request = pb.ScoreRequest(**fields)  # type: ignore[arg-type]
    response: pb.ScoreResponse = server.generation.Score(request, timeout=TIMEOUT_SECONDS)
    return response


def texts(*found: str) -> list[pb.Continuation]:
    return [pb.Continuation(text=text) for text in found]


def expected(prompt: bytes, continuation: bytes, *, steered: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """log-softmax [tokens, vocab] of a plain forward, and the acts [rows, d_sae] of the SAE `late`."""
    host, saes = tiny_parts()
    scope = Scope(phase=Phase.GENERATED)
    edits = (Intervention(target=Feature("late", 3), operation=Add(2.0), scope=scope),)
    request = GenerationRequest(
        id="plain",
        prompt_ids=tuple(prompt),
        sampling=sampling(),
        steering=Steering(interventions=edits if steered else ()),
    )
    ids = [*prompt, *continuation]
    with plain_hooks(host, saes, request, ids) as hooks, torch.inference_mode():
        logits = host.model(torch.tensor([ids]), use_cache=False).logits[0]
    return logits[len(prompt) - 1 : -1].log_softmax(dim=-1), acts_of(hooks)["late"]


def chosen(logprobs: torch.Tensor, continuation: bytes) -> list[float]:
    found: list[float] = (
        logprobs.gather(1, torch.tensor([[token] for token in continuation])).squeeze(1).tolist()
    )
    return found


def test_scores_are_those_of_a_plain_forward(server: RunningServer) -> None:
    response = score(
        server,
        request_id="mine",
        prompt=PROMPT,
        continuations=[*texts(*TEXTS), pb.Continuation(token_ids=pb.TokenIds(ids=b"abc"))],
        interventions=[STRONG],
    )

    assert response.request_id == "mine"
    assert [each.feature for each in response.interventions] == [LATE]
    assert len(response.scores) == 4
    for text, found in zip([*TEXTS, "abc"], response.scores, strict=True):
        ids = text.encode()
        logprobs, _ = expected(PROMPT.encode(), ids, steered=True)
        assert bytes(found.token_ids) == ids
        assert list(found.logprobs) == pytest.approx(chosen(logprobs, ids), abs=TOLERANCE)
        assert found.total_logprob == pytest.approx(sum(found.logprobs), rel=1e-6)
        assert list(found.likeliest) == (logprobs.argmax(dim=-1) == torch.tensor(list(ids))).tolist()
        assert len(found.token_texts) == len(ids)
        assert not found.baseline_logprobs
    assert list(response.scores[1].token_texts) == ["!"]


def test_a_baseline_is_the_score_without_steering(server: RunningServer) -> None:
    both = score(server, prompt=PROMPT, continuations=texts(*TEXTS), interventions=[STRONG], baseline=True)

    for text, found in zip(TEXTS, both.scores, strict=True):
        logprobs, _ = expected(PROMPT.encode(), text.encode(), steered=False)
        unsteered = chosen(logprobs, text.encode())
        assert list(found.baseline_logprobs) == pytest.approx(unsteered, abs=TOLERANCE)
        assert found.baseline_total_logprob == pytest.approx(sum(unsteered), abs=1e-3)
    # The row of the first token is the prompt's, which this intervention leaves alone.
    assert both.scores[1].total_logprob == pytest.approx(both.scores[1].baseline_total_logprob, abs=TOLERANCE)
    assert abs(both.scores[0].total_logprob - both.scores[0].baseline_total_logprob) > 0.01


def test_each_score_has_a_receipt(server: RunningServer) -> None:
    both = score(server, prompt=PROMPT, continuations=texts(*TEXTS), interventions=[STRONG], baseline=True)

    for text, found in zip(TEXTS, both.scores, strict=True):
        (receipt,) = found.receipt.interventions
        assert receipt.rows == receipt.rows_changed == len(text.encode()) - 1  # the last has no row
        assert found.receipt.plan_hash == both.plan_hash
        if receipt.rows:
            assert receipt.mean_relative_norm > 0


def test_the_dose_is_guarded_as_in_generate(server: RunningServer) -> None:
    strongest = steering.Intervention(feature=LATE, add=steering.Add(strength=900))
    told = server.generate(pb.GenerateRequest(prompt=PROMPT, interventions=[strongest])).started.warnings
    assert told
    response = score(server, prompt=PROMPT, continuations=texts("!"), interventions=[strongest])

    assert response.warnings == told


def test_without_an_input_the_first_token_is_the_context(server: RunningServer) -> None:
    (found,) = score(server, continuations=texts("hello")).scores

    logprobs, _ = expected(b"h", b"ello", steered=False)
    assert bytes(found.token_ids) == b"ello"
    assert list(found.logprobs) == pytest.approx(chosen(logprobs, b"ello"), abs=TOLERANCE)


def test_a_chat_can_be_continued(server: RunningServer) -> None:
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="Hi")])
    (found,) = score(server, chat=chat, continuations=texts("Yes")).scores

    prompt = [257, *b"user\nHi", 258, *b"\n", 257, *b"assistant\n"]
    host, _ = tiny_parts()
    with torch.inference_mode():
        logits = host.model(torch.tensor([[*prompt, *b"Yes"]]), use_cache=False).logits[0]
    logprobs = logits[len(prompt) - 1 : -1].log_softmax(dim=-1)
    assert list(found.logprobs) == pytest.approx(chosen(logprobs, b"Yes"), abs=TOLERANCE)


def test_features_are_read_before_each_scored_token(server: RunningServer) -> None:
    (found,) = score(
        server,
        prompt=PROMPT,
        continuations=texts(" on"),
        interventions=[STRONG],
        capture=pb.Capture(watch=[LATE]),
    ).scores

    _, acts = expected(PROMPT.encode(), b" on", steered=True)
    assert [reading.position for reading in found.readings] == [10, 11, 12]
    for reading in found.readings:
        assert list(reading.features) == [3]
        assert reading.values[0] == pytest.approx(float(acts[reading.position, 3]), abs=1e-3)


BAD: dict[str, tuple[dict[str, object], str]] = {
    "none": ({"prompt": "a"}, "continuations"),
    "too many": ({"prompt": "a", "continuations": texts(*"abcde")}, "continuations"),
    "too long": ({"prompt": "a", "continuations": texts("x" * 301)}, "continuations"),
    "past the context": (
        {"token_ids": pb.TokenIds(ids=[1] * 300), "continuations": texts("x" * 213)},
        "continuations[0]",
    ),
    "empty": ({"prompt": "a", "continuations": texts("b", "")}, "continuations[1].text"),
    "NUL": ({"prompt": "a", "continuations": texts("\0")}, "continuations[0].text"),
    "nothing": ({"prompt": "a", "continuations": [pb.Continuation()]}, "continuations[0].content"),
    "no ids": (
        {"prompt": "a", "continuations": [pb.Continuation(token_ids=pb.TokenIds())]},
        "continuations[0].token_ids.ids",
    ),
    "unknown id": (
        {"prompt": "a", "continuations": [pb.Continuation(token_ids=pb.TokenIds(ids=[1, 259]))]},
        "continuations[0].token_ids.ids[1]",
    ),
    "one token and no input": ({"continuations": texts("hello", "a")}, "continuations[1]"),
    "empty input": ({"prompt": "", "continuations": texts("a")}, "prompt"),
    "bad edit": (
        {"prompt": "a", "continuations": texts("b"), "interventions": [steering.Intervention(feature=LATE)]},
        "interventions[0].operation",
    ),
    "bad id": ({"request_id": "a.b", "prompt": "a", "continuations": texts("b")}, "request_id"),
    "more than may run or wait": (
        {"prompt": "a", "continuations": texts(*"abcd"), "baseline": True},
        "continuations",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_broken_rule_names_its_field(server: RunningServer, name: str) -> None:
    fields, field = BAD[name]
    with pytest.raises(grpc.RpcError) as refused:
        score(server, **fields)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad = error_details_pb2.BadRequest()
    details = rpc_status.from_call(refused.value).details
    assert any(detail.Unpack(bad) for detail in details)
    assert [violation.field for violation in bad.field_violations] == [field]


def test_calls_are_counted_and_nothing_is_left(server: RunningServer) -> None:
    before = server.total("steerd_finish_reason_total", reason="scored")

    score(server, prompt=PROMPT, continuations=texts(*TEXTS))

    assert server.total("steerd_finish_reason_total", reason="scored") == before + 3
    assert server.app.engine is not None
    assert (server.app.engine.running, server.app.engine.waiting) == (0, 0)
