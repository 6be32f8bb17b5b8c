"""What serving costs: decode tokens a second of the default host, plain and in steerd, idle and steering.

Four systems, interleaved over several rounds: (a) transformers' generate, (b) transformers' continuous
batching, (c) steerd's engine with nothing asked of it, (d) the same with another intervention for every
request and 64 features watched by each request and by the server. Ratios are medians over the rounds.
Prompts are random ordinary tokens (what a step costs does not depend on them) and no token ends a text.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median

import torch
from rich.progress import Progress

import steerd
from benchmarks.decode_rate import Arrivals
from benchmarks.generation_systems import (
    DenseGenerate,
    PlainContinuousBatching,
    Prompts,
    SteerdEngine,
    load_endless_host,
)
from benchmarks.report import Report, Row, parser_of, report_for
from steerd.config import EngineConfig

NAME = "engine_overhead"
STARTER_SAE_FOLDER = Path(steerd.__file__).parent / "starter_sae"

BATCH_SIZES = (1, 16)
CONTEXTS = (64, 512)

IDLE_BOUND = 0.87
STEERED_BOUND = 0.95

System = Callable[[Prompts, int], Arrivals]


@dataclass(frozen=True, slots=True)
class Point:
    """One place on the map: how many requests at once, and how long their prompts are."""

    batch: int
    context: int

    def __str__(self) -> str:
        return f"batch_{self.batch}_context_{self.context}"

    def prompts(self, vocab_size: int, special: frozenset[int]) -> Prompts:
        """The same random prompts every time."""
        ordinary = torch.tensor([i for i in range(vocab_size) if i not in special])
        generator = torch.Generator().manual_seed(self.batch * 10_000 + self.context)
        drawn = torch.randint(len(ordinary), (self.batch, self.context), generator=generator)
        ids: list[list[int]] = ordinary[drawn].tolist()
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
    measure_rates(report, options)
    report.finish()


def measure_rates(report: Report, options: argparse.Namespace) -> None:
    """The rates of the four systems at every point, with their targets."""
    config = EngineConfig()
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
            task = progress.add_task("measuring", total=len(points) * rounds * len(systems))
            for system in systems.values():
                system([[1] * 16], 4)  # the first call of a process allocates
            for point in points:
                prompts = point.prompts(plain.vocab_size, plain.special_token_ids)
                num_new = point.num_new(decode_tokens, config.max_batch_tokens)
                rates = measure_point(systems, prompts, num_new, rounds, lambda: progress.advance(task))
                add_point(report, point, rates)
    finally:
        idle.close()
        steered.close()


def measure_point(
    systems: Mapping[str, System], prompts: Prompts, num_new: int, rounds: int, tick: Callable[[], None]
) -> dict[str, Rates]:
    """Each system once a round, every round beginning with another one."""
    rates = {name: Rates() for name in systems}
    names = list(systems)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            arrivals = systems[name](prompts, num_new)
            assert all(len(times) == num_new for times in arrivals.tokens), f"{name} ended early"
            rates[name].decode.append(arrivals.decode_rate())
            rates[name].total.append(arrivals.total_rate())
            tick()
    return rates


def add_point(report: Report, point: Point, rates: Mapping[str, Rates]) -> None:
    """One row a system, and the two targets of the point."""
    dense, packed, idle, steered = (rates[name].decode for name in rates)
    best = [max(pair) for pair in zip(dense, packed, strict=True)]
    report.add_rows("Tokens a second, all requests together", [_row(point, *item) for item in rates.items()])
    report.at_least(f"c_over_best.{point}", _ratio(idle, best), IDLE_BOUND)
    report.at_least(f"d_over_c.{point}", _ratio(steered, idle), STEERED_BOUND)


def _row(point: Point, name: str, rates: Rates) -> Row:
    return {
        "batch": point.batch,
        "context": point.context,
        "system": name,
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
        "--sae", type=Path, default=STARTER_SAE_FOLDER, help="the SAE folder; default: the starter"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, nargs="+", default=BATCH_SIZES)
    parser.add_argument("--context", type=int, nargs="+", default=CONTEXTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
