"""A server whose host and SAEs are the planted ones."""

from __future__ import annotations

from steerd.config import SaeConfig
from tests.planted_host import EARLY, LATE, make_planted_host, planted_saes
from tests.server.running_server import RunningServer, tiny_config


def planted_server() -> RunningServer:
    """Not started yet."""
    host = make_planted_host()
    config = tiny_config(saes=tuple(SaeConfig(name=name, path="in memory") for name in (EARLY, LATE)))
    return RunningServer(config, host, planted_saes(host))
