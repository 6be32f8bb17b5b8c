"""How much of a known truth our SAEs find next to SAELens's, from the same rows.

The truth is the `small` preset of `sae-train known-truth`. Both sides train every architecture on the rows of
each seed and are scored on the same other rows: SAELens's SAEs as they were trained, by its own evaluation,
ours as they are served, by our scores. Our SAEs of the first seed are also scored by SAELens, to show that
the two evaluations agree. Learning rates, and what decides the L0 where no k does, are each side's best in a
search on seed 0.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.progress import Progress

from benchmarks.report import Report, Row, parser_of, report_for
from sae_train.architectures.catalogue import SETTINGS
from sae_train.known_truth.presets import PRESETS, Preset
from sae_train.known_truth.study import Entrant, Finding, study
from steerd.sae.sae_file import SaeBundle, SaeMetadata, save_sae

NAME = "known_truth"
PRESET = PRESETS["small"]
QUICK_SAMPLES = 60_000
SCORES = ("mcc", "f1", "uniqueness", "variance_explained", "l0", "dead")
AGREEMENT = 1e-6
L0_TOLERANCE = 0.05
_ROOT = Path(__file__).parent.parent

Answer = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRecipe:
    """How SAELens trains an architecture."""

    learning_rate: float
    init_norm: float
    normalize: str = "none"
    settings: dict[str, Any]  # Any: SAELens's configuration


PEER_RECIPES: dict[str, PeerRecipe] = {
    "standard": PeerRecipe(learning_rate=3e-3, init_norm=0.1, settings={"l1_coefficient": 5.0}),
    "gated": PeerRecipe(learning_rate=3e-3, init_norm=0.1, settings={"l1_coefficient": 5.0}),
    "topk": PeerRecipe(learning_rate=3e-3, init_norm=0.1, settings={"k": PRESET.l0}),
    "batch_topk": PeerRecipe(learning_rate=3e-3, init_norm=0.1, settings={"k": PRESET.l0}),
    "matryoshka_batch_topk": PeerRecipe(
        learning_rate=3e-3, init_norm=0.1, settings={"k": PRESET.l0, "matryoshka_widths": [32, 128, 256]}
    ),
    "jumprelu": PeerRecipe(
        learning_rate=3e-3,
        init_norm=0.1,
        settings={"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": float(PRESET.l0)},
    ),
}


def main() -> None:
    """Train and score both sides, compare, print, write."""
    options = _options()
    report = report_for(NAME, options)
    preset = dataclasses.replace(PRESET, samples=options.samples)
    findings = our_findings(preset, options)
    if options.peer_python is None:
        print("left out, for want of --peer-python: SAELens")
        peers, agreement = [], []
    else:
        with tempfile.TemporaryDirectory() as folder:
            scored = _saved(findings, Path(folder))
            jobs = [*({"folder": str(path)} for path, _ in scored), *peer_jobs(preset, options)]
            answers = list(peer_answers(jobs, preset, options, Path(folder)))
            agreement = [(finding, answer) for (_, finding), answer in zip(scored, answers, strict=False)]
            peers = answers[len(scored) :]
    add_comparison(report, findings, peers)
    add_agreement(report, agreement)
    report.finish()


def our_findings(preset: Preset, options: argparse.Namespace) -> list[Finding]:
    """Train our SAEs and score them."""
    entrants = [
        Entrant(architecture=name, settings=preset.settings(name), learning_rate=preset.learning_rate)
        for name in options.architectures
    ]
    with Progress(transient=True) as progress:
        task = progress.add_task("ours", total=preset.samples * options.seeds)
        return study(
            preset,
            entrants,
            seeds=range(options.seeds),
            on_step=lambda rows: progress.advance(task, rows),
        )


def peer_jobs(preset: Preset, options: argparse.Namespace) -> Iterator[Answer]:
    """What SAELens is to train."""
    for seed in range(options.seeds):
        for name in options.architectures:
            yield {
                "architecture": name,
                "seed": seed,
                "d_sae": preset.d_sae,
                "samples": preset.samples,
                **dataclasses.asdict(PEER_RECIPES[name]),
            }


def peer_answers(
    jobs: Sequence[Answer], preset: Preset, options: argparse.Namespace, folder: Path
) -> list[Answer]:
    """Let SAELens do the jobs in several processes of one thread each; the answers in the jobs' order."""
    shares = [jobs[start :: options.processes] for start in range(options.processes)]
    with ThreadPoolExecutor(options.processes) as pool:
        done = pool.map(
            lambda index: _peer_process(shares[index], preset, options.peer_python, folder / f"{index}.json"),
            range(options.processes),
        )
        answers: list[Answer | None] = [None] * len(jobs)
        for start, share in enumerate(done):
            answers[start :: options.processes] = share
    return [answer for answer in answers if answer is not None]


def _peer_process(jobs: Sequence[Answer], preset: Preset, python: str, spec: Path) -> list[Answer]:
    values = {
        "truth": dataclasses.asdict(preset.truth),
        "batch_size": preset.batch_size,
        "threads": 1,
        "jobs": list(jobs),
    }
    spec.write_text(json.dumps(values), encoding="utf-8")
    finished = subprocess.run(
        [python, "-m", "benchmarks.known_truth_peer", str(spec)],
        env={**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]


def _saved(findings: Sequence[Finding], folder: Path) -> list[tuple[Path, Finding]]:
    """The first seed's SAEs in folders that SAELens reads."""
    saved = []
    for finding in findings:
        if finding.seed == 0:
            path = folder / finding.entrant.architecture
            metadata = SaeMetadata.describe(
                finding.sae, name=path.name, model_name="known-truth", hook_point="blocks.0.hook_resid_post"
            )
            save_sae(path, SaeBundle(sae=finding.sae, metadata=metadata))
            saved.append((path, finding))
    return saved


def add_comparison(report: Report, findings: Sequence[Finding], peers: Sequence[Answer]) -> None:
    """Add a row for each side and architecture, and the margins as targets."""
    for name in dict.fromkeys(finding.entrant.architecture for finding in findings):
        ours = [
            dataclasses.asdict(finding.scores) for finding in findings if finding.entrant.architecture == name
        ]
        theirs = [answer["scores"] for answer in peers if answer["job"]["architecture"] == name]
        report.add_rows("recovery", [_row(name, "steerd", ours)])
        if theirs:
            report.add_rows("recovery", [_row(name, "SAELens", theirs)])
            for score in ("mcc", "f1"):
                report.at_least(
                    f"{name}: {score} less SAELens's", _mean(ours, score) - _mean(theirs, score), 0.0
                )
            apart = abs(_mean(ours, "l0") / _mean(theirs, "l0") - 1)
            report.at_most(f"{name}: L0 apart from SAELens's", apart, L0_TOLERANCE)


def add_agreement(report: Report, pairs: Sequence[tuple[Finding, Answer]]) -> None:
    """Add how far our scores and SAELens's are apart on the same SAEs and rows."""
    for finding, answer in pairs:
        ours = dataclasses.asdict(finding.scores)
        apart = {name: abs(ours[name] - value) for name, value in answer["scores"].items()}
        report.add_rows("agreement", [{"architecture": finding.entrant.architecture, **apart}])
        report.at_most(f"{finding.entrant.architecture}: scores apart", max(apart.values()), AGREEMENT)


def _row(architecture: str, system: str, scores: Sequence[Answer]) -> Row:
    means: dict[str, float] = {}
    for name in SCORES:
        means[name] = _mean(scores, name)
        if name in ("mcc", "f1"):
            means[f"{name} ±"] = stdev(one[name] for one in scores) if len(scores) > 1 else 0.0
    return {"architecture": architecture, "system": system, "seeds": len(scores), **means}


def _mean(scores: Sequence[Answer], name: str) -> float:
    return fmean(one[name] for one in scores)


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    add = parser.add_argument
    add("--peer-python", metavar="PATH", help="the Python of an environment that has sae-lens")
    add(
        "--samples",
        type=int,
        help=f"rows to train on (default: {PRESET.samples}, with --quick {QUICK_SAMPLES})",
    )
    add("--seeds", type=int, default=3)
    add("--architectures", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS), metavar="NAME")
    add("--processes", type=int, default=os.cpu_count() or 1, help="of SAELens (default: %(default)s)")
    options = parser.parse_args()
    if options.samples is None:
        options.samples = QUICK_SAMPLES if options.quick else PRESET.samples
    return options


if __name__ == "__main__":
    main()
