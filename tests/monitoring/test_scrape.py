"""/metrics of a running server, as Prometheus reads it."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from email.message import Message
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import grpc
import pytest
import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_text
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)

from deploy.monitoring import Addresses, watchers
from steerd.app import App
from steerd.cli.server_process import free_ports
from steerd.config import (
    MAX_HOT_FEATURES,
    MAX_SAES,
    MAX_WATCHED_FEATURES,
    Config,
    MonitoringConfig,
    SaeConfig,
    WatchedFeature,
)
from steerd.host.host_model import HostModel
from steerd.monitoring.openmetrics_text import OpenMetricsText
from steerd.monitoring.series_budget import MAX_SERIES
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.pb.v1.feature_pb2 import FeatureRef
from steerd.server.edge_observer import Rpc
from steerd.steering.loaded_saes import LoadedSaes
from tests.debian_tools import complaints, debian_tool
from tests.server.running_server import RunningServer, tiny_config, tiny_parts
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae
from tests.waiting import wait_until

WATCHED = WatchedFeature(sae="late", index=3, alias="third", threshold=0.5, hot=True)
THIRD = FeatureRef(sae="late", index=3)
MORE_RPCS, SPARE_SERIES = 4, 40
MONITORED = ("steerd_monitored_tokens_total", frozenset({("sae", "late")}))


@pytest.fixture(scope="module")
def used_server() -> Iterator[RunningServer]:
    """A server that has answered one good and one bad request."""
    config = tiny_config(monitoring=MonitoringConfig(port=0, sample_every=1, watch=(WATCHED,)))
    with RunningServer(config, *tiny_parts()) as server:
        yield server


def test_a_generation_moves_the_counters(used_server: RunningServer) -> None:
    server = used_server
    before = server.samples()
    scale = steering.Intervention(feature=FeatureRef(sae="early", index=1), scale=steering.Scale(factor=2))

    generated = server.generate(
        pb.GenerateRequest(
            prompt="the cat sat",
            sampling=pb.SamplingParams(max_new_tokens=6),
            interventions=[scale],
            capture=pb.Capture(watch=[THIRD], include_prompt=True),
        )
    )

    rows = 11 + 5
    # The very first row counts in no feature number.
    wait_until(lambda: server.samples()[MONITORED] - before[MONITORED] == rows - 1)
    after = server.samples()

    def moved(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return after[key] - before[key]

    assert generated.completed.usage.generated_tokens == 6
    third = {"sae": "late", "feature": "3", "alias": "third"}
    assert len(generated.readings) == rows
    values = [reading.values[0] for reading in generated.readings if reading.position > 0]
    assert moved("steerd_feature_active_tokens_total", **third) == sum(value > 0 for value in values)
    assert moved("steerd_feature_threshold_exceeded_total", **third) == sum(value > 0.5 for value in values)
    assert moved("steerd_sae_active_features_count", sae="late") == rows - 1
    assert moved("steerd_request_feature_activation_max_count", **third) == 1
    # The tiny SAEs' statistics say (index + 1) / 4.
    assert moved("steerd_request_feature_activation_max_sum", **third) == pytest.approx(max(values))
    assert moved("steerd_steering_applied_tokens_total", sae="early", mode="scale") == rows
    assert moved("steerd_prompt_tokens_total", model="smollm2-135m-instruct") == 11
    assert moved("steerd_generation_tokens_total", model="smollm2-135m-instruct") == 6
    assert moved("steerd_time_to_first_token_seconds_count", model="smollm2-135m-instruct") == 1
    assert moved("steerd_stream_messages_sent_total") == len(generated.messages)


def test_a_bad_request_is_counted_and_the_books_balance(used_server: RunningServer) -> None:
    with pytest.raises(grpc.RpcError):
        used_server.generate(pb.GenerateRequest(prompt=""))

    started = used_server.total("grpc_server_started_total", grpc_method="Generate")
    handled = used_server.total("grpc_server_handled_total", grpc_method="Generate")
    outcomes = used_server.total("steerd_requests_total", rpc="Generate")
    assert used_server.total("steerd_requests_total", outcome="invalid") >= 1
    assert started == handled == outcomes


def test_no_request_id_and_no_creation_time_is_exported(used_server: RunningServer) -> None:
    used_server.generate(
        pb.GenerateRequest(
            request_id="tell-tale", prompt="secret", sampling=pb.SamplingParams(max_new_tokens=1)
        )
    )

    page = used_server.scrape()

    assert "tell-tale" not in page
    assert "secret" not in page
    assert "_created" not in page


def test_exemplars_name_requests_to_those_who_ask_for_them(used_server: RunningServer) -> None:
    used_server.generate(
        pb.GenerateRequest(
            request_id="tell-tale-too", prompt="the cat", sampling=pb.SamplingParams(max_new_tokens=2)
        )
    )

    samples = [
        (sample.name, sample.exemplar.labels)
        for family in openmetrics_families(used_server.scrape("application/openmetrics-text; version=1.0.0"))
        for sample in family.samples
        if sample.exemplar is not None
    ]

    named = {name for name, labels in samples if labels == {"request_id": "tell-tale-too"}}
    assert {"steerd_request_feature_activation_max_bucket", "steerd_request_duration_seconds_bucket"} <= named


PROMETHEUS_ACCEPTS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


def read(url: str, **headers: str) -> tuple[Message, bytes]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with urlopen(Request(url, headers=names), timeout=60) as reply:
        return reply.headers, reply.read()


def test_openmetrics_is_what_the_library_writes() -> None:
    registry = CollectorRegistry()
    odd = 'a "quoted"\\text\nin two lines with ü'
    counter = Counter("seen", odd, ("what", "other"), registry=registry)
    counter.labels(odd, "x").inc(3, {"request_id": odd})
    counter.labels("y", "").inc(1234567.5)
    histogram = Histogram("long", "Long.", ("what",), buckets=(0.5, 1e7), registry=registry)
    for value in (0.1, 2.0, math.inf, math.nan, 1e-9):
        histogram.labels("z").observe(value, {"request_id": "r"})
    Gauge("plain", "Plain.", registry=registry).set(-math.inf)
    Info("build", "Built.", registry=registry).info({"version": "1"})
    text = OpenMetricsText(registry)

    for _ in range(3):  # from the second time on most of it is kept
        assert text() == openmetrics_text(registry)
        counter.labels("y", "").inc()
        counter.labels("new", str(counter)).inc()


def test_a_running_server_writes_as_the_library_does(used_server: RunningServer) -> None:
    """What Prometheus asks for is what others get, packed or not."""
    url = f"http://127.0.0.1:{used_server.app.scrape_endpoint.port}/metrics"
    plain_headers, plain = read(url, Accept=PROMETHEUS_ACCEPTS)
    packed_headers, packed = read(url, Accept=PROMETHEUS_ACCEPTS, Accept_Encoding="gzip")
    _, filtered = read(f"{url}?name[]=steerd_queue_limit", Accept=PROMETHEUS_ACCEPTS)
    older, _ = read(url, Accept="text/plain;version=0.0.4")

    def series(text: bytes) -> list[str]:
        found = openmetrics_families(text.decode())
        return [str((sample.name, sample.labels)) for family in found for sample in family.samples]

    assert plain_headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert packed_headers["Content-Encoding"] == "gzip"
    assert series(gzip.decompress(packed)) == series(plain)
    assert len(series(filtered)) == 1
    assert older["Content-Type"].startswith("text/plain")


def largest_config() -> Config:
    watch = tuple(
        WatchedFeature(
            sae=f"sae{number % MAX_SAES}",
            index=number // MAX_SAES,
            alias=f"f{number}",
            hot=number < MAX_HOT_FEATURES,
        )
        for number in range(MAX_WATCHED_FEATURES)
    )
    return tiny_config(
        saes=tuple(SaeConfig(name=f"sae{n}", path="in memory") for n in range(MAX_SAES)),
        monitoring=MonitoringConfig(port=0, sample_every=1, watch=watch),
    )


def eight_saes() -> tuple[HostModel, LoadedSaes]:
    host = make_tiny_host("llama")
    saes = LoadedSaes(host)
    for number in range(MAX_SAES):
        bundle = tiny_sae(host, f"blocks.{number % 3}.hook_resid_post", seed=number)
        # The tiny SAEs' second feature is dead, and so cannot be hot.
        alive = torch.full((bundle.sae.d_sae,), 2.0)
        saes.add(f"sae{number}", replace(bundle, statistics=replace(bundle.statistics, max_activation=alive)))
    return host, saes


def test_the_largest_configuration_keeps_to_the_budget() -> None:
    with RunningServer(largest_config(), *eight_saes()) as server:
        server.generate(pb.GenerateRequest(prompt="the cat", sampling=pb.SamplingParams(max_new_tokens=2)))
        with pytest.raises(grpc.RpcError):
            server.channel.unary_unary("/steerd.v1.Nothing/Here")(b"")
        idle = len(server.samples())
        serve_more(server, rpcs=MORE_RPCS)
        end_every_rpc_in_every_way(server)
        used = len(server.samples())

    assert idle < used <= MAX_SERIES - SPARE_SERIES


def serve_more(server: RunningServer, rpcs: int) -> None:
    metrics = server.app.instruments.metrics
    for number in range(rpcs):
        metrics.rpc_served(Rpc("server_stream", "steerd.v1.MoreService", f"Method{number}"))


def end_every_rpc_in_every_way(server: RunningServer) -> None:
    for name, labels in server.samples():
        if name == "grpc_server_started_total":
            names = dict(labels)
            rpc = Rpc(names["grpc_type"], names["grpc_service"], names["grpc_method"])
            for code in grpc.StatusCode:
                server.app.instruments.metrics.rpc_finished(
                    rpc, code=code.name, outcome="error", seconds=0.1, request_id=""
                )


def test_the_process_and_the_build_are_told(used_server: RunningServer) -> None:
    names = {name for name, _ in used_server.samples()}

    assert {
        "process_resident_memory_bytes",
        "python_gc_objects_collected_total",
        "steerd_build_info",
    } <= names


def test_the_live_page_lies_beside_the_metrics(used_server: RunningServer) -> None:
    url = f"http://127.0.0.1:{used_server.app.scrape_endpoint.port}"

    def told() -> Any:
        with urlopen(f"{url}/live.json", timeout=60) as reply:
            return json.load(reply)

    with urlopen(f"{url}/", timeout=60) as page:
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    # The first sample may be older than the watch list.
    wait_until(lambda: told()["features"] == [["late", "3", "third"]])
    assert told()["server"]["max_running"] == used_server.config.engine.max_running_requests
    assert "outcomes" in told()["samples"][0]


def test_the_live_page_can_be_left_out() -> None:
    async def front_page() -> str:
        app = App(tiny_config(monitoring=MonitoringConfig(port=0, page=False)))
        try:
            url = f"http://127.0.0.1:{app.scrape_endpoint.port}/"
            return await asyncio.to_thread(lambda: urlopen(url, timeout=60).read().decode())
        finally:
            await app.stop()

    assert asyncio.run(front_page()).startswith("# HELP")


def test_promtool_finds_nothing_to_complain_about(used_server: RunningServer) -> None:
    assert complaints(debian_tool("promtool"), "check", "metrics", text=used_server.scrape()) == ""


def test_prometheus_scrapes_and_answers(used_server: RunningServer) -> None:
    debian_tool("prometheus")
    ports = (used_server.app.scrape_endpoint.port, *free_ports(2))
    addresses = Addresses(*(f"127.0.0.1:{port}" for port in ports))

    with watchers(addresses, hurry=15):
        wait_until(lambda: query(addresses, 'up{job="steerd"}') == [1.0])
        assert query(addresses, "steerd_build_info") == [1.0]
        assert query(addresses, 'steerd_feature_active_tokens_total{alias="third"}') != []


def query(addresses: Addresses, expression: str) -> list[float]:
    """The values of an instant query."""
    url = f"http://{addresses.prometheus}/api/v1/query?query={quote(expression)}"
    with urlopen(url, timeout=10) as reply:
        return [float(series["value"][1]) for series in json.load(reply)["data"]["result"]]
