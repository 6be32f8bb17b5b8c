"""What the measurement of monitoring asks of the server and of /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from benchmarks.monitoring_overhead import plain_calls, reading_calls, watch_list
from benchmarks.scrapes import scrape, scraping
from steerd.config import MAX_HOT_FEATURES, MAX_WATCHED_FEATURES, MonitoringConfig
from steerd.monitoring.scrape_endpoint import ScrapeEndpoint
from steerd.sae.sae_file import load_sae
from steerd.starters import sae_folder
from tests.waiting import wait_until


def test_scrapes_are_made_until_the_block_ends() -> None:
    registry = CollectorRegistry()
    counter = Counter("seen", "What is seen.", ("number",), registry=registry)
    for number in range(300):
        counter.labels(str(number))
    endpoint = ScrapeEndpoint(MonitoringConfig(port=0), registry)
    address = f"127.0.0.1:{endpoint.port}"
    try:
        with scraping(address, 0.01) as scrapes:
            wait_until(lambda: len(scrapes) >= 3)
        made = len(scrapes)
        again = scrape(address)
    finally:
        endpoint.stop()

    assert {found.series for found in scrapes} == {again.series} == {300}
    assert len(scrapes) == made
    assert all(found.seconds > 0 for found in scrapes)
    assert again.size > 300 * len('seen_total{number="1"} 0.0')


def test_a_tenth_of_the_same_calls_reads_along() -> None:
    plain, reading = plain_calls(3, 32), reading_calls(3, 32)

    assert [call.token_ids for call in plain] == [call.token_ids for call in reading]
    assert [place for place, call in enumerate(reading) if call.top_features] == [0, 10, 20, 30]
    assert plain_calls(4, 1) != plain[:1]


def test_the_watch_list_is_the_largest_there_may_be() -> None:
    watch = watch_list()

    assert len({watched.feature for watched in watch}) == MAX_WATCHED_FEATURES
    assert sum(watched.hot for watched in watch) == MAX_HOT_FEATURES
    for watched in watch[:: len(watch) // 5]:
        statistics = load_sae(sae_folder(watched.feature.sae)).statistics
        assert statistics is not None
        assert 0 < watched.threshold == float(statistics.max_activation[watched.feature.index]) / 2
