"""From submit to the last event: waiting, running, cancelled at any moment, drained, stopped."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from steerd.config import EngineConfig
from steerd.engine.engine import Engine
from steerd.engine.events import FailedEvent, FinishedEvent, StartedEvent, StreamEvent, TokenEvent
from steerd.engine.request import FinishReason
from steerd.errors import AlreadyExists, InvalidRequest, Overloaded, Unavailable
from steerd.host.host_model import HostModel
from steerd.host.text import IncrementalDecoder, StopMatcher
from tests.engine.recorder import Recorder, StepLog, SteppedLog, run_together, submit
from tests.engine.requests import LONG, SHORT, greedy_request, sampling
from tests.engine.serving import SMALL, alone, serving, tiny_saes
from tests.tiny_hosts import make_tiny_host

FIRST = greedy_request("first", SHORT, 40)


@pytest.fixture(scope="module")
def plain_host() -> HostModel:
    return make_tiny_host()


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

        with pytest.raises(Overloaded, match=f"no room for 1 more: {len(requests)} requests") as refused:
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


def stops_at(host: HostModel, prompt_ids: Sequence[int], *stop: str) -> Callable[[], StopMatcher]:
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


def test_heartbeat_is_now_while_idle_and_stands_while_a_step_runs() -> None:
    log = SteppedLog()
    with serving(log) as engine:
        idle = engine.heartbeat
        assert engine.heartbeat >= idle
        recorder = submit(engine, greedy_request("request", SHORT, 6))
        log.wait_for_step()

        standing = engine.heartbeat
        assert engine.heartbeat == standing >= idle
        log.step()
        assert engine.heartbeat > standing
        log.release()
        recorder.wait()


def test_heartbeat_is_new_when_the_first_request_comes() -> None:
    """However long nothing had happened: it is taken in before the engine has had a turn."""
    host = make_tiny_host()
    engine = Engine(host, tiny_saes(host), EngineConfig(**SMALL), StepLog())
    before = time.monotonic()

    recorder = submit(engine, greedy_request("early", SHORT, 2))

    assert engine.heartbeat >= before
    assert not engine.is_alive
    engine.start()
    assert recorder.wait().generated_tokens == 2
    engine.stop()


def test_stop_before_start_fails_what_waits() -> None:
    host = make_tiny_host()
    engine = Engine(host, tiny_saes(host), EngineConfig(**SMALL), StepLog())
    recorder = submit(engine, greedy_request("early", SHORT, 2))

    engine.stop()

    with pytest.raises(Unavailable, match="stopped"):
        recorder.wait()
