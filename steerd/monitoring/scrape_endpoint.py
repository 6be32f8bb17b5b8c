"""/metrics over HTTP, and the live page, on a port of their own."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, disable_created_metrics, make_wsgi_app
from prometheus_client.exposition import choose_encoder, gzip_accepted

from steerd.config import MonitoringConfig
from steerd.errors import ConfigError
from steerd.monitoring.live_page import LivePage
from steerd.monitoring.openmetrics_text import OpenMetricsText

Environment = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environment, StartResponse], Iterable[bytes]]

# With names of letters and underscores only, both escapings give the same.
_OPENMETRICS_TYPES = {
    f"application/openmetrics-text; version=1.0.0; charset=utf-8; escaping={escaping}"
    for escaping in ("underscores", "allow-utf-8")
}


class ScrapeEndpoint:
    """Serves a registry, and the page, on threads of their own, from when it is made until `stop`."""

    def __init__(
        self, config: MonitoringConfig, registry: CollectorRegistry, page: LivePage | None = None
    ) -> None:
        """Raises ConfigError when the address cannot be bound."""
        # A timestamp for every counter would double the series.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left it out
        metrics = metrics_application(registry)
        application = with_page(metrics, page) if page else metrics
        try:
            self._server = make_server(
                config.host, config.port, application, _server_for(config.host), _SilentHandler
            )
        except OSError as error:
            address = f"{config.host}:{config.port}"
            raise ConfigError(f"cannot serve metrics on {address}: {error.strerror}") from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="steerd-metrics", daemon=True)
        self._thread.start()
        self.port = self._server.server_port
        self._page = page
        if page is not None:
            page.start()

    def stop(self) -> None:
        """Close the port and end the threads."""
        if self._page is not None:
            self._page.stop()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def metrics_application(registry: CollectorRegistry) -> Application:
    """The registry at any path, in the form that is asked for; the one that Prometheus asks for is fast."""
    others: Application = make_wsgi_app(registry)
    openmetrics = OpenMetricsText(registry)

    def application(environment: Environment, start: StartResponse) -> Iterable[bytes]:
        _, content_type = choose_encoder(environment.get("HTTP_ACCEPT", ""))
        is_get = environment["REQUEST_METHOD"] == "GET"
        if not is_get or environment["QUERY_STRING"] or content_type not in _OPENMETRICS_TYPES:
            return others(environment, start)
        headers, body = [("Content-Type", content_type)], openmetrics()
        if gzip_accepted(environment.get("HTTP_ACCEPT_ENCODING", "")):
            headers.append(("Content-Encoding", "gzip"))
            body = gzip.compress(body, compresslevel=1)  # the best level takes ten times as long
        start("200 OK", headers)
        return [body]

    return application


def with_page(metrics: Application, page: LivePage) -> Application:
    """Both: what is not the page's is the metrics'."""

    def application(environment: Environment, start: StartResponse) -> Iterable[bytes]:
        answer = None
        if environment["REQUEST_METHOD"] == "GET":
            answer = page.answer(environment["PATH_INFO"], environment["QUERY_STRING"])
        if answer is None:
            return metrics(environment, start)
        headers, body = answer
        start("200 OK", headers)
        return [body]

    return application


class _Server(ThreadingMixIn, WSGIServer):
    """A thread a connection: a reader that stalls holds up nobody else."""

    daemon_threads = True


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _SilentHandler(WSGIRequestHandler):
    """Logs nothing: a scrape every few seconds is no news."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _server_for(host: str) -> type[WSGIServer]:
    family, *_ = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return _ServerV6 if family == socket.AF_INET6 else _Server
