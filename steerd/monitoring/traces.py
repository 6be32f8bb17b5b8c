"""Whether spans are sent: only then is OpenTelemetry, an extra, imported."""

from __future__ import annotations

from importlib.metadata import version
from typing import Protocol

from steerd.config import Config
from steerd.errors import ConfigError
from steerd.monitoring.monitor import Monitor, MonitorPart

PART = "traces"
_KEY = "monitoring.traces_endpoint"


class Traces(MonitorPart, Protocol):
    """The part of the monitor that sends spans, until it is stopped."""

    def stop(self) -> None: ...


def begin_traces(config: Config, monitor: Monitor) -> Traces | None:
    """The part that the config asks for; raises ConfigError when what it needs is not installed."""
    endpoint = config.monitoring.traces_endpoint
    if not endpoint:
        return None
    try:
        from steerd.monitoring.request_spans import RequestSpans, otlp_exporter
    except ImportError as error:
        message = f"{_KEY} needs OpenTelemetry, which is not installed: pip install 'steerd[otel]'"
        raise ConfigError(message, key=_KEY) from error
    return RequestSpans(
        otlp_exporter(endpoint),
        model=config.model.name,
        version=version("steerd"),
        failed=lambda: monitor.part_failed(PART),
        lost=monitor.spans_lost,
    )
