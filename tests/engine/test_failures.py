"""What goes wrong in a step ends the requests it concerns, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from steerd.engine.events import FailedEvent, FinishedEvent, LastEvent, StepReport
from steerd.engine.faults import Fault
from steerd.engine.prefix_pages import PromptPages
from steerd.engine.request import Capture, FinishReason, GenerationRequest
from steerd.errors import InvalidRequest
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.steering.intervention import Add, FeatureRef
from steerd.steering.scope import Phase
from steerd.steering.steering import Steering
from tests.engine.recorder import Recorder, StepLog, run_together, submit
from tests.engine.requests import LONG, SHORT, edit, greedy_request
from tests.engine.serving import alone, assert_nothing_is_left, serving
from tests.tiny_hosts import make_tiny_host

# Eight times almost the largest float32: some sums along the direction are infinite.
OVERFLOW = [edit("sae-0", 3, Add(3e38)) for _ in range(8)]


def good_requests() -> list[GenerationRequest]:
    return [
        greedy_request("long", LONG, 12),
        greedy_request("steered", SHORT, 12, edit("sae-1", 5, Add(0.7))),
        greedy_request("short", SHORT[:2], 12),
    ]


def failure(recorder: Recorder) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  # which one is the caller's to say
        recorder.wait()
    return caught.value


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen3_moe"])
@pytest.mark.parametrize("phase", [Phase.ALL, Phase.GENERATED])
def test_steering_beyond_the_finite_fails_that_request_alone(architecture: str, phase: Phase) -> None:
    plain = make_tiny_host(architecture)
    interventions = [replace(i, scope=replace(i.scope, phase=phase)) for i in OVERFLOW]
    capture = Capture(watch=(FeatureRef("sae-1", 4),), top_k=3, top_k_saes=("sae-1",), include_prompt=True)
    bad = [greedy_request(f"bad-{n}", LONG[:7], 12, *interventions, capture=capture) for n in range(2)]
    log = StepLog()
    with serving(log, host=make_tiny_host(architecture)) as engine:
        first, *rest = good_requests()
        recorders = [submit(engine, request) for request in (bad[0], first, bad[1], *rest)]
        errors = [failure(recorders[0]), failure(recorders[2])]
        good = [recorders[1], *recorders[3:]]
        for recorder in good:
            recorder.wait()
        # The memory that held the infinite keys is used again.
        again = run_together(
            engine, [replace(request, id=f"{request.id} again") for request in (first, *rest)]
        )

    for error in errors:
        assert isinstance(error, InvalidRequest)
        assert [violation.field for violation in error.violations] == ["interventions"]
    for request, recorder, repeated in zip((first, *rest), good, again, strict=True):
        assert recorder.token_ids == repeated.token_ids == alone(plain, request)
    generated = 0 if phase is Phase.ALL else 1  # the last prompt row is not steered
    assert [len(recorders[n].tokens) for n in (0, 2)] == [generated] * 2
    assert log.steps[-1].kv_used_bytes == 0


def test_a_host_that_gives_nonsense_without_steering_is_our_failure_not_the_clients() -> None:
    host = make_tiny_host()
    with serving(host=host) as engine:
        handle = host.attach(HookPoint(1, "resid_post"), lambda rows: rows * float("nan"))
        error = failure(submit(engine, greedy_request("request", SHORT)))
        handle.remove()

        assert not isinstance(error, InvalidRequest)
        assert "request" in str(error)
        assert run_together(engine, [greedy_request("request", SHORT, 3)])[0].wait().generated_tokens == 3


class Trap:
    """A hook that raises in one forward, when it is set."""

    def __init__(self) -> None:
        self.is_set = threading.Event()

    def __call__(self, rows: Tensor) -> Tensor | None:
        del rows
        if self.is_set.is_set():
            self.is_set.clear()
            raise RuntimeError("out of something")
        return None


def test_a_step_that_raises_fails_its_requests_and_the_next_are_served(plain_host: HostModel) -> None:
    host, trap, log = make_tiny_host(), Trap(), StepLog()
    with serving(log, host=host) as engine:
        host.attach(HookPoint(1, "resid_post"), trap)
        recorders = [submit(engine, request) for request in good_requests()]
        recorders[1].wait_for_tokens(2)
        trap.is_set.set()
        errors = [failure(recorder) for recorder in recorders]

        again = run_together(engine, good_requests())

    assert all(str(error) == "out of something" for error in errors)
    for request, recorder in zip(good_requests(), again, strict=True):
        assert recorder.token_ids == alone(plain_host, request)
    assert log.steps[-1].kv_used_bytes == 0
    assert [type(event) for _, event in log.ended] == [FailedEvent] * 3 + [FinishedEvent] * 3
    assert all(event.seconds > 0 for _, event in log.ended if isinstance(event, FailedEvent))


@pytest.fixture(scope="module")
def plain_host() -> HostModel:
    return make_tiny_host()


class BrokenObserver(StepLog):
    def step_finished(self, report: StepReport) -> None:
        super().step_finished(report)
        raise RuntimeError("no more metrics")

    def request_finished(self, request: GenerationRequest, event: LastEvent) -> None:
        super().request_finished(request, event)
        raise RuntimeError("no more metrics")

    def first_token(self, request: GenerationRequest, seconds: float) -> None:
        super().first_token(request, seconds)
        raise RuntimeError("no more metrics")


def test_an_observer_that_raises_takes_no_request_with_it(
    plain_host: HostModel, caplog: pytest.LogCaptureFixture
) -> None:
    log = BrokenObserver()
    with serving(log) as engine:
        recorders = run_together(engine, good_requests())
        cancelled = submit(engine, greedy_request("cancelled", SHORT, 100))
        cancelled.wait_for_tokens(1)
        engine.cancel(cancelled.submission)
        assert cancelled.wait().reason is FinishReason.CANCELLED

    for request, recorder in zip(good_requests(), recorders, strict=True):
        assert recorder.token_ids == alone(plain_host, request)
    calls = len(log.steps) + len(log.ended) + len(log.first_tokens)
    assert caplog.text.count("RuntimeError: no more metrics") == calls > 8, "never passed over in silence"


def raising_stop() -> Callable[[int], bool]:
    def stop(token_id: int) -> bool:
        raise ValueError(f"cannot decode {token_id}")

    return stop


def no_stop() -> Callable[[int], bool]:
    raise ValueError("no decoder for this prompt")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda _: {"make_stop": no_stop}, "no decoder"),
        (
            lambda n: {"steering": Steering(interventions=(edit("sae-0", 10**6 + n, Add(1.0)),))},
            "out of bounds",
        ),
    ],
)
def test_a_request_that_cannot_begin_fails_alone(
    plain_host: HostModel, broken: Callable[[int], dict[str, Any]], message: str
) -> None:
    """What the edge should have refused must not end the engine, nor keep its place or memory."""
    log = StepLog()
    with serving(log, max_running_requests=4) as engine:
        for number in range(6):  # more than may run at once
            bad = submit(engine, replace(greedy_request(f"bad-{number}", LONG, 12), **broken(number)))
            assert message in str(failure(bad))
            assert len(bad.events) == 1, "it never started"
        recorders = run_together(engine, good_requests())
        assert_nothing_is_left(engine, log)

    for request, recorder in zip(good_requests(), recorders, strict=True):
        assert recorder.token_ids == alone(plain_host, request)


def test_a_request_whose_pages_cannot_be_copied_fails_alone(
    plain_host: HostModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages that are taken over need memory of their own for a moment."""
    log = StepLog()
    with serving(log, max_running_requests=4, share_prefixes=True) as engine:
        begin = engine._batch.begin

        def out_of_memory(request_id: str, pages: PromptPages) -> int:
            if request_id.startswith("bad"):
                raise torch.OutOfMemoryError("no room for the copy")
            return begin(request_id, pages)

        monkeypatch.setattr(engine._batch, "begin", out_of_memory)
        for number in range(6):  # more than may run at once
            bad = submit(engine, greedy_request(f"bad-{number}", LONG, 12, edit("sae-0", 3, Add(1.0))))
            assert "no room" in str(failure(bad))
            last = bad.events[-1]
            assert isinstance(last, FailedEvent)
            assert last.fault is Fault.NO_MEMORY_ADMISSION
        recorders = run_together(engine, good_requests())
        assert_nothing_is_left(engine, log)
        tables = [point.table.num_columns for point in engine._planner._points.all()]

    assert tables == [0] * len(tables), "no column is held"
    for request, recorder in zip(good_requests(), recorders, strict=True):
        assert recorder.token_ids == alone(plain_host, request)


def test_a_stop_predicate_that_raises_fails_its_request_alone(plain_host: HostModel) -> None:
    first, *rest = good_requests()
    with serving() as engine:
        recorders = [submit(engine, request) for request in (replace(first, make_stop=raising_stop), *rest)]
        error = failure(recorders[0])
        for recorder in recorders[1:]:
            recorder.wait()
        assert engine.is_alive

    assert "cannot decode" in str(error)
    assert len(recorders[0].tokens) <= 1
    for request, recorder in zip(rest, recorders[1:], strict=True):
        assert recorder.token_ids == alone(plain_host, request)


def test_a_huge_but_finite_strength_is_served(plain_host: HostModel) -> None:
    """Norms bring it back: the text is nonsense, but it is what was asked for."""
    request = greedy_request("huge", SHORT, 4, edit("sae-0", 3, Add(1e6)))
    with serving() as engine:
        recorder = run_together(engine, [request])[0]

    assert recorder.token_ids == alone(plain_host, request)
    assert torch.tensor(recorder.logprobs).isfinite().all()
