"""The server's watch list: checked whole, then counted and read from the next step on, or refused whole."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from steerd.config import WatchedFeature, check_watch
from steerd.engine.watch_list import WatchList, configured_list, load_watch_list, violations
from steerd.errors import ConfigError, FieldViolation, InvalidRequest, Overloaded, Unavailable
from steerd.server.watch_file import read_watch_file, write_watch_file
from steerd.steering.loaded_saes import LoadedSaes

_log = logging.getLogger(__name__)


class WatchEngine(Protocol):
    """What reads the watched features on every token."""

    def watch(self, watch: WatchList) -> None: ...


class WatchMetrics(Protocol):
    """What counts them."""

    def over_budget(self, watch: WatchList) -> str | None:
        """What a list would cost, for people, when there is no room for it."""

    def watch(self, watch: WatchList) -> None: ...


class WatchKeeper:
    """Holds the list that is watched. May be used from any thread."""

    def __init__(
        self, saes: LoadedSaes, engine: WatchEngine, metrics: WatchMetrics, file: Path | None = None
    ) -> None:
        """`file` is where changed lists are kept, if anywhere."""
        self._saes = saes
        self._engine = engine
        self._metrics = metrics
        self._file = file
        self._changing = threading.Lock()
        self.current = WatchList()

    def begin(self, configured: Sequence[WatchedFeature]) -> None:
        """Watch what the file says, else the configuration; raises ConfigError when that cannot be."""
        written = None if self._file is None else read_watch_file(self._file)
        watch = configured_list(configured if written is None else written, self._saes)
        problem = self._metrics.over_budget(watch)
        if problem is not None:
            raise ConfigError(f"monitoring.watch {problem}", key="monitoring.watch")
        self._take(watch)

    def change(self, features: Sequence[WatchedFeature]) -> None:
        """Watch these features from now on, or raise and leave everything as it was.

        Raises InvalidRequest, NotFound for an SAE, Overloaded for a list over the budget of series,
        Unavailable when it cannot be written to the file.
        """
        with self._changing:
            self._check(features)
            watch = load_watch_list(features, self._saes)
            problem = self._metrics.over_budget(watch)
            if problem is not None:
                raise Overloaded(f"the watch list {problem}", reason="FEATURE_SERIES_LIMIT")
            self._write(features)
            self._take(watch)
        _log.info("watching %d features, %d of them hot", len(watch), sum(f.hot for f in features))

    def serve(self, saes: LoadedSaes) -> None:
        """Watch the same features in these SAEs; raises ConfigError, and goes on as before, when one of them
        cannot be."""
        with self._changing:
            watch = configured_list(self.current.features, saes, key="the watch list")
            self._saes = saes
            self._take(watch)

    def _check(self, features: Sequence[WatchedFeature]) -> None:
        try:
            check_watch(features, "features")
        except ConfigError as error:
            description = str(error).removeprefix(f"{error.key} ")
            raise InvalidRequest([FieldViolation(error.key, description)]) from error
        for position, feature in enumerate(features):
            self._saes.get(feature.sae, field=f"features[{position}].feature.sae")
        found = violations(features, self._saes, "features")
        if found:
            raise InvalidRequest(found)

    def _write(self, features: Sequence[WatchedFeature]) -> None:
        if self._file is None:
            return
        try:
            write_watch_file(self._file, features)
        except OSError as error:
            _log.exception("the watch list cannot be written to %s", self._file)
            message = "the watch list cannot be written to its file"
            raise Unavailable(message, reason="WATCH_FILE_NOT_WRITTEN") from error

    def _take(self, watch: WatchList) -> None:
        self._metrics.watch(watch)
        self._engine.watch(watch)
        self.current = watch
