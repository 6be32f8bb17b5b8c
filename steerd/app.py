"""The one place where host, SAEs, engine, metrics and gRPC meet."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import time
from pathlib import Path

from steerd.config import Config
from steerd.engine.engine import Engine
from steerd.host.host_model import HostModel
from steerd.instruments import Instruments
from steerd.loading import load_host, load_saes, read_sae
from steerd.monitoring.scrape_endpoint import ScrapeEndpoint
from steerd.passing_thread import in_passing_thread
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
from steerd.steering.loaded_saes import LoadedSaes

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
        self.engine: Engine | None = None  # from `start` on, as the next
        self._studying: Studying | None = None
        self.instruments = Instruments(config)
        self.grpc = GrpcServer(config.server, self.instruments.metrics)
        self.scrape_endpoint = ScrapeEndpoint(
            config.monitoring, self.instruments.registry, self.instruments.page
        )

    async def start(self, host: HostModel, saes: LoadedSaes) -> None:
        """Start the engine and serve, after the selftest where that is required.

        Raises ConfigError for a watch list, preset or policy that cannot be, SelftestFailed.
        """
        config, instruments = self._config, self.instruments
        await in_passing_thread(saes.measure_norms)
        served = read_served(config, host, saes)
        if config.server.require_selftest:
            await self.grpc.begin()
            await in_passing_thread(lambda: require_selftest(config, host, saes))
        engine = await in_passing_thread(
            lambda: Engine(host, saes, config.engine, instruments.monitor, config.monitoring.sample_every)
        )
        instruments.read(engine, host, saes)
        watch = self._begin_watch(engine, saes)
        instruments.start(host)
        engine.start()
        self.engine = engine
        serving = Serving(served)
        await self.grpc.start(
            GenerationService(
                engine,
                serving,
                config=config.server,
                admission=self.grpc.admission,
                observer=instruments.metrics,
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
                instruments.activity,
                instruments.top,
                watch=lambda: watch.current,
                snapshots_lost=instruments.monitor.snapshots_lost,
            ),
            admin=AdminService(watch, self._reloader(host, serving, engine, watch), serving),
            is_healthy=lambda: self._makes_progress(engine),
        )
        self._log_addresses(host, saes)

    def _feature_service(self, engine: Engine, serving: Serving) -> FeatureService:
        config = self._config
        studying = self._studying = Studying(
            engine, config.server, self.grpc.admission, self.instruments.metrics
        )
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
            metrics=self.instruments.metrics,
            loaded=self.instruments.sae_loaded,
        )

    def _begin_watch(self, engine: Engine, saes: LoadedSaes) -> WatchKeeper:
        monitoring = self._config.monitoring
        file = Path(monitoring.watch_file) if monitoring.watch_file else None
        watch = WatchKeeper(saes, engine, self.instruments.metrics, file)
        watch.begin(monitoring.watch)
        return watch

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
        await asyncio.to_thread(self.instruments.stop)
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
