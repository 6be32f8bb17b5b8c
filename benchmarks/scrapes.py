"""Scrapes of a server's /metrics as Prometheus makes them, at an interval, on a thread of their own."""

from __future__ import annotations

import gzip
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_HEADERS = {
    "Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
    "Accept-Encoding": "gzip",
}
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Scrape:
    """One scrape: how long it took, how many series it gave, in how many bytes once unpacked."""

    seconds: float
    series: int
    size: int


def scrape(address: str) -> Scrape:
    """Scrape HOST:PORT once; the time is until the last byte has come."""
    request = urllib.request.Request(f"http://{address}/metrics", headers=_HEADERS)
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as reply:
        packed = reply.read()
        seconds = time.perf_counter() - started
        is_packed = reply.headers["Content-Encoding"] == "gzip"
    page = gzip.decompress(packed) if is_packed else packed
    series = sum(not line.startswith(b"#") for line in page.splitlines())
    return Scrape(seconds, series, len(page))


@contextmanager
def scraping(address: str, interval_seconds: float) -> Iterator[list[Scrape]]:
    """A list of the scrapes so far, which are made from now until the block ends."""
    scrapes: list[Scrape] = []
    ended = threading.Event()

    def run() -> None:
        due = time.monotonic()
        while not ended.wait(max(due - time.monotonic(), 0)):
            scrapes.append(scrape(address))
            due += interval_seconds

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield scrapes
    finally:
        ended.set()
        thread.join()
