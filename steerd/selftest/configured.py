"""The selftest of what a config names: for the command, and before a server serves."""

from __future__ import annotations

import logging

from steerd.config import Config
from steerd.engine.watch_list import configured_list
from steerd.errors import SelftestFailed
from steerd.host.host_model import HostModel
from steerd.loading import load_host, load_saes
from steerd.selftest.report import Report
from steerd.selftest.selftest import selftest
from steerd.steering.loaded_saes import LoadedSaes

_log = logging.getLogger(__name__)


def try_out(config: Config) -> Report:
    """Load what the server would serve, and try it out.

    Raises ConfigError, HostError or SaeFileError where the server could not start.
    """
    host = load_host(config)
    return _selftest(config, host, load_saes(config, host))


def require_selftest(config: Config, host: HostModel, saes: LoadedSaes) -> None:
    """Try out what is to be served, and log the report; raises SelftestFailed when a check fails."""
    report = _selftest(config, host, saes)
    if report.failed:
        _log.error("selftest of %s", report.table())
        raise SelftestFailed(f"the selftest failed: {', '.join(report.failed)}; the log has its table")
    _log.info("selftest of %s", report.table())


def _selftest(config: Config, host: HostModel, saes: LoadedSaes) -> Report:
    monitoring = config.monitoring
    watch = configured_list(monitoring.watch, saes)
    return selftest(host, saes, config.engine, watch, monitoring.sample_every)
