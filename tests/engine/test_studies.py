"""Studies beside requests in one engine: neither changes what the other gives."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch import Tensor

from steerd.config import WatchedFeature
from steerd.errors import Overloaded, Unavailable
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.steering.intervention import Add
from tests.engine.recorder import StepLog, submit
from tests.engine.requests import LONG, SHORT, edit, greedy_request
from tests.engine.serving import alone, assert_nothing_is_left, serving
from tests.engine.studies import Counting, begin
from tests.tiny_hosts import make_tiny_host
from tests.waiting import wait_until

POINTS = [HookPoint(0, "resid_post"), HookPoint(1, "resid_post")]
WATCH = [WatchedFeature(sae="sae-0", index=index, alias=f"feature_{index}") for index in range(4)]


class Forwards(Counting):
    """A forward of the host in each slice; keeps what flowed through the points."""

    def __init__(self, host: HostModel, slices: int) -> None:
        super().__init__(slices, self._forward)
        self._host = host
        self.found: list[dict[HookPoint, Tensor]] = []

    def _forward(self, number: int) -> None:
        ids = torch.tensor([LONG[number % 5 :]])
        self.found.append({p: rows.clone() for p, rows in self._host.activations(ids, None, POINTS).items()})


def test_forwards_between_steered_steps_are_plain_and_leave_the_steps_alone() -> None:
    host, plain = make_tiny_host(), make_tiny_host()
    requests = [
        greedy_request("steered", LONG, 30, edit("sae-0", 3, Add(2.0)), edit("sae-1", 5, Add(2.0))),
        greedy_request("plain", SHORT, 30),
    ]
    study = Forwards(host, slices=25)
    with serving(StepLog(), host=host, watch=WATCH, study_share=1.0) as engine:
        recorders = [submit(engine, request) for request in requests]
        recorders[0].wait_for_tokens(1)
        studied = begin(engine, study)
        for recorder in recorders:
            recorder.wait()
        studied.wait()

    for request, recorder in zip(requests, recorders, strict=True):
        assert recorder.token_ids == alone(make_tiny_host(), request)
    for number, found in enumerate(study.found):
        expected = plain.activations(torch.tensor([LONG[number % 5 :]]), None, POINTS)
        for point in POINTS:
            torch.testing.assert_close(found[point], expected[point], rtol=0, atol=0)


def test_a_study_may_compute_gradients() -> None:
    host = make_tiny_host()
    gradients: list[Tensor] = []

    def work(_: int) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            shift = torch.zeros(host.d_model, requires_grad=True)
            handle = host.attach(POINTS[0], lambda rows: rows + shift)
            host.logits(torch.tensor([SHORT]), None)[0, -1, 65].backward()
            handle.remove()
        assert shift.grad is not None
        gradients.append(shift.grad)

    with serving(host=host) as engine:
        begin(engine, Counting(2, work)).wait()
        request = greedy_request("request", SHORT, 3)
        recorder = submit(engine, request)
        recorder.wait()

    assert float(gradients[0].norm()) > 0
    assert torch.equal(gradients[0], gradients[1])
    assert recorder.token_ids == alone(make_tiny_host(), request)


def test_what_a_study_fails_with_is_its_own() -> None:
    log, host = StepLog(), make_tiny_host()

    def run_out(number: int) -> None:
        if number == 2:
            torch.empty(1 << 60)  # the allocator's own words

    with serving(log, host=host, study_share=1.0) as engine:
        request = greedy_request("request", LONG, 20)
        running = submit(engine, request)
        bad, good = begin(engine, Counting(9, run_out)), begin(engine, Counting(9))
        with pytest.raises(RuntimeError, match="allocate"):
            bad.wait()
        assert good.wait() == list(range(9))
        running.wait()
        assert running.token_ids == alone(make_tiny_host(), request)
        assert_nothing_is_left(engine, log)


def test_requests_go_on_while_a_study_does() -> None:
    with serving(study_share=0.5) as engine:
        endless = begin(engine, Counting(1 << 60))
        endless.wait_for_progress(1)
        submit(engine, greedy_request("request", SHORT, 10)).wait()
        assert engine.studies == 1

        engine.stop_study(endless.job, keep=True)
        done = endless.wait()
        assert done == list(range(len(endless.events) - 1))
        assert engine.studies == 0


def test_the_heartbeat_is_old_while_a_slice_hangs_and_fresh_when_nothing_is_to_do() -> None:
    hang, hangs = threading.Event(), threading.Event()

    def work(_: int) -> None:
        hangs.set()
        assert hang.wait(60)

    with serving() as engine:
        idle_since = time.monotonic()
        study = begin(engine, Counting(1, work))
        assert hangs.wait(60)
        beat = engine.heartbeat
        assert beat >= idle_since
        wait_until(lambda: time.monotonic() > beat)
        assert engine.heartbeat == beat
        hang.set()
        study.wait()
        assert engine.heartbeat > beat


def test_drain_has_studies_end_with_what_they_know() -> None:
    with serving() as engine:
        running = submit(engine, greedy_request("request", SHORT, 20))
        endless = begin(engine, Counting(1 << 60))
        endless.wait_for_progress(1)

        assert engine.drain(60)

        assert running.wait().generated_tokens == 20
        assert endless.wait() == list(range(len(endless.events) - 1))
        with pytest.raises(Unavailable, match="draining"):
            begin(engine, Counting(1))


def test_stop_fails_every_study() -> None:
    with serving(max_studies=2) as engine:
        studies = [begin(engine, Counting(1 << 60)) for _ in range(2)]
        with pytest.raises(Overloaded):
            begin(engine, Counting(1))
        studies[0].wait_for_progress(1)
        engine.stop()

        for study in studies:
            with pytest.raises(Unavailable) as failed:
                study.wait()
            assert failed.value.reason == "ENGINE_STOPPED"
        with pytest.raises(Unavailable, match="stopped"):
            begin(engine, Counting(1))
