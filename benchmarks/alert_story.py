"""Whether an operator is told of a change in topics and of faults, by real Prometheus and Alertmanager.

A server on the default host watches two features of a starter SAE. First clients chat about music, then about
the weather, then about music again: the dashboard's panel shows the shift, the alert on the weather feature
fires and resolves. Then the server is broken in four ways, of which it survives three. Intervals, windows and
waits of the shipped files are divided by --hurry, thresholds are as shipped.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.alert_watch import AlertWatch, seconds_until
from benchmarks.report import Report, Row, parser_of, report_for
from benchmarks.topic_traffic import MUSIC, WEATHER, TopicTraffic
from deploy.monitoring import Addresses, watchers
from steerd.cli.server_process import free_ports, wait_until_serving
from steerd.client import Client
from steerd.client_channel import RemoteError
from steerd.sae.sae_file import WEIGHTS_FILE
from steerd.starters import sae_folder

NAME = "alert_story"
HURRY = 20.0
START_SECONDS = 900.0
SHARE_PANEL = "Above the threshold"
HOT = "SteerdWatchedFeatureHot"
HOT_SHARE = 0.05  # the rule's
FLOOD_CLIENTS = 10

# Thresholds: a fifth of the weather feature's recorded maximum; the music feature's is out of reach.
_CONFIG = """
[server]
port = {grpc}
[engine]
max_running_requests = 2
max_waiting_requests = 4
[[saes]]
name = "starter-14"
path = "{sae}"
[monitoring]
port = {metrics}
[[monitoring.watch]]
sae = "starter-14"
index = 1823
alias = "weather"
threshold = 8.0
[[monitoring.watch]]
sae = "starter-14"
index = 604
alias = "music"
threshold = 1000.0
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """All that a part of the story needs."""

    report: Report
    watch: AlertWatch
    process: subprocess.Popen[bytes]
    address: str
    sae: Path
    hurry: float


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that breaks, the metric that says so first, what it then says, and the alert to follow."""

    name: str
    metric: str
    shows: str
    alert: str


FULL = Fault(
    "waiting line full",
    "steerd_requests_waiting",
    "steerd_requests_waiting / on (job, instance) group_left steerd_queue_limit > 0.8",
    "SteerdQueueSaturated",
)
REJECTED = Fault(
    "waiting line full",
    "steerd_requests_total",
    'steerd_requests_total{outcome="rejected"} > 0',
    "SteerdErrorBudgetBurnFast",
)
STUCK = Fault(
    "engine stands still",
    "steerd_engine_last_step_timestamp_seconds",
    "time() - steerd_engine_last_step_timestamp_seconds > 30",
    "SteerdEngineStalled",
)
STEPPED_JUST_NOW = "time() - steerd_engine_last_step_timestamp_seconds < 2"
RELOAD = Fault(
    "an SAE's folder damaged, then reloaded",
    "steerd_sae_reload_failures_total",
    "steerd_sae_reload_failures_total > 0",
    "SteerdSaeReloadFailed",
)
DEAD = Fault("engine thread killed", "up", 'up{job="steerd"} == 0', "SteerdDown")


def main() -> None:
    """Tell the story, print, write."""
    parser = parser_of(__doc__ or "")
    parser.add_argument(
        "--hurry", type=float, default=HURRY, help="what durations are divided by; %(default)s"
    )
    options: argparse.Namespace = parser.parse_args()
    report = report_for(NAME, options)
    with scene(report, options.hurry) as played:
        tell_topics(played)
        fill_the_line(played)
        break_a_reload(played)
        stop_the_engine(played)
        kill_the_engine(played)
    report.finish()


@contextmanager
def scene(report: Report, hurry: float) -> Iterator[Scene]:
    """A server, and Prometheus and Alertmanager that watch it."""
    grpc, metrics, prometheus, alertmanager = free_ports(4)
    address = f"127.0.0.1:{grpc}"
    addresses = Addresses(*(f"127.0.0.1:{port}" for port in (metrics, prometheus, alertmanager)))
    with tempfile.TemporaryDirectory(prefix="steerd-benchmark-") as folder:
        config = Path(folder) / "server.toml"
        sae = Path(folder) / "sae"
        shutil.copytree(sae_folder("starter-14"), sae)
        config.write_text(_CONFIG.format(grpc=grpc, metrics=metrics, sae=sae), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.mortal_server", str(config)]
        with (
            (Path(folder) / "log").open("wb") as log,
            subprocess.Popen(command, stdout=log, stderr=log) as process,
        ):
            try:
                wait_until_serving(process, address, timeout_seconds=START_SECONDS)
                with watchers(addresses, hurry=hurry):
                    yield Scene(report, AlertWatch(addresses), process, address, sae, hurry)
            finally:
                process.kill()


def tell_topics(scene: Scene) -> None:
    """Music, weather, music; the alert must fire once and resolve once."""
    traffic, watch = TopicTraffic(scene.address, MUSIC, max_new_tokens=8), scene.watch
    window = 600 / scene.hurry  # the rule looks back ten minutes

    def share() -> float:
        return watch.panel(SHARE_PANEL).get("weather", 0.0)

    with traffic.flowing(clients=2):
        seconds_until(lambda: watch.panel("Active").get("music", 0.0) > 0, since=time.monotonic())
        time.sleep(window)
        _add_shares(scene, "music")
        fired_early = watch.is_firing(HOT)

        traffic.topic, changed = WEATHER, time.monotonic()
        shown = seconds_until(lambda: share() > HOT_SHARE, since=changed)
        fired = seconds_until(lambda: watch.is_firing(HOT), since=changed)
        arrived = seconds_until(lambda: watch.has_arrived(HOT), since=changed)
        _add_shares(scene, "weather")

        traffic.topic, changed_back = MUSIC, time.monotonic()
        cooled = seconds_until(lambda: share() < HOT_SHARE, since=changed_back)
        resolved = seconds_until(lambda: not watch.has_arrived(HOT), since=changed_back)
        _add_shares(scene, "music again")
    rows = [
        ("the dashboard shows the shift", shown),
        ("the alert fires in Prometheus", fired),
        ("Alertmanager has it", arrived),
        ("after the topic changed back: the dashboard shows it", cooled),
        ("the alert is resolved", resolved),
    ]
    scene.report.add_rows(
        "Topic alert", [{"event": event, "seconds": round(seconds, 1)} for event, seconds in rows]
    )
    scene.report.at_most("alerts_before_the_shift", float(fired_early), 0)


def _add_shares(scene: Scene, topic: str) -> None:
    active, above = scene.watch.panel("Active"), scene.watch.panel(SHARE_PANEL)
    row = {
        f"{alias} {what}": round(shares.get(alias, 0.0), 4)
        for alias in ("weather", "music")
        for what, shares in (("active", active), ("above", above))
    }
    scene.report.add_rows("Share of tokens, as the dashboard's panels show it", [{"traffic": topic, **row}])


def fill_the_line(scene: Scene) -> None:
    """Many clients that ask for long texts."""
    flood = TopicTraffic(scene.address, MUSIC, max_new_tokens=200)
    with flood.flowing(clients=FLOOD_CLIENTS):
        _follow(scene, FULL, REJECTED)
        ended = time.monotonic()
    _add_ends(scene, FULL, REJECTED, since=ended)


def break_a_reload(scene: Scene) -> None:
    """A file that is cut short is refused; generation goes on; the whole file is taken."""
    weights = scene.sae / WEIGHTS_FILE
    whole = weights.read_bytes()
    traffic = TopicTraffic(scene.address, MUSIC, max_new_tokens=8)
    with traffic.flowing(clients=1), Client(scene.address) as client:
        weights.write_bytes(whole[: len(whole) // 2])
        refused = 0.0
        try:
            client.reload_sae("starter-14")
        except RemoteError:
            refused = 1.0
        _follow(scene, RELOAD)
        weights.write_bytes(whole)
        client.reload_sae("starter-14")
        _add_ends(scene, RELOAD, since=time.monotonic())
    scene.report.at_least("damaged_reloads_refused", refused, 1)


def stop_the_engine(scene: Scene) -> None:
    """Steps that never end, then do."""
    traffic = TopicTraffic(scene.address, MUSIC, max_new_tokens=8)
    with traffic.flowing(clients=1):
        seconds_until(lambda: scene.watch.series(STEPPED_JUST_NOW) != [], since=time.monotonic())
        scene.process.send_signal(signal.SIGUSR2)
        _follow(scene, STUCK)
        scene.process.send_signal(signal.SIGUSR2)
        _add_ends(scene, STUCK, since=time.monotonic())


def kill_the_engine(scene: Scene) -> None:
    """The thread dies at its next step; the process must follow by itself, with a bad status."""
    traffic = TopicTraffic(scene.address, MUSIC, max_new_tokens=8)
    with traffic.flowing(clients=1):
        scene.process.send_signal(signal.SIGUSR1)
        _follow(scene, DEAD)
        status = scene.process.wait(START_SECONDS)
    scene.report.at_least("exit_status_after_the_engine_died", float(status), 1)


def _follow(scene: Scene, *faults: Fault) -> None:
    """Wait from now on for each fault's metric, and its alert in either place; add the rows."""
    began = time.monotonic()
    with ThreadPoolExecutor(len(faults)) as threads:
        rows = list(threads.map(lambda fault: _told(scene, fault, since=began), faults))
    scene.report.add_rows(f"Faults, with durations divided by {scene.hurry:g}", rows)


def _told(scene: Scene, fault: Fault, *, since: float) -> Row:
    watch = scene.watch

    def seconds(condition: Callable[[], bool]) -> float:
        return round(seconds_until(condition, since=since), 1)

    return {
        "fault": fault.name,
        "metric": fault.metric,
        "shows after s": seconds(lambda: watch.series(fault.shows) != []),
        "alert": fault.alert,
        "fires after s": seconds(lambda: watch.is_firing(fault.alert)),
        "in Alertmanager after s": seconds(lambda: watch.has_arrived(fault.alert)),
        "its wait, s": watch.waiting_time(fault.alert),
        "its wait as shipped, s": watch.waiting_time(fault.alert) * scene.hurry,
    }


def _add_ends(scene: Scene, *faults: Fault, since: float) -> None:
    rows: list[Row] = []
    for alert in (fault.alert for fault in faults):
        seconds = seconds_until(partial(_is_over, scene, alert), since=since)
        rows.append({"alert": alert, "resolved after s": round(seconds, 1)})
    scene.report.add_rows("After the fault", rows)


def _is_over(scene: Scene, alert: str) -> bool:
    return not scene.watch.has_arrived(alert)


if __name__ == "__main__":
    main()
