"""What steering, watching and reading whole dictionaries cost a decode step, over how much of it there is.

A batch of requests decodes in several engines side by side, a step each in turn, and so do transformers'
generate and its continuous batching. Every ratio is the median over pairs of steps of one round:
- with K different configurations (request i is steered by number i modulo K) at 1, 4 and all layers, with and
  without a server's watch list of 256 features spread over those layers, against an engine with nothing
  steered or watched;
- of that engine against the faster of the two plain ones;
- with the 32 strongest features of every token wanted, of one SAE and of all, against the time that their
  encoders and `topk` alone take on as many rows; and with every 16th token's L0, as a server has by default.
Each layer has an SAE, a starter or a random one. Prompts are random ordinary tokens and no token ends a text.
Nothing is sampled for L0 but where that is said, on either side.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import median, quantiles

import torch

from benchmarks.generation_systems import load_endless_host, sharing_weights
from benchmarks.layer_saes import configurations, layer_saes, sae_name, spread_layers, watch_list
from benchmarks.paced_systems import Ask, PacedContinuousBatching, PacedEngine, PacedGenerate, engine_config
from benchmarks.report import Report, Row, parser_of, report_for
from benchmarks.turns import PacedSystem, Prompts, Stepper, num_new_tokens, take_turns
from benchmarks.whole_encoding import WholeEncoding
from steerd.config import EngineConfig, MonitoringConfig
from steerd.engine.request import Capture
from steerd.host.host_model import HostModel
from steerd.sae.sae_file import SaeBundle
from steerd.starters import STARTERS, sae_folder

NAME = "k_sweep"
RANDOM_D_SAE = 1152
IDLE = "idle"
PARTS = ("plain", "steering", "monitoring")

ASKED_BOUND = 0.97
IDLE_BOUND = 0.95
MONITORING_BOUND = 1.5

Seconds = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured."""

    batch: int
    context: int
    steps: int
    counts: tuple[int, ...]
    """Numbers of configurations; 0 is measured with the watch list only."""
    layers: tuple[int, ...]
    """Numbers of layers, of which 1 is measured for one SAE's monitoring."""
    watched: int
    top_k: int


FULL = Sizes(batch=32, context=64, steps=40, counts=(0, 1, 8, 32), layers=(1, 4, 30), watched=256, top_k=32)
QUICK = Sizes(batch=4, context=16, steps=3, counts=(0, 4), layers=(1, 30), watched=32, top_k=8)


class Bench:
    """A host with its SAEs, and engines on it that share the weights."""

    def __init__(self, host: HostModel, saes: Sequence[SaeBundle], sizes: Sizes) -> None:
        self._host = host
        self.saes = saes
        self.sizes = sizes
        generator = torch.Generator().manual_seed(sizes.batch)
        last = min(host.vocab_size - len(host.special_token_ids), 40_000)
        self._prompts: Prompts = torch.randint(  # ids below 1000 may be special, where there are so many
            min(1000, last // 2), last, (sizes.batch, sizes.context), generator=generator
        ).tolist()
        self._num_new = num_new_tokens(sizes.steps, self._prompts, EngineConfig().max_batch_tokens)
        self._config = engine_config(host, self._prompts, self._num_new)

    def layers(self, count: int) -> tuple[int, ...]:
        """That many layers, or all there are."""
        return spread_layers(self._host.num_layers, min(count, self._host.num_layers))

    def engine(self, ask: Ask, *, cuda_graphs: str = "auto") -> PacedEngine:
        """An engine that will be asked for this."""
        config = replace(self._config, cuda_graphs=cuda_graphs)
        return PacedEngine(sharing_weights(self._host), self.saes, config, ask)

    def plain_systems(self) -> dict[str, PacedSystem]:
        """transformers' ways to run the batch."""
        hosts = [sharing_weights(self._host) for _ in range(2)]
        return {
            "generate": PacedGenerate(hosts[0]),
            "continuous batching": PacedContinuousBatching(hosts[1], self._config),
        }

    def run(self, systems: Mapping[str, PacedSystem], others: Mapping[str, Stepper] | None = None) -> Seconds:
        """Seconds of the steps of all, which decode the same prompts side by side."""
        begun = []
        try:
            for system in systems.values():
                begun.append(system)
                system.begin(self._prompts, self._num_new)
            return take_turns({**systems, **(others or {})}, self.sizes.steps)
        finally:
            for system in begun:
                system.end()


def main() -> None:
    """Measure, print, write."""
    options = _options()
    report = report_for(NAME, options)
    host = load_endless_host()
    starters = {int(name.partition("-")[2]): sae_folder(name) for name in STARTERS}
    bench = Bench(host, layer_saes(host, RANDOM_D_SAE, starters), QUICK if options.quick else FULL)
    measure(report, bench, options.parts)
    report.finish()


def measure(report: Report, bench: Bench, parts: Sequence[str] = PARTS) -> None:
    """All parts asked for, with their targets."""
    if "plain" in parts:
        measure_plain(report, bench)
    if "steering" in parts:
        for count in bench.sizes.layers:
            measure_steering(report, bench, bench.layers(count))
    if "monitoring" in parts:
        measure_monitoring(report, bench)


def measure_plain(report: Report, bench: Bench) -> None:
    """The engine with nothing asked of it, against plain transformers."""
    plain = bench.plain_systems()
    seconds = bench.run({IDLE: bench.engine(Ask()), **plain})
    title = f"Nothing steered or watched, {bench.sizes.batch} requests"
    report.add_rows(title, [_row({"system": name}, seconds, name, IDLE) for name in seconds])
    best = min(plain, key=lambda name: median(seconds[name]))
    report.at_least("idle_over_best_plain", ratio(seconds, IDLE, best), IDLE_BOUND)


def measure_steering(report: Report, bench: Bench, layers: Sequence[int]) -> None:
    """Every number of configurations, with and without the watch list, at some layers."""
    systems = {IDLE: bench.engine(Ask())}
    for count, watched in product(bench.sizes.counts, (0, bench.sizes.watched)):
        if count or watched:
            ask = Ask(
                configurations=configurations(bench.saes, layers, count) or ((),),
                watch=watch_list(bench.saes, layers, watched),
            )
            systems[f"k_{count}_layers_{len(layers)}_watched_{watched}"] = bench.engine(ask)
    seconds = bench.run(systems)
    for name in list(systems)[1:]:
        what = dict(zip(("K", "layers", "watched"), map(int, name.split("_")[1::2]), strict=True))
        report.add_rows(
            f"Steered and watched, {bench.sizes.batch} requests", [_row(what, seconds, name, IDLE)]
        )
        report.at_least(f"asked_over_idle.{name}", ratio(seconds, name, IDLE), ASKED_BOUND)


def measure_monitoring(report: Report, bench: Bench) -> None:
    """Whole dictionaries read, against their arithmetic alone."""
    sizes = bench.sizes
    parts = {"one": bench.layers(1), "all": bench.layers(len(bench.saes))}
    sampled = "L0 of some tokens"
    systems = {
        IDLE: bench.engine(Ask()),
        sampled: bench.engine(Ask(sample_every=MonitoringConfig().sample_every)),
    }
    alone: dict[str, Stepper] = {}
    for part, layers in parts.items():
        capture = Capture(top_k=sizes.top_k, top_k_saes=tuple(map(sae_name, layers)))
        systems[f"top_k of {part}"] = bench.engine(Ask(capture=capture))
        saes = [bench.saes[layer].sae for layer in layers]
        alone[f"encoders of {part}"] = WholeEncoding(saes, rows=sizes.batch, top_k=sizes.top_k)
    seconds = bench.run(systems, alone)
    title = f"Whole dictionaries, {sizes.batch} requests"
    report.add_rows(title, [_row({"system": name}, seconds, name, IDLE) for name in systems])
    for part, layers in parts.items():
        asked, arithmetic = seconds[f"top_k of {part}"], median(seconds[f"encoders of {part}"])
        added = median(one - other for one, other in zip(asked, seconds[IDLE], strict=True))
        row = {"SAEs": len(layers), "ms added": 1000 * added, "ms of the encoders": 1000 * arithmetic}
        report.add_rows("What top_k adds to a step, and its arithmetic alone", [row])
        report.at_most(f"monitoring_over_arithmetic.{part}", added / arithmetic, MONITORING_BOUND)


def ratio(seconds: Seconds, ours: str, theirs: str) -> float:
    """How many times as fast our steps are as theirs: the median over pairs of one round."""
    return median(_ratios(seconds, ours, theirs))


def _ratios(seconds: Seconds, ours: str, theirs: str) -> list[float]:
    return [their / our for our, their in zip(seconds[ours], seconds[theirs], strict=True)]


def _row(what: Row, seconds: Seconds, name: str, reference: str) -> Row:
    low, middle, high = quantiles(_ratios(seconds, name, reference), n=4, method="inclusive")
    return {
        **what,
        "ms a step": 1000 * median(seconds[name]),
        f"{reference} ms": 1000 * median(seconds[reference]),
        f"speed over {reference}": middle,
        "lower quartile": low,
        "upper quartile": high,
    }


def _options() -> argparse.Namespace:
    parser = parser_of("What steering, watching and whole dictionaries cost a decode step.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
