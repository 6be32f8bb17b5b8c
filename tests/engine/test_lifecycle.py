"""From submit to the last event: waiting, running, cancelled at any moment, drained, stopped."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from steerd.engine.engine import Engine
from steerd.engine.events import FailedEvent, FinishedEvent, StartedEvent, StreamEvent, TokenEvent
from steerd.engine.request import FinishReason
from steerd.errors import AlreadyExists, InvalidRequest, Overloaded, Unavailable
from steerd.host.host_model import HostModel
from steerd.host.text import IncrementalDecoder, StopMatcher
from steerd.steering.intervention import Add
from tests.engine.recorder import Recorder, StepLog, SteppedLog, run_together, submit
from tests.engine.requests import edit, greedy_request, sampling
from tests.engine.serving import alone, serving
from tests.tiny_hosts import make_tiny_host

SHORT = list(b"Hello there")
LONG = list(b"The sea, the sea! " * 3)  # 54 tokens: four chunks of 16
FIRST = greedy_request("first", SHORT, 40)


@pytest.fixture(scope="module")
def plain_host() -> HostModel:
    return make_tiny_host()


def assert_nothing_is_left(engine: Engine, log: StepLog) -> None:
    """One more request runs as if it were the first, and its last step reports free memory."""
    probe = submit(engine, greedy_request("probe", SHORT, 3))

    assert probe.wait().generated_tokens == 3
    assert engine.drain(60)
    assert (engine.running, engine.waiting) == (0, 0)
    assert log.steps[-1].kv_used_bytes == 0
    assert (log.steps[-1].running, log.steps[-1].waiting) == (0, 0)


def test_the_events_of_a_request_in_order(plain_host: HostModel) -> None:
    with serving() as engine:
        recorder = run_together(engine, [greedy_request("request", SHORT, 5)])[0]

    started, *tokens, finished = recorder.events
    assert isinstance(started, StartedEvent)
    assert started.queue_seconds >= 0
    assert [token.position for token in tokens if isinstance(token, TokenEvent)] == list(range(11, 16))
    assert isinstance(finished, FinishedEvent)
    assert (finished.reason, finished.prompt_tokens, finished.generated_tokens) == (
        FinishReason.LENGTH,
        11,
        5,
    )
    assert recorder.token_ids == alone(plain_host, greedy_request("request", SHORT, 5))
    timings = finished.timings
    assert min(timings.queue_seconds, timings.prefill_seconds, timings.decode_seconds) >= 0


def test_cancel_in_the_waiting_line(plain_host: HostModel) -> None:
    log = SteppedLog()
    with serving(log, max_running_requests=1) as engine:
        first = submit(engine, FIRST)
        log.wait_for_step()
        second, third = (submit(engine, greedy_request(name, SHORT, 4)) for name in ("second", "third"))
        assert (engine.running, engine.waiting) == (1, 2)
        engine.cancel("second")
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
        engine.cancel("doomed")
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
        engine.cancel("doomed")
        log.step(3)

        finished = doomed.wait()
        assert (finished.reason, finished.generated_tokens) == (FinishReason.CANCELLED, 5)
        assert doomed.token_ids == alone(plain_host, doomed_request)[:5]
        assert finished.features[0].steered_tokens == 9 + 4, "the last token was never fed back"
        log.release()
        first.wait()
        assert first.token_ids == alone(plain_host, FIRST)
        assert_nothing_is_left(engine, log)


def test_cancel_after_the_end_and_of_an_unknown_id_is_nothing(plain_host: HostModel) -> None:
    log = StepLog()
    request = greedy_request("request", SHORT, 4)
    with serving(log) as engine:
        for _ in range(3):
            recorder = run_together(engine, [request])[0]
            engine.cancel("request")
            engine.cancel("nobody")
            assert recorder.token_ids == alone(plain_host, request)
            assert len(recorder.events) == 1 + 4 + 1
        assert_nothing_is_left(engine, log)


def test_a_cancel_that_comes_with_the_last_token_does_not_reach_the_next_request_of_that_id() -> None:
    """The id is free, and used again, before the engine looks at what was cancelled."""
    request = greedy_request("request", SHORT, 4)
    first, second = Recorder(), Recorder()

    def deliver(event: StreamEvent) -> None:
        if isinstance(event, TokenEvent) and event.position == len(SHORT) + 3:
            engine.cancel("request")
        first(event)
        if isinstance(event, FinishedEvent):
            engine.submit(request, second)

    with serving() as engine:
        engine.submit(request, deliver)

        assert first.wait().reason is FinishReason.LENGTH
        assert second.wait().reason is FinishReason.LENGTH
        assert second.token_ids == first.token_ids


def test_an_id_is_in_use_from_submit_to_the_last_event() -> None:
    log = SteppedLog()
    with serving(log, max_running_requests=1) as engine:
        running = submit(engine, greedy_request("running", SHORT, 4))
        waiting = submit(engine, greedy_request("waiting", SHORT, 4))
        log.wait_for_step()

        for name in ("running", "waiting"):
            with pytest.raises(AlreadyExists, match=f"request_id '{name}' is in use"):
                submit(engine, greedy_request(name, LONG, 4))

        log.release()
        assert running.wait().generated_tokens == waiting.wait().generated_tokens == 4
        assert run_together(engine, [greedy_request("running", SHORT, 2)])[0].wait().generated_tokens == 2


@pytest.mark.parametrize(("max_running", "max_waiting"), [(1, 0), (1, 2), (3, 1)])
def test_the_waiting_line_is_full_at_its_bound_exactly(max_running: int, max_waiting: int) -> None:
    log = SteppedLog()
    with serving(log, max_running_requests=max_running, max_waiting_requests=max_waiting) as engine:
        requests = [greedy_request(f"request-{n}", SHORT, 4) for n in range(max_running + max_waiting)]
        recorders = [submit(engine, request) for request in requests]
        log.wait_for_step()

        with pytest.raises(Overloaded, match=f"full: {max_waiting} requests wait already") as refused:
            submit(engine, greedy_request("one too many", SHORT, 4))

        assert refused.value.reason == "QUEUE_FULL"
        assert refused.value.retry_after_seconds is not None
        log.release()
        for recorder in recorders:
            assert recorder.wait().generated_tokens == 4
        assert run_together(engine, [greedy_request("one too many", SHORT, 4)])[0].token_ids


def test_requests_start_in_the_order_they_came(plain_host: HostModel) -> None:
    """Also when the one whose turn it is needs more memory than is free, and those behind it do not."""
    starts: list[str] = []

    def listen(name: str) -> Callable[[StreamEvent], None]:
        def deliver(event: StreamEvent) -> None:
            if isinstance(event, StartedEvent):
                starts.append(name)
            recorders[name](event)

        return deliver

    sizes = {"a": 20, "large": 80, "b": 4, "c": 4}
    recorders = {name: Recorder() for name in sizes}
    with serving(kv_cache_gib=96 * 768 / 2**30) as engine:
        for name, max_new_tokens in sizes.items():
            engine.submit(greedy_request(name, SHORT, max_new_tokens), listen(name))
        for name, max_new_tokens in sizes.items():
            recorders[name].wait()
            expected = alone(plain_host, greedy_request(name, SHORT, max_new_tokens))
            assert recorders[name].token_ids == expected

    assert starts == list(sizes)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2"])
def test_a_request_that_can_never_fit_is_told_the_room_there_is(architecture: str) -> None:
    host = make_tiny_host(architecture)
    with serving(host=host, kv_cache_gib=0.00006) as engine:
        with pytest.raises(InvalidRequest, match="11 prompt tokens and 100000 new ones") as refused:
            submit(engine, greedy_request("request", SHORT, 100_000))
        (violation,) = refused.value.violations
        assert violation.field == "sampling.max_new_tokens"
        described = re.search(r"need room for 100010; there is room for (\d+)$", violation.description)
        assert described is not None
        room = int(described[1])

        with pytest.raises(InvalidRequest):
            submit(engine, greedy_request("request", [65] * (room - 1), 3))
        largest = submit(engine, greedy_request("request", [65] * (room - 1), 2))
        assert largest.wait().generated_tokens >= 1


def test_drain_lets_everything_finish_and_refuses_newcomers() -> None:
    log = SteppedLog()
    with serving(log, max_running_requests=1) as engine:
        recorders = [submit(engine, greedy_request(f"request-{n}", SHORT, 4)) for n in range(3)]
        log.wait_for_step()

        assert not engine.drain(0), "three are left"
        with pytest.raises(Unavailable, match="draining") as refused:
            submit(engine, greedy_request("late", SHORT, 4))
        assert refused.value.reason == "DRAINING"
        log.release()
        assert engine.drain(60)

        assert [recorder.wait().reason for recorder in recorders] == [FinishReason.LENGTH] * 3
        assert engine.is_alive


def test_stop_fails_what_is_left_and_every_newcomer() -> None:
    log = SteppedLog()
    with serving(log, max_running_requests=1) as engine:
        running = submit(engine, FIRST)
        log.wait_for_step()
        waiting = submit(engine, greedy_request("waiting", SHORT, 4))
        stopper = threading.Thread(target=engine.stop)
        stopper.start()
        with pytest.raises(Unavailable):
            waiting.wait()
        log.release()
        stopper.join(60)

        assert not stopper.is_alive()
        assert not engine.is_alive
        for recorder in (running, waiting):
            last = recorder.events[-1]
            assert isinstance(last, FailedEvent)
            assert isinstance(last.error, Unavailable)
            assert last.error.reason == "ENGINE_STOPPED"
        with pytest.raises(Unavailable, match="stopped"):
            submit(engine, greedy_request("late", SHORT, 4))
        assert engine.drain(60), "nothing is left to wait for"
        engine.stop()


def stops_at(host: HostModel, prompt_ids: list[int], *stop: str) -> Callable[[], StopMatcher]:
    return lambda: StopMatcher(IncrementalDecoder(host.tokenizer, prompt_ids), stop)


def test_a_stop_string_ends_the_text_with_the_token_that_completes_it(plain_host: HostModel) -> None:
    request = replace(greedy_request("stopping", SHORT), sampling=sampling(20, temperature=1.0, seed=3))
    token_ids = alone(plain_host, request)
    # Two neighbouring ASCII characters, each token being a byte.
    end = next(n for n in range(5, 20) if max(token_ids[n - 2 : n]) < 128)
    stop = bytes(token_ids[end - 2 : end]).decode()
    make_stop = stops_at(plain_host, SHORT, "this never comes", stop)
    with serving() as engine:
        stopping = replace(request, make_stop=make_stop)
        recorders = run_together(engine, [stopping, replace(stopping, id="a fresh predicate")])

    for recorder in recorders:
        assert recorder.wait().reason is FinishReason.STOP_SEQUENCE
        assert recorder.token_ids == token_ids[:end]


def test_an_end_of_text_token_ends_the_text(plain_host: HostModel) -> None:
    requests = [
        replace(greedy_request(f"seed {seed}", SHORT), sampling=sampling(150, temperature=2.0, seed=seed))
        for seed in range(4)
    ]
    with serving() as engine:
        recorders = run_together(engine, requests)

    ended = [recorder for recorder in recorders if recorder.wait().reason is FinishReason.STOP]
    assert ended, "a vocabulary of 259 tokens has one that ends"
    for recorder in ended:
        is_end = [token_id in plain_host.eos_token_ids for token_id in recorder.token_ids]
        assert is_end == [False] * (len(is_end) - 1) + [True]
        assert len(is_end) < 150


def test_one_new_token_is_one_new_token(plain_host: HostModel) -> None:
    log = StepLog()
    with serving(log) as engine:
        recorder = run_together(engine, [greedy_request("request", [65], 1)])[0]

    assert recorder.wait().reason is FinishReason.LENGTH
    assert recorder.token_ids == alone(plain_host, greedy_request("request", [65], 1))
    assert len(log.steps) == 1


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
                engine.cancel(request.id)
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
