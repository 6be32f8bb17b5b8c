"""Cancelled at any moment, a request frees all it held and leaves the others as they were."""

from __future__ import annotations

import random
import threading

import pytest

from steerd.engine.events import FinishedEvent, StartedEvent, StreamEvent, TokenEvent
from steerd.engine.request import FinishReason
from steerd.engine.waiting_line import Submission
from steerd.host.host_model import HostModel
from steerd.steering.intervention import Add
from tests.engine.recorder import Recorder, StepLog, SteppedLog, run_together, submit
from tests.engine.requests import LONG, SHORT, edit, greedy_request
from tests.engine.serving import alone, assert_nothing_is_left, serving
from tests.tiny_hosts import make_tiny_host

FIRST = greedy_request("first", SHORT, 40)


@pytest.fixture(scope="module")
def plain_host() -> HostModel:
    return make_tiny_host()


def test_cancel_in_the_waiting_line(plain_host: HostModel) -> None:
    log = SteppedLog()
    with serving(log, max_running_requests=1) as engine:
        first = submit(engine, FIRST)
        log.wait_for_step()
        second, third = (submit(engine, greedy_request(name, SHORT, 4)) for name in ("second", "third"))
        assert (engine.running, engine.waiting) == (1, 2)
        engine.cancel(second.submission)
        log.step()

        finished = second.wait()
        assert second.events == [finished], "it never started"
        assert (finished.reason, finished.generated_tokens) == (FinishReason.CANCELLED, 0)
        assert (finished.timings.prefill_seconds, finished.timings.decode_seconds) == (0, 0)
        assert engine.waiting == 1
        log.release()
        assert first.wait().reason is FinishReason.LENGTH
        assert first.token_ids == alone(plain_host, FIRST)
        assert third.wait().generated_tokens == 4
        assert_nothing_is_left(engine, log)


def test_cancel_between_the_chunks_of_a_prompt(plain_host: HostModel) -> None:
    log = SteppedLog()
    with serving(log) as engine:
        first = submit(engine, FIRST)
        log.wait_for_step()
        doomed = submit(engine, greedy_request("doomed", LONG, 8, edit("sae-0", 3, Add(1.0))))
        log.step(2)
        assert 0 < sum(step.prompt_tokens for step in log.steps) - len(SHORT) < len(LONG)
        used = log.steps[-1].kv_used_bytes
        engine.cancel(doomed.submission)
        log.step()

        finished = doomed.wait()
        assert (finished.reason, finished.generated_tokens) == (FinishReason.CANCELLED, 0)
        assert finished.prompt_tokens == len(LONG)
        assert [type(event) for event in doomed.events] == [StartedEvent, FinishedEvent]
        assert 0 < log.steps[-1].kv_used_bytes < used
        log.release()
        first.wait()
        assert first.token_ids == alone(plain_host, FIRST)
        assert_nothing_is_left(engine, log)


def test_cancel_in_the_middle_of_decoding(plain_host: HostModel) -> None:
    log = SteppedLog()
    doomed_request = greedy_request("doomed", LONG[:9], 30, edit("sae-1", 3, Add(1.0)))
    with serving(log) as engine:
        first = submit(engine, FIRST)
        log.wait_for_step()
        doomed = submit(engine, doomed_request)
        log.step(5)
        engine.cancel(doomed.submission)
        log.step(3)

        finished = doomed.wait()
        assert (finished.reason, finished.generated_tokens) == (FinishReason.CANCELLED, 5)
        assert doomed.token_ids == alone(plain_host, doomed_request)[:5]
        assert finished.features[0].steered_tokens == 9 + 4, "the last token was never fed back"
        log.release()
        first.wait()
        assert first.token_ids == alone(plain_host, FIRST)
        assert_nothing_is_left(engine, log)


def test_cancel_after_the_end_and_of_what_was_never_submitted_is_nothing(plain_host: HostModel) -> None:
    log = StepLog()
    request = greedy_request("request", SHORT, 4)
    with serving(log) as engine:
        for _ in range(3):
            recorder = run_together(engine, [request])[0]
            engine.cancel(recorder.submission)
            engine.cancel(Submission(request, recorder))
            assert recorder.token_ids == alone(plain_host, request)
            assert len(recorder.events) == 1 + 4 + 1
        assert_nothing_is_left(engine, log)


def test_a_cancel_that_comes_with_the_last_token_does_not_reach_the_next_request_of_that_id() -> None:
    """The id is free, and used again, before the engine looks at what was cancelled."""
    request = greedy_request("request", SHORT, 4)
    first, second = Recorder(), Recorder()
    submitted = threading.Event()

    def deliver(event: StreamEvent) -> None:
        assert submitted.wait(60)
        if isinstance(event, TokenEvent) and event.position == len(SHORT) + 3:
            engine.cancel(first.submission)
        first(event)
        if isinstance(event, FinishedEvent):
            engine.submit(request, second)

    with serving() as engine:
        first.submission = engine.submit(request, deliver)
        submitted.set()

        assert first.wait().reason is FinishReason.LENGTH
        assert second.wait().reason is FinishReason.LENGTH
        assert second.token_ids == first.token_ids


def test_a_late_cancel_does_not_reach_the_next_request_of_that_id() -> None:
    request = greedy_request("request", SHORT, 40)
    with serving() as engine:
        first = run_together(engine, [request])[0]
        second = submit(engine, request)
        second.wait_for_tokens(1)
        engine.cancel(first.submission)

        assert second.wait().reason is FinishReason.LENGTH


def test_many_clients_at_once_leave_nothing_behind(plain_host: HostModel) -> None:
    """Each thread submits, waits a little, cancels or waits for the end; ids are used again."""
    log = StepLog()
    expected = {n: alone(plain_host, greedy_request("x", LONG[: 3 + 5 * n], 6)) for n in range(5)}
    failures: list[str] = []

    def client(number: int) -> None:
        chance = random.Random(number)
        for _ in range(8):
            size = chance.randrange(5)
            capture = edit("sae-0", chance.randrange(64), Add(0.0))
            request = greedy_request(f"client-{number}", LONG[: 3 + 5 * size], 6, capture)
            recorder = submit(engine, request)
            if chance.random() < 0.4:
                recorder.wait_for_tokens(chance.randrange(6))
                engine.cancel(recorder.submission)
            finished = recorder.wait()
            if recorder.token_ids != expected[size][: len(recorder.token_ids)]:
                failures.append(f"{request.id} got other tokens")
            if finished.reason is FinishReason.LENGTH and len(recorder.token_ids) != 6:
                failures.append(f"{request.id} got {len(recorder.token_ids)} tokens")

    with serving(log, kv_cache_gib=160 * 768 / 2**30, max_running_requests=4) as engine:
        threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        assert not any(thread.is_alive() for thread in threads)
        assert failures == []
        assert len(log.ended) == 48
        assert_nothing_is_left(engine, log)
