"""What serving costs: decode tokens a second of the default host, plain and in steerd, idle and steering.

Four systems, interleaved over several rounds: (a) transformers' generate, (b) transformers' continuous
batching, (c) steerd's engine with nothing asked of it, (d) the same with another intervention for every
request and 64 features watched by each request and by the server. Ratios are medians over the rounds.
Prompts are random ordinary tokens (what a step costs does not depend on them) and no token ends a text.
Then, of a server process under load (d) at batch 16 and the longest context: its start and its memory.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import count, product
from pathlib import Path
from statistics import median

import torch
from rich.progress import Progress

from benchmarks.decode_rate import Arrivals
from benchmarks.generation_systems import (
    DenseGenerate,
    PlainContinuousBatching,
    Prompts,
    load_endless_host,
)
from benchmarks.many_wishes import SAE_NAME, server_watch_list, sixteen_interventions, watched_features
from benchmarks.report import Report, Row, parser_of, report_for
from benchmarks.serving_process import serve_load
from benchmarks.steerd_system import SteerdEngine
from steerd.client_messages import GenerateCall
from steerd.config import EngineConfig
from steerd.host.default_host import default_host_folder
from steerd.sae.sae_file import load_sae
from steerd.starters import sae_folder

NAME = "engine_overhead"

BATCH_SIZES = (1, 16)
CONTEXTS = (64, 512)

IDLE_BOUND = 0.87
STEERED_BOUND = 0.95
MEMORY_BOUND_GIB = 2.0
START_BOUND_SECONDS = 15.0

System = Callable[[Prompts, int], Arrivals]


@dataclass(frozen=True, slots=True)
class Point:
    """One place on the map: how many requests at once, and how long their prompts are."""

    batch: int
    context: int

    def __str__(self) -> str:
        return f"batch_{self.batch}_context_{self.context}"

    def prompts(self) -> Prompts:
        """The same random prompts every time; the default host's ids below 1000 include its special ones."""
        generator = torch.Generator().manual_seed(self.batch * 10_000 + self.context)
        ids: list[list[int]] = torch.randint(
            1000, 40_000, (self.batch, self.context), generator=generator
        ).tolist()
        return ids

    def num_new(self, decode_tokens: int, max_batch_tokens: int) -> int:
        """New tokens a request, so that all decode together for `decode_tokens` of them.

        A step takes `max_batch_tokens` rows at most, so in (b), (c) and (d) the first request is as many
        tokens ahead of the last as there were steps of prefill.
        """
        return decode_tokens + self.batch * self.context // max_batch_tokens


@dataclass(slots=True)
class Rates:
    """Tokens a second of one system at one point, by round."""

    decode: list[float] = field(default_factory=list)
    total: list[float] = field(default_factory=list)


def main() -> None:
    """Measure, print, write."""
    options = _options()
    report = report_for(NAME, options)
    if "rates" in options.parts:
        measure_rates(report, options)
    if "serving" in options.parts:
        measure_serving(report, options)
    report.finish()


def measure_rates(report: Report, options: argparse.Namespace) -> None:
    """The rates of the four systems at every point, with their targets."""
    config = EngineConfig(share_prefixes=False)  # the same prompts come again every round
    plain, idle_host, steered_host = (load_endless_host() for _ in range(3))
    idle = SteerdEngine(idle_host, options.sae, config, steered=False)
    steered = SteerdEngine(steered_host, options.sae, config, steered=True)
    systems: dict[str, System] = {
        "a generate": DenseGenerate(plain),
        "b continuous batching": PlainContinuousBatching(plain, config),
        "c steerd idle": idle,
        "d steerd steering": steered,
    }
    decode_tokens, rounds = (12, 1) if options.quick else (48, options.rounds)
    points = [Point(batch, context) for batch, context in product(options.batch, options.context)]
    try:
        with Progress(transient=True) as progress:
            task = progress.add_task("measuring", total=len(points))
            for system in systems.values():
                system([[1] * 16], 4)  # the first call of a process allocates
            for point in points:
                prompts = point.prompts()
                num_new = point.num_new(decode_tokens, config.max_batch_tokens)
                seconds = 0.0 if options.quick else options.seconds
                rates = measure_point(systems, prompts, num_new, rounds, seconds)
                progress.advance(task)
                add_point(report, point, rates)
    finally:
        idle.close()
        steered.close()


def measure_point(
    systems: Mapping[str, System], prompts: Prompts, num_new: int, rounds: int, seconds: float
) -> dict[str, Rates]:
    """Each system once a round, every round beginning with another one.

    At least `rounds`, and more for at least `seconds`: short runs vary more.
    """
    rates = {name: Rates() for name in systems}
    names = list(systems)
    started = time.monotonic()
    for number in count():
        if number >= rounds and time.monotonic() - started >= seconds:
            break
        first = number % len(names)
        for name in names[first:] + names[:first]:
            arrivals = systems[name](prompts, num_new)
            assert all(len(times) == num_new for times in arrivals.tokens), f"{name} ended early"
            rates[name].decode.append(arrivals.decode_rate())
            rates[name].total.append(arrivals.total_rate())
    return rates


def add_point(report: Report, point: Point, rates: Mapping[str, Rates]) -> None:
    """One row a system, and the two targets of the point."""
    dense, packed, idle, steered = (rates[name].decode for name in rates)
    best = [max(pair) for pair in zip(dense, packed, strict=True)]
    report.add_rows("Tokens a second, all requests together", [_row(point, *item) for item in rates.items()])
    report.at_least(f"c_over_best.{point}", _ratio(idle, best), IDLE_BOUND)
    report.at_least(f"d_over_c.{point}", _ratio(steered, idle), STEERED_BOUND)


def measure_serving(report: Report, options: argparse.Namespace) -> None:
    """Start, memory and targets of a server process. The default host was converted before."""
    default_host_folder()
    d_sae = load_sae(options.sae).sae.d_sae
    point = Point(max(options.batch), max(options.context))
    interventions = sixteen_interventions(d_sae)
    calls = [
        GenerateCall(
            token_ids=tuple(prompt),
            max_new_tokens=12 if options.quick else 48,
            temperature=0.0,
            interventions=interventions[row : row + 1],
            watch=watched_features(d_sae),
        )
        for row, prompt in enumerate(point.prompts())
    ]
    load = serve_load(_server_config(options.sae, d_sae), calls)
    report.add_rows(f"A server process, {len(calls)} steered streams at once", [asdict(load)])
    report.at_most("resident_gib", load.peak_gib, MEMORY_BOUND_GIB)
    report.at_most("seconds_to_serving", load.seconds_to_serving, START_BOUND_SECONDS)


def _server_config(sae: Path, d_sae: int) -> str:
    watched = "".join(
        f'[[monitoring.watch]]\nsae = "{watch.sae}"\nindex = {watch.index}\nalias = "{watch.alias}"\n'
        for watch in server_watch_list(d_sae)
    )
    return f'{watched}[[saes]]\nname = "{SAE_NAME}"\npath = "{sae.resolve()}"\n'


def _row(point: Point, name: str, rates: Rates) -> Row:
    return {
        "batch": point.batch,
        "context": point.context,
        "system": name,
        "rounds": len(rates.decode),
        "decode": median(rates.decode),
        "lowest": min(rates.decode),
        "highest": max(rates.decode),
        "with prefill": median(rates.total),
    }


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over the rounds: what else the machine did in a round, it did to both."""
    return median(one / other for one, other in zip(ours, theirs, strict=True))


def _options() -> argparse.Namespace:
    parser = parser_of("What steerd's engine costs next to plain transformers.")
    parser.add_argument(
        "--sae", type=Path, default=sae_folder("starter-14"), help="the SAE folder (default: starter-14)"
    )
    parser.add_argument("--rounds", type=int, default=4, help="at least so many a point")
    parser.add_argument(
        "--seconds", type=float, default=120.0, help="at least so long a point; not with --quick"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=BATCH_SIZES)
    parser.add_argument("--context", type=int, nargs="+", default=CONTEXTS)
    parser.add_argument("--parts", nargs="+", choices=("rates", "serving"), default=("rates", "serving"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
