"""The server that most tests of the edge share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from steerd.config import MonitoringConfig, WatchedFeature
from tests.server.running_server import RunningServer, tiny_config, tiny_parts

WATCHED = WatchedFeature(sae="late", index=3, alias="third", threshold=0.5)


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """A server with room for everybody; tests must leave nothing running in it."""
    config = tiny_config(monitoring=MonitoringConfig(port=0, sample_every=1, watch=(WATCHED,)))
    with RunningServer(config, *tiny_parts()) as running:
        yield running
