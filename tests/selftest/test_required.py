"""A server that has to try itself out first."""

from __future__ import annotations

import asyncio
import logging

import pytest
from torch import Tensor

from steerd.app import App
from steerd.config import EngineConfig, ServerConfig
from steerd.errors import SelftestFailed
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from tests.server.running_server import tiny_config, tiny_parts

CONFIG = tiny_config(
    engine=EngineConfig(kv_cache_gib=0.01, page_size=8),
    server=ServerConfig(port=0, require_selftest=True),
)


class OffWhenPaged:
    """Makes a host a little wrong as soon as an engine has taken it over, less than its own check minds."""

    def __init__(self, host: HostModel) -> None:
        self._config = host.model.config
        self._plain = self._config._attn_implementation

    def __call__(self, rows: Tensor) -> Tensor | None:
        return None if self._config._attn_implementation == self._plain else rows * 1.004


def test_a_server_that_fails_its_selftest_does_not_start(caplog: pytest.LogCaptureFixture) -> None:
    host, saes = tiny_parts()
    host.attach(HookPoint(1, "attn_out"), OffWhenPaged(host))

    async def start() -> None:
        app = App(CONFIG)
        try:
            await app.start(host, saes)
        finally:
            await app.stop()

    with caplog.at_level(logging.INFO, logger="steerd"), pytest.raises(SelftestFailed) as caught:
        asyncio.run(start())

    assert "unsteered = plain host" in str(caught.value)
    assert "no-op" not in str(caught.value)
    (table,) = (record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    assert "unsteered = plain host" in table
    assert "batch isolation" in table
    assert not any("serving" in record.getMessage() for record in caplog.records)
