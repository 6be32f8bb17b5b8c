"""The shipped scrape config, in a real Prometheus, against a real server."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steerd.cli.server_process import free_ports
from steerd.pb.v1 import generation_service_pb2 as pb
from tests.server.running_server import RunningServer, tiny_config, tiny_parts

ROOT = Path(__file__).parent.parent.parent
DEADLINE_SECONDS = 120.0

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Debian's prometheus is not on PATH; .ci/run fetches it"
)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(tiny_config(), *tiny_parts()) as running:
        running.generate(pb.GenerateRequest(prompt="Hello", sampling=pb.SamplingParams(max_new_tokens=4)))
        yield running


@pytest.fixture(scope="module")
def query(
    server: RunningServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], float]]:
    """Asks a Prometheus that scrapes the server each second: the value of an expression once it has one."""
    folder = tmp_path_factory.mktemp("prometheus")
    shipped = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
    metrics_port = server.app.scrape_endpoint.port
    config = shipped.replace("127.0.0.1:9464", f"127.0.0.1:{metrics_port}").replace("15s", "1s")
    (folder / "prometheus.yml").write_text(config)
    (port,) = free_ports(1)
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield lambda expression: value_of(expression, f"http://127.0.0.1:{port}")
        finally:
            process.terminate()


def value_of(expression: str, prometheus: str) -> float:
    """Asks again and again, as Prometheus has no way to say that it has scraped."""
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    pause = threading.Event()
    give_up = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < give_up:
        try:
            with urllib.request.urlopen(url, timeout=10.0) as reply:
                result = json.load(reply)["data"]["result"]
        except urllib.error.URLError:
            result = []  # not listening yet, or not ready
        if result:
            return float(result[0]["value"][1])
        pause.wait(0.2)
    raise AssertionError(f"{expression} has no value after {DEADLINE_SECONDS:.0f} s")


def test_the_target_is_up_and_within_its_limits(query: Callable[[str], float]) -> None:
    assert query("up") == 1
    assert query("scrape_samples_post_metric_relabeling") < 5000


def test_what_the_server_did_can_be_queried(query: Callable[[str], float]) -> None:
    assert query('sum(steerd_requests_total{outcome="ok"})') == 1
    assert query("sum(steerd_generation_tokens_total)") == 4
    assert query("count(steerd_sae_active_features_count)") == 2
