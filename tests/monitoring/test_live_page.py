"""The live page: what it is told, under which policy, and that it shows it in a real browser."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from steerd.config import MonitoringConfig
from steerd.engine.request import GenerationRequest, SamplingParams
from steerd.monitoring.last_request import LastRequest
from steerd.monitoring.live_page import LivePage, content_security_policy
from steerd.monitoring.recent_samples import KEPT_SECONDS, SAMPLE_SECONDS, RecentSamples
from steerd.monitoring.scrape_endpoint import ScrapeEndpoint
from steerd.monitoring.top_features import FeatureFacts, TopFeatures
from steerd.sae.feature_label import FeatureLabel, LabelScore
from tests.monitoring.test_metrics import finished
from tests.monitoring.test_top_features import report
from tests.monitoring.test_watched_metrics import feature, step, watch_list
from tests.waiting import wait_until

SERVER: dict[str, str | int] = {
    "model": "tiny <i>host</i>",
    "version": "9",
    "max_running": 4,
    "max_waiting": 8,
}


class Traffic:
    """A registry with the series that the page reads, moved by hand."""

    def __init__(self, features: int = 2) -> None:
        self.registry = CollectorRegistry()
        self.running = self._gauge("running")
        self.waiting = self._gauge("waiting")
        self.generated = self._counter("steerd_generation_tokens_total", ("model",)).labels("m")
        self.prompt = self._counter("steerd_prompt_tokens_total", ("model",)).labels("m")
        self.requests = self._counter("steerd_requests_total", ("model", "rpc", "outcome"))
        self.monitored = self._counter("steerd_monitored_tokens_total", ("sae",)).labels("mid")
        labels = ("sae", "feature", "alias")
        self.all_active = self._counter("steerd_feature_active_tokens_total", labels)
        self.all_over = self._counter("steerd_feature_threshold_exceeded_total", labels)
        names = [("mid", str(10 + i), f"feature_{i}") for i in range(features)]
        self.active = [self.all_active.labels(*name) for name in names]
        self.over = [self.all_over.labels(*name) for name in names]

    def _gauge(self, name: str) -> Gauge:
        return Gauge(f"steerd_requests_{name}", name, ("model",), registry=self.registry).labels("m")

    def _counter(self, name: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, name, labels, registry=self.registry)


def history(page: LivePage, query: str = "") -> dict[str, Any]:
    answer = page.answer("/live.json", query)
    assert answer is not None
    found: dict[str, Any] = json.loads(answer[1])
    return found


def test_a_sample_has_the_counts_of_its_moment() -> None:
    traffic, numbers = Traffic(), random.Random()
    counted = {name: numbers.randrange(1000) for name in ("generated", "prompt", "monitored")}
    for name, count in counted.items():
        getattr(traffic, name).inc(count)
    traffic.running.set(3)
    traffic.waiting.set(2)
    traffic.requests.labels("m", "Generate", "ok").inc(5)
    traffic.requests.labels("m", "Score", "ok").inc(2)
    traffic.requests.labels("m", "Score", "error").inc(1)
    traffic.requests.labels("m", "GetServerInfo", "ok").inc(100)  # runs no model
    traffic.active[1].inc(7)
    traffic.over[1].inc(4)
    samples = RecentSamples(traffic.registry)

    samples.take()
    traffic.generated.inc()
    samples.take()

    first, second = samples.after(0)
    assert (first.running, first.waiting) == (3, 2)
    assert first.generated_tokens == counted["generated"] == second.generated_tokens - 1
    assert first.prompt_tokens == counted["prompt"]
    assert first.monitored == {"mid": counted["monitored"]}
    assert first.outcomes == {"ok": 7, "error": 1}
    assert first.active == {("mid", "10", "feature_0"): 0, ("mid", "11", "feature_1"): 7}
    assert first.over == {("mid", "10", "feature_0"): 0, ("mid", "11", "feature_1"): 4}
    assert samples.after(first.number) == [second]


def test_only_the_last_minutes_are_kept() -> None:
    samples = RecentSamples(Traffic().registry)
    room = round(KEPT_SECONDS / SAMPLE_SECONDS) + 1

    for _ in range(room + 10):
        samples.take()

    assert [sample.number for sample in samples.after(0)] == list(range(11, room + 11))


def test_the_page_is_sent_only_what_it_does_not_have() -> None:
    traffic = Traffic()
    page = LivePage(traffic.registry, TopFeatures(), server=SERVER)
    endpoint = ScrapeEndpoint(MonitoringConfig(port=0), traffic.registry, page)
    try:
        wait_until(lambda: len(history(page)["samples"]) >= 2)
        all_of_it = history(page)
        rest = history(page, f"after={all_of_it['samples'][0]['number']}")
    finally:
        endpoint.stop()

    assert all_of_it["server"]["model"] == SERVER["model"]
    assert all_of_it["features"] == [["mid", "10", "feature_0"], ["mid", "11", "feature_1"]]
    assert rest["samples"][: len(all_of_it["samples"]) - 1] == all_of_it["samples"][1:]
    assert history(page, "after=999999")["samples"] == []


@pytest.mark.parametrize(
    "query", ["after=", "after=x", "after=-1", "after=1e9", "other=3", "after=" + "9" * 400, "%"]
)
def test_a_query_that_makes_no_sense_is_answered_with_everything(query: str) -> None:
    page = LivePage(Traffic().registry, TopFeatures(), server=SERVER)

    assert history(page, query) == history(page)


def test_a_list_of_features_may_change_between_samples() -> None:
    traffic = Traffic()
    page = LivePage(traffic.registry, TopFeatures(), server=SERVER)
    page.samples.take()
    for counter in (traffic.all_active, traffic.all_over):
        counter.remove("mid", "10", "feature_0")
        counter.labels("mid", "12", "another").inc(3)
    page.samples.take()

    found = history(page)

    assert found["features"] == [["mid", "11", "feature_1"], ["mid", "12", "another"]]
    assert [sample["over"] for sample in found["samples"]] == [[0, None], [0, 3]]


@pytest.fixture
def served() -> Iterator[tuple[str, Traffic, LivePage]]:
    traffic = Traffic()
    page = LivePage(traffic.registry, TopFeatures(), server=SERVER)
    endpoint = ScrapeEndpoint(MonitoringConfig(port=0), traffic.registry, page)
    wait_until(lambda: history(page)["samples"] != [])  # all else counts from the first on
    yield f"http://127.0.0.1:{endpoint.port}", traffic, page
    endpoint.stop()


def get(url: str) -> tuple[Message, str]:
    with urllib.request.urlopen(url, timeout=60) as reply:
        return reply.headers, reply.read().decode()


def test_the_metrics_are_where_they_were(served: tuple[str, Traffic, LivePage]) -> None:
    url, *_ = served

    headers, page = get(f"{url}/metrics")

    assert headers["Content-Type"].startswith("text/plain")
    assert "steerd_requests_total" in page
    assert get(f"{url}/elsewhere")[1] == page


def test_the_page_may_load_and_run_nothing_but_itself(served: tuple[str, Traffic, LivePage]) -> None:
    url, *_ = served

    headers, page = get(f"{url}/")

    policy = headers["Content-Security-Policy"]
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert policy == content_security_policy(page)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    outside = set(re.findall(r"https?://[^\"'\s]+", page))
    assert outside == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert re.findall(r"(?:src|href)=|\bon\w+=|style=|innerHTML|\beval\b", page) == []


def test_another_script_has_another_hash() -> None:
    page = "<style>a</style><script>b</script>"

    assert content_security_policy(page) != content_security_policy(page.replace("b", "c"))


def test_without_the_page_everything_is_metrics() -> None:
    endpoint = ScrapeEndpoint(MonitoringConfig(port=0), Traffic().registry)
    try:
        pages = {
            get(f"http://127.0.0.1:{endpoint.port}{path}")[1] for path in ("/", "/live.json", "/metrics")
        }
    finally:
        endpoint.stop()

    assert len(pages) == 1
    assert "steerd_requests_total" in pages.pop()


def test_a_browser_shows_what_the_server_counts(served: tuple[str, Traffic, LivePage]) -> None:
    url, traffic, page = served
    for _ in range(3):
        traffic.requests.labels("m", "Generate", "ok").inc(8)
        traffic.requests.labels("m", "Generate", "rejected").inc(2)
        traffic.generated.inc(40)
        traffic.monitored.inc(100)
        traffic.active[0].inc(50)
        traffic.over[0].inc(1)
        traffic.active[1].inc(30)
        traffic.over[1].inc(10)
        page.samples.take()
    traffic.running.set(3)
    page.samples.take()

    shown = browse(f"{url}/")

    rows = re.findall(r'<tr><th scope="row">(\w+) .*?</tr>', shown)
    assert rows == ["feature_1", "feature_0"]  # the hottest first
    assert "10 %" in shown
    assert "1.0 %" in shown
    assert '<div class="value">20 %</div>' in shown  # bad calls
    assert '<div class="value">3</div><div class="note">of 4 · 0 of 8 waiting' in shown
    assert 'aria-label="24 ok, 0 cancelled, 0 invalid, 6 rejected, 0 timeout, 0 error"' in shown
    assert len(re.findall(r'<path class="trend hot" d="M', shown)) == 2
    assert "tiny &lt;i&gt;host&lt;/i&gt;" in shown  # as text
    assert 'class="live"' in shown


def test_a_browser_shows_the_top_features_when_there_are_some(served: tuple[str, Traffic, LivePage]) -> None:
    url, _, page = served
    label = "<b>rain</b> & wind"
    labels = [FeatureLabel(label, (LabelScore("tokens", 0.625, 9),)), FeatureLabel("unmoved")]
    page.top.know("mid", FeatureFacts(labels, np.array([2.0, 2.0]), np.array([0.1, 0.9])))
    assert '<section id="top" hidden="">' in browse(f"{url}/")

    page.top.step_finished(report(np.array([[1.0, 1.0], [0.0, 1.0]]), sae="mid"))
    shown = browse(f"{url}/")

    assert '<section id="top">' in shown
    assert "&lt;b&gt;rain&lt;/b&gt; &amp; wind" in shown
    assert "(tested: 0.63, fails)" in shown
    assert "0.63 · 0" in shown
    assert "50 % of tokens · 2.5\N{MULTIPLICATION SIGN}" in shown
    assert "unmoved" not in shown


def test_a_browser_shades_the_last_requests_tokens_where_text_may_be_shown() -> None:
    watch = watch_list(feature(3, alias="rain"), feature(9, alias="sun"))
    words = ["It", " <b>rains</b>", "\n", "!"]
    last = LastRequest()
    last.read_tokens(lambda ids: [words[token_id] for token_id in ids])
    acts = {"<i>mine</i>": [[0.0, 0.0], [3.0, 1.0], [0.0, 2.0]]}
    last.step_finished(step(watch, acts, first_positions=[0], new_tokens={"<i>mine</i>": 3}))
    sampling = SamplingParams(max_new_tokens=1, temperature=0.0, top_p=1.0, top_k=0, seed=0)
    request = GenerationRequest(id="<i>mine</i>", prompt_ids=(0, 1, 2), sampling=sampling)
    last.request_finished(request, finished(), None)
    registry = Traffic().registry
    page = LivePage(registry, TopFeatures(), last, server=SERVER)
    endpoint = ScrapeEndpoint(MonitoringConfig(port=0), registry, page)
    try:
        shown = browse(f"http://127.0.0.1:{endpoint.port}/")
    finally:
        endpoint.stop()

    assert '<section id="last">' in shown
    tokens = re.findall(r'<span class="token"(.*?)>(.*?)</span>', shown, re.DOTALL)
    assert [text for _, text in tokens] == ["It", " &lt;b&gt;rains&lt;/b&gt;", "↵\n", "!"]
    styles = [re.findall(r"--shade: ([\d.]+)|title=\"([^\"]*)\"", attributes) for attributes, _ in tokens]
    assert styles[0] == styles[3] == []
    assert dict(styles[1]).keys() == {"0.75", ""}
    assert "rain a:3: 3.0, 75 % of its maximum" in shown
    assert "sun a:9: 2.0, 50 % of its maximum" in shown
    assert '<option value="1">sun a:9</option>' in shown
    assert "Generate &lt;i&gt;mine&lt;/i&gt; · 3 + 1 tokens, length" in shown


def test_a_browser_shows_no_tokens_otherwise(served: tuple[str, Traffic, LivePage]) -> None:
    assert '<section id="last" hidden="">' in browse(f"{served[0]}/")


def browse(url: str) -> str:
    """The document as a headless Chromium has it after a moment."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium on PATH")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            chromium,
            "--headless",
            "--no-sandbox",  # does not work as root, and the page is our own
            "--disable-gpu",
            f"--user-data-dir={Path(profile)}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            url,
        ]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return ended.stdout
