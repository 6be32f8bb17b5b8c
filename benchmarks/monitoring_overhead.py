"""What monitoring costs a server: tokens a second with all of it against none, and how long a scrape takes.

Two server processes on the default host with its three starter SAEs take turns, each phase with the same
greedy texts from sixteen gRPC clients: `all` with 256 watched features, 48 of them hot, every sixteenth token
encoded whole, the request log and the live page, the features of each token sent to a tenth of the requests,
and a scrape as Prometheus makes it every five seconds; `unwatched`, the same server with an empty watch list,
nothing sent along and nobody scraping; and `off`, a server that has none of it. Ratios are medians over the
rounds. At last `all` is scraped twice a second, for the times of many scrapes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
from rich.progress import Progress

from benchmarks.report import Report, Row, parser_of, report_for
from benchmarks.scrapes import Scrape, scraping
from benchmarks.serving_process import START_TIMEOUT_SECONDS
from steerd.cli.server_process import free_ports, server_process, wait_until_serving
from steerd.client import Client
from steerd.client_messages import GenerateCall
from steerd.client_views import Watched
from steerd.config import MAX_HOT_FEATURES, MAX_WATCHED_FEATURES
from steerd.host.default_host import default_host_folder
from steerd.sae.sae_file import load_sae
from steerd.starters import STARTERS, sae_folder
from steerd.steering.intervention import FeatureRef

NAME = "monitoring_overhead"
CLIENTS = 16
CONTEXT = 32
TOP_FEATURES = 16
SCRAPE_SECONDS = 5.0
MANY_SCRAPES_SECONDS = 0.5
RATIO_BOUND = 0.97
SCRAPE_BOUND_SECONDS = 0.25

_CONFIG = """
[server]
port = {grpc}
[engine]
share_prefixes = false
[monitoring]
port = {metrics}
"""
_OFF = """
sample_every = 0
page = false
request_log = "off"
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A server process, its two addresses, and a client of it."""

    pid: int
    metrics: str
    client: Client

    def cpu_seconds(self) -> float:
        """Processor time that it used so far, from Linux's /proc."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Phase:
    """What came of one phase."""

    tokens: int
    seconds: float
    cpu_seconds: float
    scrapes: Sequence[Scrape] = ()

    @property
    def rate(self) -> float:
        """Tokens a second, all clients together."""
        return self.tokens / self.seconds


@dataclass(slots=True)
class Rounds:
    """The phases of each kind, in parallel."""

    all: list[Phase] = field(default_factory=list)
    unwatched: list[Phase] = field(default_factory=list)
    off: list[Phase] = field(default_factory=list)


def main() -> None:
    """Measure, print, write."""
    options = _options()
    report = report_for(NAME, options)
    num_rounds, calls = (1, 16) if options.quick else (options.rounds, options.calls)
    default_host_folder()
    watch = watch_list()
    with ExitStack() as servers, Progress(transient=True) as progress:
        monitored, bare = (servers.enter_context(serving(more)) for more in ("", _OFF))
        for server in (monitored, bare):  # the first call of a process allocates
            run_calls(server, plain_calls(0, CLIENTS, num_new=2))
        rounds = Rounds()
        for number in progress.track(range(num_rounds), description="measuring"):
            measure_round(rounds, number, monitored, bare, watch, calls)
        many = measure_all(monitored, watch, num_rounds + 1, calls, every=MANY_SCRAPES_SECONDS)
    add_rates(report, rounds)
    add_scrapes(report, [scrape for phase in rounds.all for scrape in phase.scrapes], many.scrapes)
    report.finish()


def measure_round(
    rounds: Rounds, number: int, monitored: Server, bare: Server, watch: Sequence[Watched], calls: int
) -> None:
    """One phase of each kind; every round begins with another one."""

    def unwatched() -> None:
        monitored.client.set_watch_list([])
        rounds.unwatched.append(measure(monitored, plain_calls(number, calls)))

    def off() -> None:
        rounds.off.append(measure(bare, plain_calls(number, calls)))

    def everything() -> None:
        rounds.all.append(measure_all(monitored, watch, number, calls, every=SCRAPE_SECONDS))

    phases = [everything, unwatched, off]
    first = number % len(phases)
    for phase in phases[first:] + phases[:first]:
        phase()


def measure_all(server: Server, watch: Sequence[Watched], number: int, calls: int, *, every: float) -> Phase:
    """A phase with all of the monitoring, scraped every so many seconds."""
    server.client.set_watch_list(watch)
    return measure(server, reading_calls(number, calls), scrape_every=every)


def measure(server: Server, calls: Sequence[GenerateCall], scrape_every: float | None = None) -> Phase:
    """Make all calls from the clients, as many at once as there are clients."""
    watching: AbstractContextManager[list[Scrape]] = nullcontext([])
    if scrape_every is not None:
        watching = scraping(server.metrics, scrape_every)
    with watching as scrapes:
        cpu_seconds, started = server.cpu_seconds(), time.perf_counter()
        tokens = run_calls(server, calls)
        seconds = time.perf_counter() - started
        return Phase(tokens, seconds, server.cpu_seconds() - cpu_seconds, scrapes)


def run_calls(server: Server, calls: Sequence[GenerateCall]) -> int:
    """Tokens generated by all calls together."""
    with ThreadPoolExecutor(CLIENTS) as clients:
        generations = list(clients.map(server.client.generate, calls))
    return sum(generation.completed.generated_tokens for generation in generations)


def plain_calls(seed: int, count: int, num_new: int = 32) -> list[GenerateCall]:
    """Random prompts, the same for a seed; the default host's ids below 1000 include its special ones."""
    prompts = np.random.default_rng(seed).integers(1000, 40_000, (count, CONTEXT)).tolist()
    return [
        GenerateCall(token_ids=tuple(prompt), max_new_tokens=num_new, temperature=0.0) for prompt in prompts
    ]


def reading_calls(seed: int, count: int) -> list[GenerateCall]:
    """The same calls, of which every tenth has the strongest features of each token sent along."""
    calls = plain_calls(seed, count)
    for number in range(0, count, 10):
        calls[number] = replace(calls[number], top_features=TOP_FEATURES)
    return calls


def watch_list() -> list[Watched]:
    """As many features as may be watched, evenly over those of the starters that ever were active; the first
    ones hot. A threshold is half of the feature's recorded maximum."""
    watched: list[Watched] = []
    for place, name in enumerate(STARTERS):
        statistics = load_sae(sae_folder(name)).statistics
        assert statistics is not None
        alive = statistics.max_activation.nonzero()[:, 0].tolist()
        share = (MAX_WATCHED_FEATURES - len(watched)) // (len(STARTERS) - place)
        for index in alive[:: len(alive) // share][:share]:
            watched.append(
                Watched(
                    feature=FeatureRef(name, index),
                    alias=f"{name.replace('-', '_')}_{index}",
                    threshold=float(statistics.max_activation[index]) / 2,
                    hot=len(watched) < MAX_HOT_FEATURES,
                )
            )
    return watched


@contextmanager
def serving(more: str) -> Iterator[Server]:
    """A server with more keys for [monitoring], until the block ends."""
    grpc, metrics = free_ports(2)
    address = f"127.0.0.1:{grpc}"
    with tempfile.TemporaryDirectory(prefix="steerd-benchmark-") as folder:
        config = Path(folder) / "server.toml"
        config.write_text(_CONFIG.format(grpc=grpc, metrics=metrics) + more, encoding="utf-8")
        with server_process(config, log=Path(folder) / "server.log") as process:
            wait_until_serving(process, address, timeout_seconds=START_TIMEOUT_SECONDS)
            with Client(address, timeout_seconds=600) as client:
                yield Server(process.pid, f"127.0.0.1:{metrics}", client)


def add_rates(report: Report, rounds: Rounds) -> None:
    """One row a kind of phase, and the targets."""
    kinds = {"all": rounds.all, "unwatched": rounds.unwatched, "off": rounds.off}
    report.add_rows(f"{CLIENTS} clients at once", [_rate_row(name, phases) for name, phases in kinds.items()])
    for name in ("off", "unwatched"):
        ratio = median(one.rate / other.rate for one, other in zip(rounds.all, kinds[name], strict=True))
        report.at_least(f"tokens_a_second.all_over_{name}", ratio, RATIO_BOUND)


def add_scrapes(report: Report, seldom: Sequence[Scrape], often: Sequence[Scrape]) -> None:
    """One row an interval, and the targets over both together."""
    rows = {SCRAPE_SECONDS: seldom, MANY_SCRAPES_SECONDS: often}
    report.add_rows("Scrapes under load", [_scrape_row(every, scrapes) for every, scrapes in rows.items()])
    seconds = [scrape.seconds for scrape in (*seldom, *often)]
    report.at_most("scrape_seconds.p99", float(np.percentile(seconds, 99)), SCRAPE_BOUND_SECONDS)


def _rate_row(name: str, phases: Sequence[Phase]) -> Row:
    rates = [phase.rate for phase in phases]
    cpu = [1000 * phase.cpu_seconds / phase.tokens for phase in phases]
    return {
        "monitoring": name,
        "phases": len(phases),
        "tokens a phase": round(median(phase.tokens for phase in phases)),
        "tokens/s": median(rates),
        "lowest": min(rates),
        "highest": max(rates),
        "server's CPU ms a token": median(cpu),
    }


def _scrape_row(every: float, scrapes: Sequence[Scrape]) -> Row:
    seconds = [scrape.seconds for scrape in scrapes]
    return {
        "every, s": every,
        "scrapes": len(scrapes),
        "p50, ms": 1000 * float(np.percentile(seconds, 50)),
        "p99, ms": 1000 * float(np.percentile(seconds, 99)),
        "longest, ms": 1000 * max(seconds),
        "series": max(scrape.series for scrape in scrapes),
        "KiB": max(scrape.size for scrape in scrapes) / 1024,
    }


def _options() -> argparse.Namespace:
    parser = parser_of("What monitoring costs a server.")
    parser.add_argument("--rounds", type=int, default=8, help="phases of each kind; %(default)s")
    parser.add_argument("--calls", type=int, default=32, help="calls a phase; %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    main()
