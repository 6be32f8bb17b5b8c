"""Scored continuations against a plain forward's log-softmax, in any chunks and beside anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from steerd.engine.events import FinishedEvent, ScoredEvent, StartedEvent, TokenEvent
from steerd.engine.request import Capture, FinishReason, GenerationRequest
from steerd.errors import AlreadyExists, InvalidRequest, Overloaded
from steerd.host.host_model import HostModel
from steerd.steering.intervention import Ablate, Add, FeatureRef, Intervention, Set
from steerd.steering.scope import Phase
from tests.engine.plain_ledger import assert_same_receipt
from tests.engine.recorder import Recorder, StepLog, SteppedLog, run_together, submit
from tests.engine.reference import acts_of, plain_hooks
from tests.engine.requests import LONG, SHORT, edit, greedy_request
from tests.engine.serving import alone, assert_nothing_is_left, serving, tiny_saes
from tests.tiny_hosts import make_tiny_host

TOLERANCE = 1e-4

STEERINGS: list[tuple[Intervention, ...]] = [
    (),
    (edit("sae-0", 3, Add(0.7)), edit("sae-0", 2, Add(-1.0), Phase.PROMPT)),
    (edit("sae-1", 5, Set(1.5), Phase.GENERATED), edit("sae-0", 9, Ablate())),
]


def scoring(
    request_id: str,
    prompt_ids: Sequence[int],
    continuation: Sequence[int],
    *interventions: Intervention,
    capture: Capture | None = None,
) -> GenerationRequest:
    request = greedy_request(request_id, prompt_ids, 1, *interventions, capture=capture)
    return replace(request, continuation=tuple(continuation))


def logprobs_of(recorder: Recorder) -> list[float]:
    return [value for event in recorder.events if isinstance(event, ScoredEvent) for value in event.logprobs]


def plain_log_softmax(host: HostModel, request: GenerationRequest) -> tuple[Tensor, dict[str, Tensor]]:
    """log-softmax [continuation, vocab] of a plain forward under a naive hook; acts [rows, d_sae] by SAE."""
    ids = [*request.prompt_ids, *request.continuation]
    with plain_hooks(host, tiny_saes(host), request, ids) as hooks, torch.inference_mode():
        logits = host.model(torch.tensor([ids]), use_cache=False).logits[0]
    return logits[len(request.prompt_ids) - 1 : -1].log_softmax(dim=-1), acts_of(hooks)


def assert_plain(host: HostModel, request: GenerationRequest, recorder: Recorder) -> None:
    expected, _ = plain_log_softmax(host, request)
    ids = torch.tensor(request.continuation)
    chosen = expected.gather(1, ids.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(torch.tensor(logprobs_of(recorder)), chosen, atol=TOLERANCE, rtol=0)
    events = [event for event in recorder.events if isinstance(event, ScoredEvent)]
    likeliest = [value for event in events for value in event.likeliest]
    assert likeliest == (expected.argmax(dim=-1) == ids).tolist()
    position = len(request.prompt_ids)
    for event in events:
        if event.logprobs:
            assert event.first_position == position
        position += len(event.logprobs)


def assert_plain_receipt(host: HostModel, request: GenerationRequest, recorder: Recorder) -> None:
    saes, ids = tiny_saes(host), list(request.given_ids)
    with plain_hooks(host, saes, request, ids) as hooks, torch.inference_mode():
        host.model(torch.tensor([ids]), use_cache=False)
    assert_same_receipt(recorder.wait().receipt, hooks[0].ledger.receipt(len(ids)))


@pytest.fixture(scope="module")
def plain_host() -> HostModel:
    return make_tiny_host()


@pytest.mark.parametrize(("architecture", "max_batch_tokens"), [("llama", 9), ("gemma2", 512)])
def test_scores_are_a_plain_forwards(architecture: str, max_batch_tokens: int) -> None:
    """Many at once beside others that generate, prompts and continuations of many lengths."""
    plain = make_tiny_host(architecture)
    generated = alone(plain, greedy_request("own", SHORT, 7))  # so that some tokens are the likeliest
    texts = [(SHORT, generated), (LONG[:30], tuple(b"a sea")), (SHORT[:1], LONG[:13]), (SHORT, SHORT[:1])]
    requests = [
        scoring(f"score-{number}", prompt, continuation, *STEERINGS[number % 3])
        for number, (prompt, continuation) in enumerate([*texts, *texts[:2]])
    ]
    others = [
        greedy_request(f"other-{n}", LONG[: 9 * n + 2], 4, edit("sae-0", 3, Add(5.0))) for n in range(2)
    ]
    with serving(host=make_tiny_host(architecture), max_batch_tokens=max_batch_tokens) as engine:
        recorders = run_together(engine, [*requests[:3], *others, *requests[3:]])
    beside, recorders = recorders[3:5], [*recorders[:3], *recorders[5:]]

    for request, recorder in zip(requests, recorders, strict=True):
        assert_plain(plain, request, recorder)
        assert_plain_receipt(plain, request, recorder)
        assert recorder.wait().reason is FinishReason.SCORED
        assert recorder.wait().generated_tokens == 0
        assert not any(isinstance(event, TokenEvent) for event in recorder.events)
    for request, recorder in zip(others, beside, strict=True):
        assert recorder.token_ids == alone(plain, request)


@pytest.mark.real_host
def test_scores_on_the_real_host_are_a_plain_forwards(real_host: HostModel) -> None:
    """Two languages' endings, steered and not, in chunks."""
    prompt = real_host.tokenizer("The capital of France is")["input_ids"]
    endings = [real_host.tokenizer(text)["input_ids"] for text in (" Paris, of course.", " Berlin.")]
    requests = [
        scoring(f"{number}-{len(steering)}", prompt, ending, *steering)
        for number, ending in enumerate(endings)
        for steering in ((), (edit("sae-0", 3, Add(4.0)),))
    ]
    with serving(host=HostModel.load(real_host.name), kv_cache_gib=0.05) as engine:
        recorders = run_together(engine, requests)

    for request, recorder in zip(requests, recorders, strict=True):
        expected, _ = plain_log_softmax(real_host, request)
        ids = torch.tensor(request.continuation).unsqueeze(1)
        found = torch.tensor(logprobs_of(recorder))
        torch.testing.assert_close(found, expected.gather(1, ids).squeeze(1), atol=1e-3, rtol=0)
    totals = [sum(logprobs_of(recorder)[:1]) for recorder in recorders]
    assert totals[0] > totals[2], "it knows"


def test_the_rows_of_a_scored_text_can_be_read(plain_host: HostModel) -> None:
    for include_prompt in (False, True):
        watch = (FeatureRef("sae-0", 3), FeatureRef("sae-1", 4))
        capture = Capture(watch=watch, include_prompt=include_prompt)
        request = scoring("score", SHORT, LONG[:20], *STEERINGS[2], capture=capture)
        with serving(max_batch_tokens=6) as engine:
            recorder = run_together(engine, [request])[0]
        _, acts = plain_log_softmax(plain_host, request)

        events = [event for event in recorder.events if isinstance(event, ScoredEvent)]
        readings = [reading for event in events for reading in event.readings]
        first = 0 if include_prompt else len(SHORT) - 1
        positions = range(first, len(SHORT) + 20 - 1)
        assert [reading.position for reading in readings[::2]] == list(positions)
        for reading in readings:
            expected = acts[reading.sae][reading.position, list(reading.features)]
            torch.testing.assert_close(torch.tensor(list(reading.values)), expected, atol=1e-3, rtol=1e-3)
        assert len(logprobs_of(recorder)) == 20


def test_a_scored_text_holds_its_place_and_memory_no_longer_than_it_runs() -> None:
    log = StepLog()
    request = scoring("score", SHORT, LONG)
    with serving(log, max_batch_tokens=16) as engine:
        recorder = run_together(engine, [request])[0]
        assert isinstance(recorder.events[0], StartedEvent)
        assert sum(step.prompt_tokens for step in log.steps) == len(SHORT) + len(LONG) - 1
        assert sum(step.generated_tokens for step in log.steps) == 0
        assert log.first_tokens == []
        assert_nothing_is_left(engine, log)


def test_a_scored_text_can_be_cancelled_between_its_chunks(plain_host: HostModel) -> None:
    log = SteppedLog()
    other = greedy_request("other", SHORT, 30)
    with serving(log, max_batch_tokens=16) as engine:
        beside = submit(engine, other)
        log.wait_for_step()
        recorder = submit(engine, scoring("score", SHORT, LONG))
        log.step(2)
        engine.cancel(recorder.submission)
        log.release()
        assert recorder.wait().reason is FinishReason.CANCELLED
        assert 0 < len(logprobs_of(recorder)) < len(LONG)
        beside.wait()
        assert beside.token_ids == alone(plain_host, other)
        assert_nothing_is_left(engine, log)


def test_steering_beyond_the_finite_fails_the_score(plain_host: HostModel) -> None:
    overflow = [edit("sae-0", 3, Add(3e38)) for _ in range(8)]
    fine = scoring("fine", SHORT, LONG[:9])
    with serving() as engine:
        bad, good = (submit(engine, r) for r in (scoring("bad", SHORT, LONG[:9], *overflow), fine))
        with pytest.raises(InvalidRequest, match="no longer finite"):
            bad.wait()
        good.wait()

    assert_plain(plain_host, fine, good)


def test_a_group_is_taken_in_whole_or_not_at_all() -> None:
    log = SteppedLog()
    group = [scoring(f"score-{n}", SHORT, SHORT) for n in range(3)]

    def submit_group(requests: Sequence[GenerationRequest]) -> list[Recorder]:
        recorders = [Recorder() for _ in requests]
        engine.submit_all(list(zip(requests, recorders, strict=True)))
        return recorders

    with serving(log, max_running_requests=2, max_waiting_requests=2) as engine:
        first = submit(engine, greedy_request("first", SHORT, 4))
        log.wait_for_step()
        second = submit(engine, greedy_request("second", SHORT, 4))
        with pytest.raises(Overloaded, match="no room for 3 more: 2 requests run or wait, of at most 4"):
            submit_group(group)
        with pytest.raises(AlreadyExists, match="'second' is in use"):
            submit_group([group[0], scoring("second", SHORT, SHORT)])
        with pytest.raises(
            InvalidRequest, match="11 prompt tokens and 100000 scored ones need room for 100010"
        ):
            submit_group([group[0], scoring("huge", SHORT, [65] * 100_000)])
        with pytest.raises(InvalidRequest, match="make 5 requests; at most 4 may run or wait"):
            submit_group([scoring(f"many-{n}", SHORT, SHORT) for n in range(5)])
        assert engine.waiting == 1, "of the refused groups nothing waits"
        log.release()
        first.wait()
        second.wait()
        for recorder in submit_group(group):
            last = recorder.wait()
            assert isinstance(last, FinishedEvent)
            assert last.reason is FinishReason.SCORED
        assert_nothing_is_left(engine, log)
