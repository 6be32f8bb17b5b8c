"""The frontier: variance explained over L0, this trainer against SAELens's, same rows in the same order.

Both train the same architectures at the same widths, batch sizes and schedules, at each k with every learning
rate. Of these each side is held to its best: the one that explains most among those that leave at most 2 % of
the features inactive, or the one that leaves fewest where all leave more. SAELens gets what its short runs
need: a dead window of 20 steps and a decoder of norm 1. On held-out rows both are measured with a threshold
calibrated there to L0 = k, so that they stand at equal L0; the threshold that SAELens itself saved is shown
beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cached_rows import read_rows
from benchmarks.frontier_trials import Outcome, Trial, Trials
from benchmarks.report import Report, Row, parser_of, report_for

NAME = "frontier"
INACTIVE_SHARE = 0.02


def best(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome that explains most without losing features, or else the one that loses fewest."""
    alive = [outcome for outcome in outcomes if outcome.inactive_share <= INACTIVE_SHARE]
    if alive:
        return max(alive, key=lambda outcome: outcome.variance_explained)
    return min(outcomes, key=lambda outcome: outcome.inactive_share)


def measure(report: Report, options: argparse.Namespace) -> None:
    """Train every k with every rate on both sides, compare the best."""
    trials = Trials(read_rows(options.cache, options.hook_point, options.tokens, options.held_out), options)
    systems = {"steerd": trials.ours, **({"saelens": trials.saelens} if options.peer_python else {})}
    explained: dict[tuple[str, str, int], Outcome] = {}
    for architecture in options.architectures:
        for system, train in systems.items():
            for k in options.ks:
                searched = train([Trial(architecture, k, rate) for rate in options.learning_rates])
                explained[system, architecture, k] = best(searched)
                report.add_rows("learning rates", [_row(system, outcome) for outcome in searched])
                report.add_rows("frontier", [_row(system, best(searched))])
    for (system, architecture, k), ours in explained.items():
        peer = explained.get(("saelens", architecture, k))
        if system != "steerd":
            continue
        report.at_most(f"{architecture}_k{k}_dead_share", ours.inactive_share, INACTIVE_SHARE)
        if peer is not None:
            unexplained = (1 - ours.variance_explained) / (1 - peer.variance_explained)
            report.at_most(f"{architecture}_k{k}_unexplained_variance_over_saelens", unexplained, 1.0)


def _row(system: str, outcome: Outcome) -> Row:
    return {
        "system": system,
        "architecture": outcome.trial.architecture,
        "k": outcome.trial.k,
        "learning_rate": outcome.trial.learning_rate,
        "l0": outcome.l0,
        "variance_explained": outcome.variance_explained,
        "inactive_share": outcome.inactive_share,
        "own_threshold_l0": outcome.own_l0 if system == "saelens" else outcome.l0,
        "own_variance_explained": (
            outcome.own_variance_explained if system == "saelens" else outcome.variance_explained
        ),
    }


def main() -> None:
    """Run the benchmark."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--cache", type=Path, required=True, help="the data.cache folder of a finished run")
    parser.add_argument("--hook-point", default="blocks.14.hook_resid_post")
    parser.add_argument(
        "--peer-python", help="the Python of an environment with sae-lens; without it, ours alone"
    )
    parser.add_argument("--tokens", type=int, default=500_000)
    parser.add_argument("--held-out", type=int, default=50_000)
    parser.add_argument("--d-sae", type=int, default=2304)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--ks", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--architectures", nargs="+", default=["batch_topk"], choices=["batch_topk", "topk"])
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[1.5e-3, 3e-3, 6e-3])
    options = parser.parse_args()
    report = report_for(NAME, options)
    measure(report, options)
    report.finish()


if __name__ == "__main__":
    main()
