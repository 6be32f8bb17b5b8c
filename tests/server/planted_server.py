"""A server whose host and SAEs are the planted ones."""

from __future__ import annotations

from typing import Any

from steerd.config import SaeConfig
from tests.planted_host import EARLY, LATE, make_planted_host, planted_saes
from tests.server.running_server import RunningServer, tiny_config


def planted_server(**sections: Any) -> RunningServer:
    """Not started yet; `sections` go to its config."""
    host = make_planted_host()
    saes = tuple(SaeConfig(name=name, path="in memory") for name in (EARLY, LATE))
    config = tiny_config(saes=saes, **sections)
    return RunningServer(config, host, planted_saes(host))
