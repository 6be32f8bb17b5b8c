"""The server's watch list: checked whole, then counted and read from the next step on, or refused whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from steerd.config import WatchedFeature
from steerd.engine.watch_list import WatchList, load_watch_list, violations
from steerd.errors import ConfigError
from steerd.steering.loaded_saes import LoadedSaes


class WatchEngine(Protocol):
    """What reads the watched features on every token."""

    def watch(self, watch: WatchList) -> None: ...


class WatchMetrics(Protocol):
    """What counts them."""

    def over_budget(self, watch: WatchList) -> str | None:
        """What a list would cost, for people, when there is no room for it."""

    def watch(self, watch: WatchList) -> None: ...


class WatchKeeper:
    """Holds the list that is watched. Belongs to one event loop."""

    def __init__(self, saes: LoadedSaes, engine: WatchEngine, metrics: WatchMetrics) -> None:
        self._saes = saes
        self._engine = engine
        self._metrics = metrics
        self.current = WatchList()

    def begin(self, features: Sequence[WatchedFeature]) -> None:
        """Watch what the configuration says; raises ConfigError when that cannot be."""
        watch = configured_list(features, self._saes)
        problem = self._metrics.over_budget(watch)
        if problem is not None:
            raise ConfigError(f"monitoring.watch {problem}", key="monitoring.watch")
        self._take(watch)

    def _take(self, watch: WatchList) -> None:
        self._metrics.watch(watch)
        self._engine.watch(watch)
        self.current = watch


def configured_list(features: Sequence[WatchedFeature], saes: LoadedSaes) -> WatchList:
    """The list of the configuration; raises ConfigError when the served SAEs have something against it."""
    found = violations(features, saes, "monitoring.watch")
    if found:
        raise ConfigError(f"{found[0].field} {found[0].description}", key=found[0].field)
    return load_watch_list(features, saes)
