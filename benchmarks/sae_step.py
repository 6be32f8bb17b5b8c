"""Training tokens a second of one SAE on given activations: ours next to SAELens and, where given, others.

What is timed is each library's own training step: forward, backward, gradient clip, constraints, optimiser
and the count of dead features, none of whom is dead yet, in float32. Every architecture runs with each of a
library's settings that change its speed. All systems of an architecture take turns over several rounds, each
round beginning with another one, and ratios are medians over the rounds; "CPU second" is one second of one
core, which says more than the clock on a machine that is busy with other things. standard, gated and
jumprelu start as sparse as a trained SAE is, and stay so.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from benchmarks.report import Report, Row, parser_of, report_for
from benchmarks.step_systems import OwnSteps, PeerProcess, PeerSteps, StepSystem, Wish, peer_process
from sae_train.architectures.catalogue import SETTINGS

NAME = "sae_step"
OURS = "steerd"
TARGETS = {"topk": 3.0, "batch_topk": 2.0}

_FREE_NORMS = {"rescale_acts_by_decoder_norm": False}
# Library -> architecture -> the settings of its own that make a difference to its speed, by name.
VARIANTS: dict[str, dict[str, dict[str, dict[str, Any]]]] = {
    "saelens": {
        "standard": {"": {}},
        "gated": {"": {}},
        "topk": {
            "": {},
            "free norms": _FREE_NORMS,
            "free norms, sparse": _FREE_NORMS | {"use_sparse_activations": True},
        },
        "batch_topk": {"": {}, "free norms": _FREE_NORMS},
        "matryoshka_batch_topk": {"": {}, "free norms": _FREE_NORMS},
        "jumprelu": {"": {}},
    },
    "dictionary_learning": {name: {"": {}} for name in SETTINGS},
    "sparsify": {"topk": {"": {}}},
}


@dataclass(slots=True)
class Rates:
    """Tokens a second of one system by round."""

    clock: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def main() -> None:
    """Measure, print, write."""
    options = _options()
    report = report_for(NAME, options)
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.npy"
        np.save(rows, scaled_rows(options).numpy())
        peers = {
            library: stack.enter_context(peer_process(library, python, threads=options.threads))
            for library, python in _peers(options).items()
        }
        total = len(options.architectures) * len(options.d_sae)
        progress = stack.enter_context(Progress(transient=True))
        task = progress.add_task("measuring", total=total)
        for d_sae in options.d_sae:
            for architecture in options.architectures:
                measure(report, wish_for(architecture, d_sae, rows, options), peers, options)
                progress.advance(task)
        versions = {
            library: ", ".join(map(" ".join, peer.versions.items())) for library, peer in peers.items()
        }
    report.add_rows("Peers", [{"library": name, "versions": text} for name, text in versions.items()])
    report.finish()


def measure(
    report: Report, wish: Wish, peers: Mapping[str, PeerProcess], options: argparse.Namespace
) -> None:
    """All systems of one architecture and width, in turns; a row each."""
    systems: dict[str, StepSystem] = {OURS: OwnSteps(wish)}
    for library, peer in peers.items():
        for variant, settings in VARIANTS[library].get(wish.architecture, {}).items():
            name = f"{library} ({variant})" if variant else library
            systems[name] = peer.build(name, replace(wish, options=settings))
    for system in systems.values():
        system.run(options.warm_up_steps)
    rates = in_turns(systems, wish.batch_size, rounds=options.rounds, steps=options.steps)
    report.add_rows(
        "Training tokens a second",
        [_row(wish, name, rates[name], rates[OURS], systems[name].l0()) for name in systems],
    )
    saelens = [rates[name] for name in systems if name.startswith("saelens")]
    if saelens and wish.architecture in TARGETS:
        fastest = max(saelens, key=lambda one: median(one.clock))
        report.at_least(
            f"{wish.architecture}.d_sae_{wish.d_sae}.over_saelens",
            _ratio(rates[OURS].clock, fastest.clock),
            TARGETS[wish.architecture],
        )
    for system in systems.values():
        if isinstance(system, PeerSteps):
            system.drop()


def in_turns(
    systems: Mapping[str, StepSystem], batch_size: int, *, rounds: int, steps: int
) -> dict[str, Rates]:
    """Each system takes `steps` steps a round, every round beginning with another system."""
    rates = {name: Rates() for name in systems}
    names = list(systems)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            times = systems[name].run(steps)
            rates[name].clock.append(batch_size / median(times.seconds))
            rates[name].cpu.append(batch_size / median(times.cpu_seconds))
    return rates


def wish_for(architecture: str, d_sae: int, rows: Path, options: argparse.Namespace) -> Wish:
    """What every system of an architecture and width is to train."""
    return Wish(
        architecture=architecture,
        d_sae=d_sae,
        k=options.k,
        widths=(d_sae // 16, d_sae // 8, d_sae // 4, d_sae // 2, d_sae),
        batch_size=options.batch_size,
        rows=str(rows),
        threads=options.threads,
    )


def scaled_rows(options: argparse.Namespace) -> Tensor:
    """Rows of a file or planted ones, float32, scaled so that their mean squared norm is d_model."""
    if options.rows is None:
        rows = planted_rows(4 * options.batch_size, options.d_model)
    else:
        stored = np.load(options.rows, mmap_mode="r")[: 8 * options.batch_size]
        rows = torch.from_numpy(stored.astype(np.float32))
    scale: Tensor = (rows.shape[1] / rows.square().sum(dim=1).mean()).sqrt()
    return rows * scale


def planted_rows(num_rows: int, d_model: int) -> Tensor:
    """Sums of about 30 of 8 * d_model random directions, most of them rare, with a mean and some noise."""
    generator = torch.Generator().manual_seed(0)
    num_features = 8 * d_model
    directions = torch.randn(num_features, d_model, generator=generator) / d_model**0.5
    frequency = 1 / torch.arange(1, num_features + 1) ** 0.5
    frequency = (30 * frequency / frequency.sum()).clamp(max=0.5)
    acts = (torch.rand(num_rows, num_features, generator=generator) < frequency).float()
    acts *= 1 + torch.rand(num_rows, num_features, generator=generator)
    noise = 0.3 * torch.randn(num_rows, d_model, generator=generator) / d_model**0.5
    rows: Tensor = acts @ directions + noise + torch.randn(d_model, generator=generator) / d_model**0.5
    return rows


def _row(wish: Wish, name: str, rates: Rates, ours: Rates, l0: float) -> Row:
    return {
        "d_sae": wish.d_sae,
        "architecture": wish.architecture,
        "system": name,
        "rounds": len(rates.clock),
        "tokens/s": median(rates.clock),
        "lowest": min(rates.clock),
        "highest": max(rates.clock),
        "steerd over it": _ratio(ours.clock, rates.clock),
        "tokens a CPU second": median(rates.cpu),
        "steerd over it, CPU": _ratio(ours.cpu, rates.cpu),
        "L0": l0,
    }


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over the rounds: what else the machine did in a round, it did to both."""
    return median(one / other for one, other in zip(ours, theirs, strict=True))


def _peers(options: argparse.Namespace) -> dict[str, Path]:
    given = {
        "saelens": options.peer_python,
        "dictionary_learning": options.dictionary_learning_python,
        "sparsify": options.sparsify_python,
    }
    for library in (name for name, python in given.items() if python is None):
        print(f"left out, for want of its Python: {library}")
    return {library: python for library, python in given.items() if python is not None}


def _options() -> argparse.Namespace:
    parser = parser_of("What a training step of an SAE costs, next to other libraries.")
    parser.add_argument("--peer-python", type=Path, help="the Python of an environment with SAELens")
    parser.add_argument("--dictionary-learning-python", type=Path)
    parser.add_argument("--sparsify-python", type=Path)
    parser.add_argument("--rows", type=Path, help="an .npy of activations [rows, d_model]; default: planted")
    parser.add_argument("--d-model", type=int, default=576, help="of planted rows")
    parser.add_argument("--d-sae", type=int, nargs="+", default=[4608, 9216])
    parser.add_argument("--architectures", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--warm-up-steps", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2, help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    if options.quick:
        options.d_sae, options.batch_size, options.rounds = [1024], 1024, 2
    return options


if __name__ == "__main__":
    main()
