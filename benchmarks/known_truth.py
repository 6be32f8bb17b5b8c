"""How much of a known truth our SAEs find next to SAELens's, each side trained as suits it best.

The truth is that of the `small` preset of `sae-train known-truth`. Both sides search for the best way to
train each architecture at the preset's L0, by the rule of `known_truth_search` and over the same learning
rates, on the rows of seed 0. With what they found both train on the rows of the seeds that follow, as long
as in the search, and are scored on the same other rows: SAELens's SAEs as they were trained, by its own
evaluation, ours as they are served, by our scores. Our SAEs of one seed are also scored by SAELens, to show
that the two evaluations agree.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import torch

from benchmarks.known_truth_search import Outcome, Scores, Space, Trial, best_outcome, search
from benchmarks.known_truth_sides import OurSide, PeerSide, our_spaces, peer_spaces
from benchmarks.report import Report, Row, parser_of, report_for
from sae_train.architectures.catalogue import SETTINGS
from sae_train.known_truth.presets import PRESETS
from sae_train.known_truth.study import Finding
from steerd.sae.sae_file import SaeBundle, SaeMetadata, save_sae

NAME = "known_truth"
PRESET = PRESETS["small"]
SAMPLES, QUICK_SAMPLES = 300_000, 40_000
SCORES = ("mcc", "f1", "uniqueness", "variance_explained", "l0", "dead")
AGREEMENT = 1e-6
L0_TOLERANCE = 0.05
SEARCH_SEED = 0

Side = OurSide | PeerSide


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a side."""

    side: Side
    searched: list[Outcome]
    best: list[Outcome]
    """Of the search, one an architecture."""
    compared: list[Outcome]
    """The best ways of training, with other seeds."""


def main() -> None:
    """Search and train on both sides at the same time, compare, print, write."""
    options = _options()
    torch.set_num_threads(1)
    report = report_for(NAME, options)
    preset = dataclasses.replace(PRESET, samples=options.samples)
    ours = OurSide(preset)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sides: list[tuple[Side, dict[str, Space]]] = [(ours, our_spaces(preset))]
        if options.peer_python is None:
            print("left out, for want of --peer-python: SAELens")
        else:
            peer = PeerSide(preset, python=options.peer_python, processes=options.processes, folder=folder)
            sides.append((peer, peer_spaces(preset)))
        with ThreadPoolExecutor(len(sides)) as pool:
            measured = list(pool.map(lambda side: measure(side[0], side[1], options), sides))
        for one in measured:
            add_search(report, one)
        add_comparison(report, [(one.side.name, one.compared) for one in measured])
        if options.peer_python is not None:
            add_agreement(report, peer, ours.findings, folder)
    report.finish()


def measure(side: Side, spaces: dict[str, Space], options: argparse.Namespace) -> Measured:
    """Search on one seed, then train what is best with the others."""
    wanted = [spaces[name] for name in options.architectures]
    searched = search(wanted, lambda trials: side.outcomes(trials, [SEARCH_SEED]), aim=PRESET.l0)
    best = [best_outcome(_of(searched, space.architecture), PRESET.l0, space.nearness) for space in wanted]
    seeds = range(SEARCH_SEED + 1, SEARCH_SEED + 1 + options.seeds)
    return Measured(side, searched, best, side.outcomes([outcome.trial for outcome in best], seeds))


def add_search(report: Report, measured: Measured) -> None:
    """Add every trial of a search, the chosen ones marked."""
    for outcome in sorted(measured.searched, key=lambda outcome: outcome.trial.architecture):
        scores = {name: outcome.scores[name] for name in ("mcc", "f1", "l0", "dead")}
        mark = "best" if outcome in measured.best else ""
        report.add_rows(
            f"search of {measured.side.name}", [{**_described(outcome.trial), **scores, "chosen": mark}]
        )


def add_comparison(report: Report, compared: Sequence[tuple[str, Sequence[Outcome]]]) -> None:
    """Add a row for each architecture and side, and the margins as targets."""
    for name in dict.fromkeys(outcome.trial.architecture for outcome in compared[0][1]):
        sides = [(system, _of(outcomes, name)) for system, outcomes in compared]
        report.add_rows("recovery", [_row(system, outcomes) for system, outcomes in sides])
        if len(sides) == 2:
            ours, theirs = ([outcome.scores for outcome in outcomes] for _, outcomes in sides)
            for score in ("mcc", "f1"):
                margin = _mean(ours, score) - _mean(theirs, score)
                report.at_least(f"{name}: {score} less SAELens's", margin, 0.0)
            apart = abs(_mean(ours, "l0") / _mean(theirs, "l0") - 1)
            report.at_most(f"{name}: L0 apart from SAELens's", apart, L0_TOLERANCE)


def add_agreement(report: Report, peer: PeerSide, findings: Sequence[Finding], folder: Path) -> None:
    """Have SAELens score our SAEs of one seed; add how far its scores and ours are apart."""
    own = [finding for finding in findings if finding.seed == findings[0].seed]
    answers = peer.answers([{"folder": str(_saved(finding, folder))} for finding in own])
    for finding, answer in zip(own, answers, strict=True):
        ours = dataclasses.asdict(finding.scores)
        apart = {name: abs(ours[name] - value) for name, value in answer["scores"].items()}
        report.add_rows("agreement", [{"architecture": finding.entrant.architecture, **apart}])
        report.at_most(f"{finding.entrant.architecture}: scores apart", max(apart.values()), AGREEMENT)


def _saved(finding: Finding, folder: Path) -> Path:
    """An SAE's folder, which SAELens reads."""
    path = folder / finding.entrant.architecture
    metadata = SaeMetadata.describe(
        finding.sae, name=path.name, model_name="known-truth", hook_point="blocks.0.hook_resid_post"
    )
    save_sae(path, SaeBundle(sae=finding.sae, metadata=metadata))
    return path


def _row(system: str, outcomes: Sequence[Outcome]) -> Row:
    scores = [outcome.scores for outcome in outcomes]
    means: dict[str, float] = {}
    for name in SCORES:
        means[name] = _mean(scores, name)
        if name in ("mcc", "f1"):
            means[f"{name} ±"] = stdev(one[name] for one in scores) if len(scores) > 1 else 0.0
    trial = outcomes[0].trial
    described: Row = {"architecture": trial.architecture, "system": system, "rate": trial.learning_rate}
    return {**described, "seeds": len(scores), **means}


def _described(trial: Trial) -> dict[str, str | float]:
    settings = json.dumps(dict(trial.settings))
    return {"architecture": trial.architecture, "rate": trial.learning_rate, "settings": settings}


def _mean(scores: Sequence[Scores], name: str) -> float:
    return fmean(one[name] for one in scores)


def _of(outcomes: Sequence[Outcome], architecture: str) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.trial.architecture == architecture]


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    add = parser.add_argument
    add("--peer-python", metavar="PATH", help="the Python of an environment that has sae-lens")
    add(
        "--samples",
        type=int,
        help=f"rows to train each SAE on (default: {SAMPLES}, with --quick {QUICK_SAMPLES})",
    )
    add("--seeds", type=int, default=3, help="to compare with, besides the one searched with")
    add("--architectures", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS), metavar="NAME")
    add("--processes", type=int, default=os.cpu_count() or 1, help="of SAELens (default: %(default)s)")
    options = parser.parse_args()
    if options.samples is None:
        options.samples = QUICK_SAMPLES if options.quick else SAMPLES
    return options


if __name__ == "__main__":
    main()
