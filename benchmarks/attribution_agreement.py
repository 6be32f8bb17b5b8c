"""Whether attributed effects are the effects that ablations have, and those that SAELens computes.

For each prompt the metric is by how much the logit of the likeliest next token is above that of the second.
Nodes are the strongest features by two of the methods, and random ones of all that are active; each is taken
out for real, one at a time, and every method's prediction is ranked against that. As controls, features are
taken out where they are not active, and predictions are compared with the measured effects of other nodes.
On each SAE alone the same nodes are given to SAELens and TransformerLens.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

from benchmarks.attribution_nodes import DEFAULT, METHODS, RANDOM, SECOND, Measured, measure
from benchmarks.attribution_peer import PeerAnswer, PeerJob, PeerPrompt
from benchmarks.report import Report, Row, parser_of, report_for
from steerd.host.default_host import DEFAULT_HOST_ALIAS, default_host_folder
from steerd.host.host_model import HostModel
from steerd.host.text import ChatMessage, encode_chat, encode_prompt
from steerd.sae.sae_file import load_sae
from steerd.starters import STARTERS, sae_folder
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.studies.attribution.metric import answers_of
from steerd.studies.attribution.rank_correlation import rank_correlation
from steerd.studies.attribution.wish import Method

NAME = "attribution_agreement"
BOUND = 0.8
PEER_TOLERANCE = 1e-3
"""Largest difference over the largest effect: float32 sums in orders of their own."""

PROMPTS = (
    "The capital of France is the city of",
    "When Mary and John went to the store, John gave a drink to",
    "The little boat left the harbour early in the morning, and by noon nobody on board could see the",
    "To grow tomatoes on a balcony you need a large pot, good soil and at least six hours of",
    "The keys to the old cabinet in the hall",
    "In 1969 the first human being walked on the",
    "He was very angry with his brother, but after a while he",
    "She opened the window because the room was too",
)
CHATS = ("What is the capital of Germany?", "Name a fruit that is yellow.")


_ROOT = Path(__file__).parent.parent


def main() -> None:
    """Measure, compare, ask the peer, write."""
    options = _options()
    report = report_for(NAME, options)
    host = HostModel.load(DEFAULT_HOST_ALIAS)
    saes = _starters(host)
    prompts = [(text, encode_prompt(host.tokenizer, text)) for text in PROMPTS]
    prompts += [(text, encode_chat(host.tokenizer, [ChatMessage("user", text)])) for text in CHATS]
    found = [measure(host, saes, text, tuple(ids)) for text, ids in prompts[: 1 if options.quick else None]]
    add_prompts(report, host, found)
    add_methods(report, saes, found)
    add_controls(report, found)
    if options.peer_python:
        add_peer(report, saes, found, options.peer_python)
    report.finish()


def add_prompts(report: Report, host: HostModel, found: Sequence[Measured]) -> None:
    """What was asked, and how well the default method ranks each prompt's nodes."""
    rows: list[Row] = []
    for each in found:
        target, against = (repr(host.tokenizer.decode(list(ids))) for ids in answers_of(each.metric))
        rows.append(
            {
                "prompt": each.name,
                "tokens": len(each.token_ids),
                "target": target,
                "against": against,
                "logits apart": each.value,
                "active": each.num_active,
                "taken out": len(each.nodes),
                **{label: _agreement(each.predicted[label], each.measured) for label in METHODS},
            }
        )
    report.add_rows("rank correlation of predicted with measured effects, by prompt", rows)


def add_methods(report: Report, saes: Sequence[LoadedSae], found: Sequence[Measured]) -> None:
    """All nodes of all prompts together, and the target."""
    measured = [effect for each in found for effect in each.measured]
    rows: list[Row] = []
    for label, (method, paths) in METHODS.items():
        predicted = [effect for each in found for effect in each.predicted[label]]
        by_sae = {sae.name: _agreement(*_of_sae(found, label, number)) for number, sae in enumerate(saes)}
        copies = 1 + (len(saes) * paths.num_copies if method is Method.INTEGRATED_GRADIENTS else 0)
        rows.append(
            {
                "method": label,
                "copies of the prompt": copies,
                "nodes": len(measured),
                "rank correlation": _agreement(predicted, measured),
                "median of prompts": median(_agreement(e.predicted[label], e.measured) for e in found),
                **by_sae,
                "with other nodes' effects": _agreement(predicted, _rotated(measured)),
            }
        )
    report.add_rows("rank correlation of predicted with measured effects, all prompts", rows)
    default = next(row for row in rows if row["method"] == DEFAULT)
    report.at_least("nodes_taken_out", len(measured), 200)
    report.at_least("integrated_gradients_rank_correlation", float(default["rank correlation"]), BOUND)
    report.at_most(
        "rank_correlation_with_other_nodes_effects", abs(float(default["with other nodes' effects"])), 0.2
    )


def add_controls(report: Report, found: Sequence[Measured]) -> None:
    """How large effects are: of the strongest, of random active features, of inactive ones."""
    random = [abs(effect) for each in found for effect in each.measured[-RANDOM:]]
    strongest = [abs(effect) for each in found for effect in each.measured[:-RANDOM]]
    inactive = [abs(effect) for each in found for effect in each.inactive]
    rows: list[Row] = [
        {"features": name, "nodes": len(effects), "mean absolute measured effect": fmean(effects)}
        for name, effects in (("strongest", strongest), ("random active", random), ("inactive", inactive))
    ]
    report.add_rows("measured effects", rows)
    report.at_most("inactive_over_strongest", fmean(inactive) / fmean(strongest), 0.01)


def add_peer(report: Report, saes: Sequence[LoadedSae], found: Sequence[Measured], python: str) -> None:
    """Each SAE's nodes by SAELens and TransformerLens next to ours."""
    rows: list[Row] = []
    for number, sae in enumerate(saes):
        mine = [each.of_sae(number) for each in found]
        prompts = [
            PeerPrompt(
                token_ids=list(each.token_ids),
                target=each.metric.target,
                against=each.metric.against or 0,
                nodes=[_position_and_feature(each, node) for node in nodes],
            )
            for each, nodes in zip(found, mine, strict=True)
        ]
        job = PeerJob(
            host_folder=str(default_host_folder()),
            sae_folder=str(sae_folder(sae.name)),
            layer=sae.hook_point.layer,
            prompts=prompts,
        )
        answers = _ask(python, job)
        for quantity in ("activations", SECOND, "ablation", "direct"):
            theirs = [value for answer in answers for value in getattr(answer, quantity)]
            ours = [
                _own(each, node, quantity) for each, nodes in zip(found, mine, strict=True) for node in nodes
            ]
            rows.append(
                {
                    "SAE": sae.name,
                    "quantity": quantity,
                    "nodes": len(ours),
                    "largest": max(map(abs, ours)),
                    "largest difference": max(abs(a - b) for a, b in zip(ours, theirs, strict=True)),
                }
            )
    report.add_rows("next to SAELens and TransformerLens", rows)
    worst = max(float(row["largest difference"]) / float(row["largest"]) for row in rows)
    report.at_most("saelens_largest_relative_difference", worst, PEER_TOLERANCE)


def _own(each: Measured, number: int, quantity: str) -> float:
    node = each.nodes[number]
    match quantity:
        case "activations":
            return float(each.effects[DEFAULT].explained[node.sae].acts[node.place])
        case "ablation":
            return each.measured[number]
    return each.predicted[quantity][number]


def _position_and_feature(each: Measured, number: int) -> list[int]:
    node = each.nodes[number]
    explained = each.effects[DEFAULT].explained[node.sae]
    return [int(explained.positions[node.place]), int(explained.features[node.place])]


def _of_sae(found: Sequence[Measured], label: str, sae: int) -> tuple[list[float], list[float]]:
    numbers = [(each, number) for each in found for number in each.of_sae(sae)]
    return [e.predicted[label][n] for e, n in numbers], [e.measured[n] for e, n in numbers]


def _agreement(predicted: Sequence[float], measured: Sequence[float]) -> float:
    return rank_correlation(predicted, measured) or 0.0


def _rotated(values: Sequence[float]) -> list[float]:
    """Each node gets another's."""
    shift = len(values) // 3
    return [*values[shift:], *values[:shift]]


def _starters(host: HostModel) -> list[LoadedSae]:
    saes = LoadedSaes(host)
    for name in STARTERS:
        saes.add(name, load_sae(sae_folder(name)))
    return list(saes)


def _ask(python: str, job: PeerJob) -> list[PeerAnswer]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        job.write(path)
        command = [python, "-m", "benchmarks.attribution_peer", str(path)]
        printed = subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [PeerAnswer(**answer) for answer in json.loads(printed.splitlines()[-1])]


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    parser.add_argument("--peer-python", help="Python of an environment that has sae-lens")
    return parser.parse_args()


if __name__ == "__main__":
    main()
