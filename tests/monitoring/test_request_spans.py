"""The spans of requests: what a collector is sent, and what becomes of requests when it takes nothing."""

from __future__ import annotations

import ast
import re
import sys
import threading
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from steerd.app import App
from steerd.config import MonitoringConfig, WatchedFeature
from steerd.config_file import parse_config
from steerd.engine.events import FailedEvent, FinishedEvent, Timings
from steerd.engine.request import FinishReason, GenerationRequest, SamplingParams
from steerd.errors import ConfigError, Overloaded
from steerd.monitoring.request_spans import RequestSpans, otlp_exporter
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.pb.v1.feature_pb2 import FeatureRef
from tests.monitoring.otlp_collector import OtlpCollector, values
from tests.server.running_server import RunningServer, tiny_config, tiny_parts
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_SECONDS = 60.0
TRACE_ID, CALLER_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CALLED = f"00-{TRACE_ID}-{CALLER_ID}-01"
WATCH = (WatchedFeature(sae="late", index=3, alias="third", threshold=0.5),)
HALT = """
    [[policies]]
    name = "halt"
    version = "1"
    [[policies.triggers]]
    name = "far"
    flag = {}
    when = { any_of = [{ all_of = [{ feature = { sae = "late", index = 3 }, above = -1.0 }] }] }
"""


def serving(endpoint: str, **sections: Any) -> RunningServer:
    section = MonitoringConfig(
        port=0, sample_every=1, watch=WATCH, request_log="off", traces_endpoint=endpoint
    )
    return RunningServer(tiny_config(monitoring=section, **sections), *tiny_parts())


def asked(prompt: str = "the cat", **fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(prompt=prompt, sampling=pb.SamplingParams(max_new_tokens=3), **fields)


def by_name(spans: Sequence[Span]) -> dict[str, Span]:
    found = {span.name: span for span in spans}
    assert len(found) == len(spans)
    return found


def seconds(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def test_a_collector_gets_a_request_and_its_phases_under_the_caller(tmp_path: Path) -> None:
    scale = steering.Intervention(feature=FeatureRef(sae="early", index=1), scale=steering.Scale(factor=2))
    sampling = pb.SamplingParams(
        max_new_tokens=6, temperature=0.5, top_p=0.75, seed=7, stop=["tell-tale stop"]
    )
    message = pb.GenerateRequest(
        request_id="one", prompt="tell-tale prompt", sampling=sampling, interventions=[scale]
    )
    policies = parse_config(tomllib.loads(HALT), folder=tmp_path).policies
    began = time.time_ns()

    with OtlpCollector() as collector:
        with serving(collector.endpoint, policies=policies) as server:
            call = server.generation.Generate(message, metadata=(("traceparent", CALLED),))
            messages = list(call)
            completed = messages[-1].completed
            plan_hash = completed.receipt.plan_hash
            model = server.config.model.name
        sent = b"".join(request.SerializeToString() for request in collector.requests)

    assert b"tell-tale" not in sent
    spans = by_name(collector.spans)
    whole = spans.pop(f"text_completion {model}")
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE_ID, CALLER_ID)
    assert whole.kind == Span.SPAN_KIND_SERVER
    assert list(spans) == ["queue", "prefill", "decode"]
    assert {span.parent_span_id for span in spans.values()} == {whole.span_id}
    assert {span.trace_id for span in spans.values()} == {whole.trace_id}
    bounds = [(span.start_time_unix_nano, span.end_time_unix_nano) for span in spans.values()]
    assert [whole.start_time_unix_nano, *(end for _, end in bounds)] == [
        *(start for start, _ in bounds),
        whole.end_time_unix_nano,
    ]
    assert began < whole.start_time_unix_nano < whole.end_time_unix_nano < time.time_ns()
    timings = completed.timings
    for span, told in zip(
        spans.values(),
        (timings.queue_seconds, timings.prefill_seconds, timings.decode_seconds),
        strict=True,
    ):
        assert seconds(span) == pytest.approx(told, abs=1e-6)
    found = values(whole.attributes)
    assert found["gen_ai.operation.name"] == "text_completion"
    assert found["gen_ai.provider.name"] == "steerd"
    assert found["gen_ai.request.model"] == found["gen_ai.response.model"] == model
    assert found["gen_ai.request.max_tokens"] == 6
    assert (found["gen_ai.request.temperature"], found["gen_ai.request.top_p"]) == (0.5, 0.75)
    assert found["gen_ai.request.seed"] == 7
    assert found["gen_ai.usage.input_tokens"] == completed.usage.prompt_tokens
    assert found["gen_ai.usage.output_tokens"] == completed.usage.generated_tokens
    assert found["gen_ai.response.finish_reasons"] == ["length"]
    assert found["gen_ai.response.time_to_first_chunk"] == pytest.approx(
        timings.queue_seconds + timings.prefill_seconds
    )
    assert found["steerd.request_id"] == "one"
    assert found["steerd.plan_hash"] == plan_hash
    assert found["steerd.interventions"] == ["scale early:1"]
    assert found["steerd.interventions.rows_changed"] == [completed.receipt.interventions[0].rows_changed]
    assert found["steerd.policies"] == ["halt@1"]
    assert found["steerd.triggers.fired"] == ["far"]
    assert found["steerd.triggers.times"] == [sum(len(message.delta.fired) for message in messages)]
    assert found["steerd.features.over_threshold"] in ([], ["third"])
    assert collector.resource["service.name"] == "steerd"


def test_each_continuation_is_scored_in_a_span_of_its_own() -> None:
    with OtlpCollector() as collector, serving(collector.endpoint) as server:
        texts = [pb.Continuation(text="sat"), pb.Continuation(text="ran")]
        message = pb.ScoreRequest(request_id="both", prompt="the cat", continuations=texts)
        server.generation.Score(message, metadata=(("traceparent", CALLED),))

    scored = [span for span in collector.spans if span.parent_span_id.hex() == CALLER_ID]
    found = [values(span.attributes) for span in scored]
    assert {each["steerd.request_id"] for each in found} == {"both.0", "both.1"}
    assert all(each["gen_ai.operation.name"] == "score" for each in found)
    assert all(each["gen_ai.response.finish_reasons"] == ["scored"] for each in found)


def test_without_a_caller_a_span_begins_a_trace_and_an_unsampled_one_has_none() -> None:
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hello")])
    with OtlpCollector() as collector, serving(collector.endpoint) as server:
        list(server.generation.Generate(pb.GenerateRequest(chat=chat, sampling=asked().sampling)))
        list(
            server.generation.Generate(asked(), metadata=(("traceparent", f"00-{TRACE_ID}-{CALLER_ID}-00"),))
        )
        list(server.generation.Generate(asked(), metadata=(("traceparent", "00-nonsense"),)))

    roots = [span for span in collector.spans if not span.parent_span_id]
    operations = [values(span.attributes)["gen_ai.operation.name"] for span in roots]
    assert operations == ["chat", "text_completion"]
    assert TRACE_ID not in {span.trace_id.hex() for span in collector.spans}


def test_a_collector_that_refuses_is_counted_and_nobody_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")  # milliseconds

    with OtlpCollector(refuses=True) as collector, serving(collector.endpoint) as server:
        assert server.total("steerd_monitor_failures_total", part="traces") == 0
        generated = server.generate(asked())
        wait_until(lambda: server.total("steerd_monitor_failures_total", part="traces") > 0)
        again = server.generate(asked())

    assert generated.completed.usage.generated_tokens == again.completed.usage.generated_tokens == 3


class Stuck(SpanExporter):
    """Takes nothing until it may go on."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        assert self.may_go_on.wait(TIMEOUT_SECONDS)
        self.taken += len(spans)
        return SpanExportResult.SUCCESS


SAMPLING = SamplingParams(max_new_tokens=4, temperature=0.0, top_p=1.0, top_k=0, seed=0)


def request(traceparent: str | None = "") -> GenerationRequest:
    return GenerationRequest(id="r", prompt_ids=(1, 2), sampling=SAMPLING, traceparent=traceparent)


def finished(queue: float = 0.5, prefill: float = 0.25, decode: float = 0.125) -> FinishedEvent:
    return FinishedEvent(FinishReason.CANCELLED, 2, 1, Timings(queue, prefill, decode), ())


class Told:
    """Spans over an exporter, and how often they told of failures and losses."""

    def __init__(self, exporter: SpanExporter) -> None:
        self.failed: list[None] = []
        self.lost: list[None] = []
        self.spans = RequestSpans(
            exporter,
            model="m",
            version="1",
            failed=lambda: self.failed.append(None),
            lost=lambda: self.lost.append(None),
        )


def test_what_finds_no_room_is_lost_and_told() -> None:
    stuck = Stuck()
    told = Told(stuck)

    for _ in range(1000):  # four spans each; of 2048 there is room
        told.spans.request_finished(request(), finished(), None)
    stuck.may_go_on.set()
    told.spans.stop()

    assert len(told.lost) == 1000 - 2048 // 4
    assert stuck.taken == 2048
    assert not told.failed


def test_a_failure_is_an_error_and_has_no_text() -> None:
    kept = InMemorySpanExporter()
    told = Told(kept)
    event = FailedEvent(Overloaded("tell-tale", reason="NO_MEMORY"), seconds=2.0)

    told.spans.request_finished(request(), event, None)
    told.spans.request_finished(request(), FailedEvent(RuntimeError("tell-tale")), None)
    told.spans.stop()

    known, unknown = kept.get_finished_spans()
    assert "tell-tale" not in known.to_json() + unknown.to_json()
    assert known.attributes is not None
    assert unknown.attributes is not None
    assert (known.attributes["error.type"], unknown.attributes["error.type"]) == ("NO_MEMORY", "INTERNAL")
    assert known.status.status_code is unknown.status.status_code is StatusCode.ERROR
    assert known.start_time is not None
    assert known.end_time is not None
    assert known.end_time - known.start_time == 2_000_000_000
    assert known.end_time == pytest.approx(event.ended * 1e9, abs=1000)


def test_a_phase_that_never_came_has_no_span() -> None:
    kept = InMemorySpanExporter()
    told = Told(kept)

    told.spans.request_finished(request(), finished(prefill=0.0, decode=0.0), None)
    told.spans.stop()

    assert [span.name for span in kept.get_finished_spans()] == ["queue", "text_completion m"]


def test_what_the_server_asks_of_itself_has_no_span() -> None:
    kept = InMemorySpanExporter()
    told = Told(kept)

    told.spans.request_finished(request(traceparent=None), finished(), None)
    told.spans.stop()

    assert not kept.get_finished_spans()


def test_an_exporter_that_raises_is_counted() -> None:
    class Broken(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            raise ArithmeticError(len(spans))

    told = Told(Broken())

    told.spans.request_finished(request(), finished(), None)
    told.spans.stop()

    assert len(told.failed) == 1


def test_a_collector_that_is_not_there_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0.5")
    with OtlpCollector() as gone:
        told = Told(otlp_exporter(gone.endpoint))

    told.spans.request_finished(request(), finished(), None)
    told.spans.stop()

    assert len(told.failed) == 1


def test_the_missing_extra_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "steerd.monitoring.request_spans", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    section = MonitoringConfig(port=0, request_log="off", traces_endpoint="http://127.0.0.1:4317")

    with pytest.raises(ConfigError, match=re.escape("pip install 'steerd[otel]'")):
        App(tiny_config(monitoring=section))


@pytest.mark.parametrize(
    "endpoint", ["localhost:4317", "grpc://localhost:4317", "http://", "http://a/v1/traces"]
)
def test_an_endpoint_is_an_address(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape("monitoring.traces_endpoint must be")):
        tiny_config(monitoring=MonitoringConfig(traces_endpoint=endpoint))


def test_nothing_imports_opentelemetry_until_it_is_wanted() -> None:
    lazy = {"steerd/monitoring/request_spans.py"}
    for path in (ROOT / "steerd").rglob("*.py"):
        imports = [
            node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        text = " ".join(ast.unparse(node) for node in imports)
        if str(path.relative_to(ROOT)) not in lazy:
            assert "opentelemetry" not in text, path
            assert "request_spans" not in text, path
