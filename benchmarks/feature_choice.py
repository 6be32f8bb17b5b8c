"""What it is worth to choose features by what they say: steering by the features with the best output scores,
by those with the best labels, and by any, at equal fluency.

All three choices are of live features of one SAE whose labels were tested. Each feature is added at the same
lengths, shares of the median residual norm, and questions are answered, by the server's EvaluateSteering. The
unsteered host then reads the answers, without knowing what wrote them.

Success is `concept`: the largest activation of the feature in an answer, as a share of its recorded maximum.
It asks whether the text has become one in which the feature fires by itself. No choice has seen it: output
scores come from next-token probabilities after another text, label scores from texts of the corpus.
`active share`, the share of the answer's tokens on which the feature fires, is another measure of that kind.
`promoted share`, of the tokens that the feature promotes, is not: output scores are about the same tokens. It
is told, and no target is set for it.

Each measure is a gain over the unsteered answers, and is read off the feature's curve where fluency has
fallen to the same mark, between two strengths by a straight line; at the largest strength where it never
falls so far. Fluency is the ratio of the perplexities, less what repeats itself more.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

from rich.progress import track

from benchmarks.report import Report, Row, parser_of, report_for
from steerd.cli.server_process import free_ports, server_process, stop, wait_until_serving
from steerd.client_messages import ChatTurn, Unit
from steerd.feature_client import FeatureClient
from steerd.sae.sae_file import load_sae
from steerd.starters import sae_folder
from steerd.studies.dose_curve import DoseCurve, DosePoint
from steerd.studies.output_table import RankedOutput
from steerd.study_wire.evaluate import EvaluateCall
from steerd.study_wire.outputs import OutputsCall
from steerd.study_wire.study_text import StudyText

NAME = "feature_choice"
STRENGTHS = (0.15, 0.3, 0.5, 0.8)
FLUENCY = 0.6
MEASURES = ("concept", "active share", "promoted share")
BOUNDS = {"label": 1.0, "chance": 2.0}
"""How many times the success of each other choice; arXiv 2505.20063 tells of two to three times."""
LEAST = 0.01
AT_ONCE = 4
SERVER_SECONDS = 300.0
PROMPTS = (
    "Tell me about your weekend.",
    "What should I read next?",
    "Describe something that you see from a window.",
    "Give me an idea for a present.",
)


def main() -> None:
    """Choose, steer, compare, write."""
    options = _options()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # the server's
    report = report_for(NAME, options)
    d_sae = load_sae(sae_folder(options.sae)).sae.d_sae
    with serving(d_sae) as client:
        ranked = client.rank_outputs(OutputsCall(saes=(options.sae,), top=d_sae)).features
        groups = chosen(ranked, 1 if options.quick else options.count, options.seed)
        calls = {found.feature: call_of(found, options) for group in groups.values() for found in group}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = pool.map(client.evaluate, calls.values())
            curves = dict(zip(calls, track(answers, "steering", len(calls), transient=True), strict=True))
    for name, group in groups.items():
        report.add_rows(f"Chosen by {name}", [_row(found, curves[found.feature]) for found in group])
    compare(report, {name: [curves[f.feature] for f in group] for name, group in groups.items()})
    report.finish()


def chosen(ranked: Sequence[RankedOutput], count: int, seed: int) -> dict[str, list[RankedOutput]]:
    """By name of the choice, its features; `ranked` are all, the best output score first."""
    tested = [found for found in ranked if found.label is not None and found.label.score is not None]
    return {
        "output score": tested[:count],
        "label": sorted(tested, key=_label_score, reverse=True)[:count],
        "chance": random.Random(seed).sample(tested, count),
    }


def call_of(found: RankedOutput, options: argparse.Namespace) -> EvaluateCall:
    """The evaluation of one feature."""
    prompts = PROMPTS[:2] if options.quick else PROMPTS
    return EvaluateCall(
        feature=found.feature,
        prompts=tuple(StudyText(chat=(ChatTurn("user", prompt),)) for prompt in prompts),
        strengths=STRENGTHS[1::2] if options.quick else STRENGTHS,
        unit=Unit.RESID_NORM,
        max_new_tokens=8 if options.quick else 24,
        control_texts=(StudyText(prompt="The capital of France is Paris."),),
        control_features=0,
        refinements=0,
    )


def compare(report: Report, groups: Mapping[str, Sequence[DoseCurve]]) -> None:
    """The mean gains of each choice at equal fluency, and how they compare."""
    gains = {name: [at_equal_fluency(curve, FLUENCY) for curve in curves] for name, curves in groups.items()}
    rows: list[Row] = []
    for name, of_group in gains.items():
        row: dict[str, str | int | float] = {"chosen by": name, "features": len(of_group)}
        for measure in MEASURES:
            values = [gain[measure] for gain in of_group]
            row[measure] = fmean(values)
            row[f"{measure}, s.e."] = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        rows.append(row)
    report.add_rows(f"Gains where fluency has fallen to {FLUENCY:g}", rows)
    success = {str(row["chosen by"]): float(row["concept"]) for row in rows}
    for other, bound in BOUNDS.items():
        ratio = times(success["output score"], success[other])
        report.at_least(f"concept.output_score_over_{other}", ratio, bound)


def times(gain: float, other: float) -> float:
    """How many times the other gain it is; 0 for none, and a gain that is hardly one counts as `LEAST`."""
    return max(gain, 0.0) / max(other, LEAST)


def at_equal_fluency(curve: DoseCurve, fluency: float) -> dict[str, float]:
    """The gains where fluency has first fallen so far; at the largest strength if it never has."""
    path = [(1.0, dict.fromkeys(MEASURES, 0.0))]
    path += [(point.fluency, _gains(point, curve)) for point in curve.points]
    for (before, lower), (after, upper) in pairwise(path):
        if after <= fluency:
            share = (before - fluency) / (before - after)
            return {name: lower[name] + share * (upper[name] - lower[name]) for name in MEASURES}
    return path[-1][1]


def _gains(point: DosePoint, curve: DoseCurve) -> dict[str, float]:
    return {
        "concept": point.text.concept - curve.plain.concept,
        "active share": point.text.active_share - curve.plain.active_share,
        "promoted share": point.text.promoted_share - curve.plain.promoted_share,
    }


def _label_score(found: RankedOutput) -> float:
    return found.label.score.value if found.label is not None and found.label.score is not None else 0.0


def _row(found: RankedOutput, curve: DoseCurve) -> Row:
    return {
        "feature": found.feature.index,
        "label": found.label.text if found.label is not None else "",
        "label score": _label_score(found),
        "output score": found.score,
        **at_equal_fluency(curve, FLUENCY),
        "promotes": " ".join(map(repr, found.promoted_texts[:4])),
    }


@contextmanager
def serving(most_ranked: int) -> Iterator[FeatureClient]:
    """A server with its defaults, which ranks so many features at once."""
    grpc_port, metrics_port = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="steerd-benchmark-") as name:
        folder, address = Path(name), f"127.0.0.1:{grpc_port}"
        config = folder / "server.toml"
        config.write_text(
            f"[server]\nport = {grpc_port}\nmax_study_seconds = 3600\n[monitoring]\nport = {metrics_port}\n"
            f"[limits]\nmax_ranked_features = {most_ranked}\n"
        )
        with server_process(config, log=folder / "server.log") as process:
            wait_until_serving(process, address, timeout_seconds=SERVER_SECONDS)
            with FeatureClient(address) as client:
                yield client
            stop(process, timeout_seconds=SERVER_SECONDS)


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    add = parser.add_argument
    add("--sae", default="starter-14", help="a starter SAE (default: %(default)s)")
    add("--count", type=int, default=6, help="features of each choice (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the choice by chance (default: %(default)s)")
    add("--threads", type=int, default=2, help="of the server (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
