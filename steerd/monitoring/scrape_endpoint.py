"""/metrics over HTTP, on a port of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, disable_created_metrics, start_http_server

from steerd.config import MonitoringConfig
from steerd.errors import ConfigError


class ScrapeEndpoint:
    """Serves a registry from a thread of its own, from when it is made until `stop`."""

    def __init__(self, config: MonitoringConfig, registry: CollectorRegistry) -> None:
        """Raises ConfigError when the address cannot be bound."""
        # A timestamp for every counter would double the series.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left it out
        try:
            self._server, self._thread = start_http_server(config.port, config.host, registry)
        except OSError as error:
            address = f"{config.host}:{config.port}"
            raise ConfigError(f"cannot serve metrics on {address}: {error.strerror}") from error
        self.port = self._server.server_port

    def stop(self) -> None:
        """Close the port and end the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
