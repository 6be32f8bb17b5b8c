"""What measures a server and tells of it: made before anything is loaded, told of what was."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version

import numpy as np
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from steerd.config import Config
from steerd.engine.engine import Engine
from steerd.host.device_memory import device_memory
from steerd.host.host_model import HostModel
from steerd.host.text import token_texts
from steerd.monitoring.activity import Activity
from steerd.monitoring.last_request import LastRequest
from steerd.monitoring.live_page import LivePage
from steerd.monitoring.memory_limit import memory_limit
from steerd.monitoring.metrics import Metrics
from steerd.monitoring.monitor import Monitor, MonitorPart
from steerd.monitoring.request_log import RequestLog
from steerd.monitoring.top_features import FeatureFacts, TopFeatures
from steerd.monitoring.traces import PART as TRACES
from steerd.monitoring.traces import begin_traces
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes


class Instruments:
    """The series of one server, and all else that is kept of what its engine tells the monitor."""

    def __init__(self, config: Config) -> None:
        """Make every series, at 0. Raises ConfigError when what spans need is not installed."""
        self._config = config
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.monitor = Monitor(self.registry, queue_steps=config.monitoring.queue_steps)
        self._traces = begin_traces(config, self.monitor)
        self._request_log: RequestLog | None = None  # from `start` on
        self.metrics = _metrics(config, self.registry)
        self.activity = Activity()
        self.top = TopFeatures()
        self._last_request = LastRequest() if config.monitoring.page_tokens else None
        self.page = self._live_page() if config.monitoring.page else None

    def read(self, engine: Engine, host: HostModel, saes: LoadedSaes) -> None:
        """Tell what was loaded, and have every scrape ask the engine and the host's device."""
        self.metrics.read_load(lambda: engine.running, lambda: engine.waiting, lambda: engine.studies)
        self.metrics.read_device_memory(str(host.device), device_memory(host.device))
        for sae in saes:
            self.sae_loaded(sae)

    def sae_loaded(self, sae: LoadedSae) -> None:
        """An SAE is served from now on, in the place of another one of its name if there was one."""
        self.metrics.sae_loaded(sae.name, sae.metadata.weights_sha256)
        facts = _facts(sae)
        if facts is not None:
            self.top.know(sae.name, facts)

    def start(self, host: HostModel) -> None:
        """Count what the monitor is told. Raises ConfigError when the log of requests cannot be written."""
        parts: dict[str, MonitorPart] = {
            "metrics": self.metrics,
            "top_features": self.top,
            "activity": self.activity,
        }
        if self._config.monitoring.request_log != "off":
            parts["request_log"] = self._request_log = self._begin_request_log(host)
        if self._traces is not None:
            parts[TRACES] = self._traces
        if self._last_request is not None:
            self._last_request.read_tokens(partial(token_texts, host.tokenizer))
            parts["last_request"] = self._last_request
        self.monitor.start(parts)

    def stop(self) -> None:
        """Count what the monitor was told, send the spans of it, and measure no more."""
        self.monitor.stop()
        if self._request_log is not None:
            self._request_log.stop()
        if self._traces is not None:
            self._traces.stop()

    def _begin_request_log(self, host: HostModel) -> RequestLog:
        monitoring = self._config.monitoring
        decode = (lambda ids: str(host.tokenizer.decode(ids))) if monitoring.log_prompts else None
        return RequestLog(monitoring, model=self._config.model.name, decode=decode)

    def _live_page(self) -> LivePage:
        config = self._config
        server: dict[str, str | int] = {
            "model": config.model.name,
            "version": version("steerd"),
            "max_running": config.engine.max_running_requests,
            "max_waiting": config.engine.max_waiting_requests,
        }
        return LivePage(self.registry, self.top, self._last_request, server=server)


def _metrics(config: Config, registry: CollectorRegistry) -> Metrics:
    return Metrics(
        registry,
        model=config.model.name,
        saes=[sae.name for sae in config.saes],
        queue_limit=config.engine.max_waiting_requests,
        memory_limit=memory_limit(),
        build={
            "version": version("steerd"),
            "torch": version("torch"),
            "transformers": version("transformers"),
            "device": config.model.device,
        },
    )


def _facts(sae: LoadedSae) -> FeatureFacts | None:
    """What the file of an SAE records, if it does; a feature that never was active has no strength to compare
    with."""
    statistics, notes = sae.statistics, sae.notes
    if statistics is None or notes is None:
        return None
    maximum = statistics.max_activation.double().numpy()
    largest = np.where(maximum > 0, maximum, np.inf)
    mean = (statistics.density * statistics.mean_activation).double().numpy()
    return FeatureFacts(
        labels=[note.shown_label for note in notes], max_activation=largest, usual_strength=mean / largest
    )
