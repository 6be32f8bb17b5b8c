"""A baseline is the request sent alone and unsteered; it begins, ends and fails with the steered one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from steerd.engine.events import BaselineEvent, DivergenceEvent, FinishedEvent, StartedEvent
from steerd.engine.request import Capture, FinishReason, GenerationRequest
from steerd.errors import InvalidRequest, Overloaded
from steerd.host.host_model import HostModel
from steerd.steering.intervention import Add, FeatureRef, Set
from steerd.steering.steering import Steering
from tests.engine.recorder import Recorder, StepLog, SteppedLog, run_together, submit
from tests.engine.reference import Reference, plain_hooks
from tests.engine.requests import LONG, SHORT, edit, greedy_request, sampling
from tests.engine.serving import alone, assert_nothing_is_left, serving, tiny_saes
from tests.tiny_hosts import make_tiny_host

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def plain_host() -> HostModel:
    return make_tiny_host()


def baseline_tokens(recorder: Recorder) -> list[tuple[int, int, float]]:
    events = [event.token for event in recorder.events if isinstance(event, BaselineEvent)]
    return [(token.position, token.token_id, token.logprob) for token in events]


def divergences(recorder: Recorder) -> dict[int, float]:
    return {event.position: event.kl for event in recorder.events if isinstance(event, DivergenceEvent)}


def log_softmax(host: HostModel, request: GenerationRequest, ids: list[int]) -> torch.Tensor:
    """Of a plain forward over the ids, steered as the request says: [ids, vocab]."""
    with plain_hooks(host, tiny_saes(host), request, ids), torch.inference_mode():
        logits: torch.Tensor = host.model(torch.tensor([ids]), use_cache=False).logits[0]
    return logits.log_softmax(dim=-1)


def twin_requests() -> list[GenerationRequest]:
    """Steered from the first token or late, greedy and drawn, prompts of one chunk and of several."""
    capture = Capture(watch=(FeatureRef("sae-0", 3),), include_prompt=True)
    hot = sampling(9, temperature=1.0, seed=5)
    return [
        replace(
            greedy_request("strong", SHORT, 9, edit("sae-0", 3, Add(3.0)), capture=capture), baseline=True
        ),
        replace(greedy_request("weak", LONG[:30], 9, edit("sae-1", 5, Set(0.4))), baseline=True),
        replace(greedy_request("drawn", SHORT, 9, edit("sae-1", 7, Add(0.8))), sampling=hot, baseline=True),
        replace(greedy_request("equal", LONG[:21], 6), baseline=True),
    ]


def test_both_are_what_they_are_alone(plain_host: HostModel) -> None:
    requests = twin_requests()
    with serving(max_batch_tokens=16) as engine:
        recorders = run_together(engine, requests)

    for request, recorder in zip(requests, recorders, strict=True):
        steered = Reference(plain_host, tiny_saes(plain_host), request)
        plain = Reference(plain_host, tiny_saes(plain_host), replace(request, steering=Steering()))
        assert recorder.token_ids == steered.token_ids
        found = baseline_tokens(recorder)
        assert [token_id for _, token_id, _ in found] == plain.token_ids
        positions = [position for position, _, _ in found]
        assert positions == list(range(len(request.prompt_ids), len(request.prompt_ids) + len(found)))
        torch.testing.assert_close(
            torch.tensor([logprob for _, _, logprob in found]),
            torch.tensor(plain.logprobs),
            atol=2 * TOLERANCE,
            rtol=0,
        )
        outcome = recorder.wait().baseline
        assert outcome is not None
        assert outcome.generated_tokens == len(found)
        assert outcome.prompt_tokens == len(request.prompt_ids)


def test_the_divergence_is_that_of_two_plain_forwards(plain_host: HostModel) -> None:
    requests = twin_requests()
    with serving(max_batch_tokens=16) as engine:
        recorders = run_together(engine, requests)

    parted = set()
    for request, recorder in zip(requests, recorders, strict=True):
        prompt = list(request.prompt_ids)
        plain_ids = [token_id for _, token_id, _ in baseline_tokens(recorder)]
        p = log_softmax(plain_host, request, prompt + recorder.token_ids)
        q = log_softmax(plain_host, replace(request, steering=Steering()), prompt + plain_ids)
        found = divergences(recorder)
        both = min(len(recorder.token_ids), len(plain_ids))
        assert sorted(found) == list(range(len(prompt), len(prompt) + both))
        for position, kl in found.items():
            expected = (p[position - 1].exp() * (p[position - 1] - q[position - 1])).sum()
            assert kl == pytest.approx(float(expected), abs=TOLERANCE, rel=1e-3)
        pairs = enumerate(zip(recorder.token_ids, plain_ids, strict=False), len(prompt))
        first = next((position for position, (ours, theirs) in pairs if ours != theirs), None)
        outcome = recorder.wait().baseline
        assert outcome is not None
        assert outcome.first_diverging_position == first
        counted = [kl for position, kl in found.items() if first is None or position <= first]
        assert outcome.mean_kl == pytest.approx(sum(counted) / len(counted))
        parted.add(first)
    assert None in parted
    assert len(parted) > 2
    equal = divergences(recorders[3])
    assert max(equal.values()) < 1e-6


def test_one_stream_starts_and_ends_once() -> None:
    log = StepLog()
    with serving(log) as engine:
        recorder = run_together(engine, twin_requests()[:1])[0]
        assert [type(event) for event in recorder.events].count(StartedEvent) == 1
        assert [type(event) for event in recorder.events].count(FinishedEvent) == 1
        assert [request.id for request, _ in log.ended] == ["strong"]
        assert len(log.first_tokens) == 1
        assert sum(step.generated_tokens for step in log.steps) == 18
        assert_nothing_is_left(engine, log)


def raising_stop() -> Callable[[int], bool]:
    calls: list[int] = []

    def stop(token_id: int) -> bool:
        calls.append(token_id)
        if len(calls) == 3:
            raise ValueError("cannot decode")
        return False

    return stop


def test_the_failure_of_one_ends_both(plain_host: HostModel) -> None:
    log = StepLog()
    overflow = [edit("sae-0", 3, Add(3e38)) for _ in range(8)]
    other = greedy_request("other", SHORT, 12)
    with serving(log) as engine:
        steered = submit(engine, replace(greedy_request("bad", SHORT, 30, *overflow), baseline=True))
        stopped = submit(
            engine, replace(greedy_request("stop", SHORT, 30), baseline=True, make_stop=raising_stop)
        )
        good = submit(engine, other)
        with pytest.raises(InvalidRequest):
            steered.wait()
        with pytest.raises(ValueError, match="cannot decode"):
            stopped.wait()
        good.wait()
        assert_nothing_is_left(engine, log)

    assert good.token_ids == alone(plain_host, other)
    assert sum(isinstance(event, DivergenceEvent) for event in steered.events) <= 1


def test_a_cancel_ends_both_wherever_they_are() -> None:
    log = SteppedLog()
    with serving(log, max_running_requests=3) as engine:
        running = submit(engine, replace(greedy_request("running", SHORT, 40), baseline=True))
        log.wait_for_step()
        waiting = submit(engine, replace(greedy_request("waiting", SHORT, 40), baseline=True))
        log.step(2)
        assert (engine.running, engine.waiting) == (2, 2), "one place is free, but a pair needs two"
        for recorder in (running, waiting):
            engine.cancel(recorder.submission)
        log.release()
        for recorder in (running, waiting):
            finished = recorder.wait()
            assert finished.reason is FinishReason.CANCELLED
            assert finished.baseline is not None
            assert finished.baseline.reason is FinishReason.CANCELLED
        assert_nothing_is_left(engine, log)


def test_a_pair_that_can_never_run_is_refused() -> None:
    request = replace(greedy_request("pair", SHORT, 40), baseline=True)
    with serving(max_running_requests=1) as engine, pytest.raises(InvalidRequest, match="runs one at a time"):
        submit(engine, request)
    with (
        serving(kv_cache_gib=64 * 384 / 2**30) as engine,
        pytest.raises(InvalidRequest, match="doubles the room"),
    ):
        submit(engine, request)
    with (
        serving(max_running_requests=2, max_waiting_requests=1) as engine,
        pytest.raises(Overloaded, match="no room for 4 more"),
    ):
        engine.submit_all([(replace(request, id=name), Recorder()) for name in "ab"])
