"""`python -m benchmarks.feature_choice`: what is it worth to choose features by their output score?

arXiv 2505.20063 draws features by chance, steers by each, and asks how success rises when those with a low
output score are left out; it finds two to three times as much. Its success is either how often the steered
text says the tokens that the feature promotes, or a language model's verdict on whether the text is about
what the feature's label says, fluent, and to the point. No judge is at hand here; what follows was set down
before the first whole run.

*Pool.* `--features` features of one SAE, drawn by chance from those that a user could want to steer by: not
recorded as dead, with a label that was tested, and no special token among the tokens where they are most
active. No result has a say in it.

*Steering.* Each is added at the same lengths, shares of the median residual norm, while the server's
EvaluateSteering has questions answered. The unsteered host then reads the answers, without knowing what wrote
them.

*Success* is `concept`: the largest activation of the feature in an answer, as a share of its recorded
maximum. It asks whether the text has become one in which the feature fires by itself, which is what labels
are made of, so it stands for the judge. Neither score has seen it: output scores come from next-token
probabilities after another text, label scores from texts of the corpus. Two others are told and have no
target: `active share`, of the answer's tokens on which the feature fires, and `promoted share`, of those that
it promotes. The latter is the paper's own first measure, but output scores are about the same tokens.

*Equal fluency.* Each measure is a gain over the unsteered answers, and is read off the feature's curve where
fluency has fallen to the same mark, between two strengths by a straight line; at the largest strength where
it never falls so far. Fluency is the ratio of the perplexities, less what repeats itself more.

*Choices.* The third of the pool with the highest output scores, the third with the highest label scores, the
whole pool as what chance gives, and the third with the lowest output scores as what the paper leaves out. All
intervals are 95 % ones over resamplings of the pool, thirds and all.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from rich.progress import track

from benchmarks.bootstrap import Estimate, estimates
from benchmarks.choice_figures import (
    CHOICES,
    MEASURES,
    SCORES,
    SUCCESS,
    Steered,
    choices,
    figures,
    times_name,
    told_name,
)
from benchmarks.report import Report, Row, parser_of, report_for
from steerd.cli.server_process import free_ports, server_process, stop, wait_until_serving
from steerd.client_messages import ChatTurn, Unit
from steerd.feature_client import FeatureClient
from steerd.sae.sae_file import SaeBundle, load_sae
from steerd.starters import sae_folder
from steerd.steering.intervention import FeatureRef
from steerd.studies.dose_curve import DoseCurve, DosePoint
from steerd.studies.output_table import RankedOutput
from steerd.study_wire.evaluate import EvaluateCall
from steerd.study_wire.outputs import OutputsCall
from steerd.study_wire.study_text import StudyText

NAME = "feature_choice"
STRENGTHS = (0.2, 0.4, 0.7)
FLUENCY = 0.6
BOUNDS = {"label score": 1.0, "chance": 2.0}
"""How many times the success of each other choice the one by output score should have."""
AT_ONCE = 4
SERVER_SECONDS = 300.0
PROMPTS = (
    "Tell me about your weekend.",
    "What should I read next?",
    "Describe something that you see from a window.",
)


def main() -> None:
    """Draw, score, steer, compare, write."""
    options = _options()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # the server's
    report = report_for(NAME, options)
    drawn = pool(load_sae(sae_folder(options.sae)), 9 if options.quick else options.features, options.seed)
    features = tuple(FeatureRef(options.sae, index) for index in drawn)
    with serving() as client, ThreadPoolExecutor(AT_ONCE) as threads:
        ranked = client.rank_outputs(OutputsCall(features=features, top=len(features))).features
        calls = [call_of(found.feature, quick=options.quick) for found in ranked]
        answers = threads.map(client.evaluate, calls)
        curves = list(track(answers, "steering", len(calls), transient=True))
    steered = [
        Steered(scores_of(found), at_equal_fluency(curve, FLUENCY))
        for found, curve in zip(ranked, curves, strict=True)
    ]
    report.add_rows("The pool", [_row(*pair) for pair in zip(ranked, steered, strict=True)])
    compare(report, steered)
    report.finish()


def pool(bundle: SaeBundle, count: int, seed: int) -> list[int]:
    """The indices of features drawn by chance from those that one could want to steer by."""
    assert bundle.statistics is not None  # as starter SAEs have
    assert bundle.notes is not None
    wanted = [
        note.feature
        for note in bundle.notes
        if note.shown_label.score is not None
        and not bundle.statistics.dead[note.feature]
        and not any(token.startswith("<|") for token in note.top_tokens)
    ]
    return random.Random(seed).sample(wanted, count)


def call_of(feature: FeatureRef, *, quick: bool) -> EvaluateCall:
    """The evaluation of one feature."""
    prompts = PROMPTS[:2] if quick else PROMPTS
    return EvaluateCall(
        feature=feature,
        prompts=tuple(StudyText(chat=(ChatTurn("user", prompt),)) for prompt in prompts),
        strengths=STRENGTHS[:2] if quick else STRENGTHS,
        unit=Unit.RESID_NORM,
        max_new_tokens=8 if quick else 20,
        control_texts=(StudyText(prompt="The capital of France is Paris."),),
        control_features=0,
        refinements=0,
    )


def scores_of(found: RankedOutput) -> dict[str, float]:
    """What features are chosen by."""
    tested = found.label.score if found.label is not None else None
    assert tested is not None  # so the pool is drawn
    return {"output score": found.score, "label score": tested.value}


def compare(report: Report, steered: Sequence[Steered]) -> None:
    """What the choices gained, how they compare, and how far a score tells success."""
    found = estimates(steered, figures)
    rows: list[Row] = []
    for choice, taken in choices(steered).items():
        row: dict[str, str | int | float] = {"chosen by": choice, "features": len(taken)}
        for measure in MEASURES:
            row |= _columns(measure, found[f"{measure}, {choice}"])
        rows.append(row)
    report.add_rows(f"Mean gains where fluency has fallen to {FLUENCY:g}", rows)
    report.add_rows(
        f"Times the gain in {SUCCESS}",
        [{"output score over": each, **_columns("times", found[times_name(each)])} for each in CHOICES[1:]],
    )
    correlations = [
        {"measure": measure, "score": score} | _columns("rank correlation", found[told_name(measure, score)])
        for measure in MEASURES
        for score in SCORES
    ]
    report.add_rows("What a score tells of the gain", correlations)
    for other, bound in BOUNDS.items():
        name = f"{SUCCESS}.output_score_over_{other.removesuffix(' score')}"
        report.at_least(name, found[times_name(other)].value, bound)


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


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}, low": estimate.low, f"{name}, high": estimate.high}


def _row(found: RankedOutput, steered: Steered) -> Row:
    return {
        "feature": found.feature.index,
        "label": found.label.text if found.label is not None else "",
        **steered.scores,
        **steered.gains,
        "promotes": " ".join(map(repr, found.promoted_texts[:4])),
    }


@contextmanager
def serving() -> Iterator[FeatureClient]:
    """A server with its defaults, but for the time that studies may take."""
    grpc_port, metrics_port = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="steerd-benchmark-") as name:
        folder, address = Path(name), f"127.0.0.1:{grpc_port}"
        config = folder / "server.toml"
        config.write_text(
            f"[server]\nport = {grpc_port}\nmax_study_seconds = 3600\n[monitoring]\nport = {metrics_port}\n"
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
    add("--features", type=int, default=48, help="how many are drawn (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    add("--threads", type=int, default=2, help="of the server (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
