"""The one place where host, SAEs, engine, metrics and gRPC meet."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from steerd.config import Config
from steerd.engine.engine import Engine
from steerd.host.device_memory import device_memory
from steerd.host.host_model import HostModel
from steerd.host.text import token_texts
from steerd.loading import load_host, load_saes, read_sae
from steerd.monitoring.activity import Activity
from steerd.monitoring.last_request import LastRequest
from steerd.monitoring.live_page import LivePage
from steerd.monitoring.memory_limit import memory_limit
from steerd.monitoring.metrics import Metrics
from steerd.monitoring.monitor import Monitor, MonitorPart
from steerd.monitoring.request_log import RequestLog
from steerd.monitoring.scrape_endpoint import ScrapeEndpoint
from steerd.monitoring.top_features import FeatureFacts, TopFeatures
from steerd.monitoring.traces import PART as TRACES
from steerd.monitoring.traces import begin_traces
from steerd.passing_thread import in_passing_thread
from steerd.sae.feature_files import FeatureStatistics
from steerd.sae.feature_note import FeatureNote
from steerd.selftest.configured import require_selftest
from steerd.server.admin_service import AdminService
from steerd.server.catalog_service import CatalogService
from steerd.server.feature_answers import feature_answers
from steerd.server.feature_service import FeatureService
from steerd.server.generation_service import GenerationService
from steerd.server.grpc_server import GrpcServer
from steerd.server.monitor_service import MonitorService
from steerd.server.sae_reloader import SaeReloader
from steerd.server.served import Serving, read_served
from steerd.server.studying import Studying
from steerd.server.watch_keeper import WatchKeeper
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes

_ENGINE_CHECK_SECONDS = 0.5

_log = logging.getLogger(__name__)


def serve(config: Config) -> int:
    """Load, serve until SIGTERM or SIGINT, drain; returns the process's exit status.

    Raises ConfigError, HostError or SaeFileError when the server cannot start.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("steerd").setLevel(logging.INFO)
    return asyncio.run(_serve(config))


async def _serve(config: Config) -> int:
    app = App(config)
    try:
        host = await in_passing_thread(lambda: load_host(config))
        await app.start(host, await in_passing_thread(lambda: load_saes(config, host)))
        gc.freeze()  # what is loaded stays: no search for garbage, which halts a step, goes through it again
        return await app.run()
    finally:
        await app.stop()


class App:
    """One server: binds its ports when made, serves from `start` to `stop`. Belongs to one event loop."""

    def __init__(self, config: Config) -> None:
        """Bind before anything is loaded, so that a port in use is told at once. Raises ConfigError."""
        self._config = config
        self.engine: Engine | None = None  # from `start` on, as the next two
        self._studying: Studying | None = None
        self._request_log: RequestLog | None = None
        registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self.monitor = Monitor(registry, queue_steps=config.monitoring.queue_steps)
        self._traces = begin_traces(config, self.monitor)
        self.metrics = _metrics(config, registry)
        self.grpc = GrpcServer(config.server, self.metrics)
        self._top = TopFeatures()
        self._last_request = LastRequest() if config.monitoring.page_tokens else None
        page = self._live_page(registry) if config.monitoring.page else None
        self.scrape_endpoint = ScrapeEndpoint(config.monitoring, registry, page)

    async def start(self, host: HostModel, saes: LoadedSaes) -> None:
        """Start the engine and serve, after the selftest where that is required.

        Raises ConfigError for a watch list, preset or policy that cannot be, SelftestFailed.
        """
        config = self._config
        await in_passing_thread(saes.measure_norms)
        served = read_served(config, host, saes)
        if config.server.require_selftest:
            await self.grpc.begin()
            await in_passing_thread(lambda: require_selftest(config, host, saes))
        engine = await in_passing_thread(
            lambda: Engine(host, saes, config.engine, self.monitor, config.monitoring.sample_every)
        )
        self._tell_what_is_there(engine, host, saes)
        watch = self._begin_watch(engine, saes)
        activity = Activity()
        self._start_monitor(host, activity)
        engine.start()
        self.engine = engine
        serving = Serving(served)
        await self.grpc.start(
            GenerationService(
                engine,
                serving,
                config=config.server,
                admission=self.grpc.admission,
                observer=self.metrics,
            ),
            CatalogService(
                host,
                serving,
                config,
                engine.why_no_sharing,
                lambda: engine.why_no_graphs,
                lambda: watch.current.features,
            ),
            feature=self._feature_service(engine, serving),
            monitor=MonitorService(
                activity,
                self._top,
                watch=lambda: watch.current,
                snapshots_lost=self.monitor.snapshots_lost,
            ),
            admin=AdminService(watch, self._reloader(host, serving, engine, watch), serving),
            is_healthy=lambda: self._makes_progress(engine),
        )
        self._log_addresses(host, saes)

    def _feature_service(self, engine: Engine, serving: Serving) -> FeatureService:
        config = self._config
        studying = self._studying = Studying(engine, config.server, self.grpc.admission, self.metrics)
        return FeatureService(
            studying, serving, lambda served: feature_answers(served, engine, studying, config)
        )

    def _reloader(self, host: HostModel, serving: Serving, engine: Engine, watch: WatchKeeper) -> SaeReloader:
        return SaeReloader(
            self._config,
            host,
            serving,
            engine=engine,
            read=read_sae,
            watch=watch,
            metrics=self.metrics,
            loaded=self._tell_of_sae,
        )

    def _tell_what_is_there(self, engine: Engine, host: HostModel, saes: LoadedSaes) -> None:
        """The parts of the monitor hear of what was loaded after they were made."""
        self.metrics.read_load(lambda: engine.running, lambda: engine.waiting, lambda: engine.studies)
        self.metrics.read_device_memory(str(host.device), device_memory(host.device))
        for sae in saes:
            self._tell_of_sae(sae)

    def _tell_of_sae(self, sae: LoadedSae) -> None:
        self.metrics.sae_loaded(sae.name, sae.metadata.weights_sha256)
        if sae.statistics is not None and sae.notes is not None:
            self._top.know(sae.name, _facts(sae.statistics, sae.notes))

    def _begin_watch(self, engine: Engine, saes: LoadedSaes) -> WatchKeeper:
        monitoring = self._config.monitoring
        file = Path(monitoring.watch_file) if monitoring.watch_file else None
        watch = WatchKeeper(saes, engine, self.metrics, file)
        watch.begin(monitoring.watch)
        return watch

    def _start_monitor(self, host: HostModel, activity: Activity) -> None:
        config, monitoring = self._config, self._config.monitoring
        parts: dict[str, MonitorPart] = {
            "metrics": self.metrics,
            "top_features": self._top,
            "activity": activity,
        }
        if monitoring.request_log != "off":
            decode = (lambda ids: str(host.tokenizer.decode(ids))) if monitoring.log_prompts else None
            self._request_log = RequestLog(monitoring, model=config.model.name, decode=decode)
            parts["request_log"] = self._request_log
        if self._traces is not None:
            parts[TRACES] = self._traces
        if self._last_request is not None:
            self._last_request.read_tokens(partial(token_texts, host.tokenizer))
            parts["last_request"] = self._last_request
        self.monitor.start(parts)

    def _live_page(self, registry: CollectorRegistry) -> LivePage:
        config = self._config
        server: dict[str, str | int] = {
            "model": config.model.name,
            "version": version("steerd"),
            "max_running": config.engine.max_running_requests,
            "max_waiting": config.engine.max_waiting_requests,
        }
        return LivePage(registry, self._top, self._last_request, server=server)

    def _log_addresses(self, host: HostModel, saes: LoadedSaes) -> None:
        config = self._config
        _log.info(
            "serving %s with SAEs %s on %s:%d, metrics on http://%s:%d/metrics",
            host.name,
            ", ".join(sae.name for sae in saes) or "none",
            config.server.host,
            self.grpc.port,
            config.monitoring.host,
            self.scrape_endpoint.port,
        )

    async def run(self) -> int:
        """Serve until a signal, then drain; 0. A second signal ends the drain. 1 when the engine has died."""
        signals: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signals.put_nowait, number)
        if not await self._signal_or_engine_death(signals):
            _log.error("the engine has died; the server ends")
            return 1
        _log.info("draining: requests in flight have %g seconds", self._config.server.drain_seconds)
        self._drain_studies()
        drain = asyncio.create_task(self.grpc.drain(self._config.server.drain_seconds))
        again = asyncio.create_task(signals.get())
        await asyncio.wait({drain, again}, return_when=asyncio.FIRST_COMPLETED)
        if not (drain.done() and drain.result()):
            _log.warning("requests in flight are given up")
        drain.cancel()
        again.cancel()
        return 0

    def _drain_studies(self) -> None:
        """They can tell what they have done; requests would be lost."""
        if self._studying is not None:
            self._studying.drain()
        if self.engine is not None:
            self.engine.drain_studies()

    async def stop(self) -> None:
        """End everything now; requests in flight end with UNAVAILABLE."""
        if self.engine is not None:
            await asyncio.to_thread(self.engine.stop)
        await self.grpc.stop()
        await asyncio.to_thread(self.monitor.stop)
        if self._request_log is not None:
            self._request_log.stop()
        if self._traces is not None:
            await asyncio.to_thread(self._traces.stop)
        self.scrape_endpoint.stop()

    async def _signal_or_engine_death(self, signals: asyncio.Queue[int]) -> bool:
        """Wait; True for a signal, False when the engine thread has ended."""
        while self.engine is not None and self.engine.is_alive:
            try:
                await asyncio.wait_for(signals.get(), _ENGINE_CHECK_SECONDS)
            except TimeoutError:
                continue
            return True
        return False

    def _makes_progress(self, engine: Engine) -> bool:
        silent_seconds = time.monotonic() - engine.heartbeat
        return engine.is_alive and silent_seconds < self._config.server.stall_seconds


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


def _facts(statistics: FeatureStatistics, notes: Sequence[FeatureNote]) -> FeatureFacts:
    """What the file of an SAE records; a feature that never was active has no strength to compare with."""
    maximum = statistics.max_activation.double().numpy()
    largest = np.where(maximum > 0, maximum, np.inf)
    mean = (statistics.density * statistics.mean_activation).double().numpy()
    return FeatureFacts(
        labels=[note.shown_label for note in notes], max_activation=largest, usual_strength=mean / largest
    )
