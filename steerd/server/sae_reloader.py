"""A served SAE's folder read anew: checked as at the start, then served in its place, or refused whole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from steerd.config import Config
from steerd.errors import ConfigError, FailedPrecondition, SaeFileError
from steerd.host.host_model import HostModel
from steerd.passing_thread import in_passing_thread
from steerd.sae.sae_file import SaeBundle
from steerd.server.served import Served, Serving, read_served
from steerd.server.watch_keeper import WatchKeeper
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes

_log = logging.getLogger(__name__)


class ReloadEngine(Protocol):
    """What runs requests."""

    def serve(self, saes: LoadedSaes) -> None:
        """Steer and read by these SAEs all that is submitted from now on."""


class ReloadMetrics(Protocol):
    """What counts reloads."""

    def sae_reload_failed(self, sae: str) -> None: ...


class SaeReloader:
    """Reloads SAEs, one at a time. Belongs to one event loop.

    What can fail is done on another thread, beside what is served; what changes is changed in one turn of the
    loop. A reload that has begun comes to its end even if nobody waits for it any more.
    """

    def __init__(
        self,
        config: Config,
        host: HostModel,
        serving: Serving,
        *,
        engine: ReloadEngine,
        read: Callable[[str], SaeBundle],
        watch: WatchKeeper,
        metrics: ReloadMetrics,
        loaded: Callable[[LoadedSae], None],
    ) -> None:
        """`read` reads a folder, or a starter's, as at the start, and `loaded` is told of an SAE that is
        served from now on."""
        self._config = config
        self._host = host
        self._serving = serving
        self._engine = engine
        self._read = read
        self._watch = watch
        self._metrics = metrics
        self._loaded = loaded
        self._one_at_a_time = asyncio.Lock()
        self._running: set[asyncio.Task[LoadedSae]] = set()

    async def reload(self, name: str) -> LoadedSae:
        """Serve what the SAE's folder holds now; raises NotFound or FailedPrecondition, and leaves all as it
        was."""
        self._serving.now.saes.get(name, field="name")
        task = asyncio.create_task(self._reload(name))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _reload(self, name: str) -> LoadedSae:
        async with self._one_at_a_time:
            try:
                served = await in_passing_thread(lambda: self._prepared(name))
            except Exception as error:
                self._metrics.sae_reload_failed(name)
                if not isinstance(error, SaeFileError | ConfigError):
                    raise
                _log.warning("SAE %s is not reloaded: %s", name, error)
                message = f"what was served before still is: {error}"
                raise FailedPrecondition(message, reason="SAE_NOT_RELOADED") from error
            self._serving.now = served
            self._engine.serve(served.saes)
            loaded = served.saes.get(name)
            self._loaded(loaded)
        _log.info("reloaded SAE %s, weights %s", name, loaded.metadata.weights_sha256[:12] or "unnamed")
        return loaded

    def _prepared(self, name: str) -> Served:
        """What is to be served, to which the watch list has changed over by then; raises SaeFileError or
        ConfigError."""
        if self._config.server.require_selftest:
            raise ConfigError(
                "server.require_selftest is set, and a selftest has the host to itself: restart the server"
            )
        (path,) = (sae.path for sae in self._config.saes if sae.name == name)
        saes = self._serving.now.saes.reloaded(name, self._read(path))
        served = read_served(self._config, self._host, saes)
        self._watch.serve(saes)
        return served
