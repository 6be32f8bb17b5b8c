"""The monitor of an engine without a server: metrics as a server keeps them."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry

from steerd.config import EngineConfig, MonitoringConfig
from steerd.monitoring.metrics import Metrics
from steerd.monitoring.monitor import Monitor


def started_monitor(model: str, saes: Sequence[str], config: EngineConfig) -> tuple[Monitor, Metrics]:
    """A started monitor with the metrics that it tells."""
    registry = CollectorRegistry()
    monitor = Monitor(registry, queue_steps=MonitoringConfig().queue_steps)
    metrics = Metrics(
        registry,
        model=model,
        saes=saes,
        queue_limit=config.max_waiting_requests,
        build={"version": "benchmark"},
    )
    monitor.start({"metrics": metrics})
    return monitor, metrics
