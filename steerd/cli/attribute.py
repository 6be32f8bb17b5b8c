"""`steerd attribute`: which features move what the host answers, and whether they really do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from steerd.cli import arguments
from steerd.cli.attribution_graph import graph_json, target_name
from steerd.cli.attribution_page import render_attribution
from steerd.cli.label_text import label_text
from steerd.cli.study_progress import progress_teller
from steerd.cli.terminal import open_console, print_warnings
from steerd.client_messages import ChatTurn
from steerd.feature_client import FeatureClient
from steerd.studies.attribution.metric import TokenLogit
from steerd.studies.attribution.result import AttributedNode, Attribution, NodeKind, NodeRole
from steerd.studies.attribution.wish import Method
from steerd.study_wire.attribution import AttributeCall
from steerd.study_wire.study_text import StudyText

_METHODS = {
    "direct": Method.DIRECT,
    "gradient": Method.GRADIENT,
    "ig": Method.INTEGRATED_GRADIENTS,
}
_NODE_SHARE, _EDGE_SHARE = 0.8, 0.98


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "attribute",
        help="find the features that move what the host answers",
        description="Predict how much each feature of a prompt moves the logit of an answer, or how far it "
        "is above another one; take the strongest out, one by one, to see whether they do; and connect them.",
        epilog="example: steerd attribute --raw 'The capital of France is' --target ' Paris' "
        "--against ' London' --html paris.html",
    )
    parser.add_argument("text", metavar="TEXT", help="what the user says")
    parser.add_argument("--target", required=True, metavar="TEXT", help="the answer, with its leading space")
    parser.add_argument("--against", metavar="TEXT", help="explain what sets the answer apart from this one")
    parser.add_argument("--raw", action="store_true", help="take the text as plain text, no chat")
    parser.add_argument(
        "--sae", action="append", default=[], metavar="NAME", help="only its features, or all"
    )
    parser.add_argument(
        "--method",
        choices=_METHODS,
        default="ig",
        help="predict effects on the logits directly, by gradients, or by gradients averaged while groups of "
        "features come up (default: %(default)s)",
    )
    parser.add_argument("--groups", type=int, metavar="N", help="groups of ig (default: 8)")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of each group's path (default: 2)")
    parser.add_argument("--top", type=int, metavar="N", help="features at most (default: 50)")
    parser.add_argument("--controls", type=int, metavar="N", help="random features to test too (default: 20)")
    parser.add_argument("--no-check", action="store_true", help="take no features out")
    parser.add_argument("--no-graph", action="store_true", help="do not connect features")
    parser.add_argument(
        "--nodes",
        type=float,
        default=_NODE_SHARE,
        metavar="SHARE",
        help="of influence (default: %(default)s)",
    )
    parser.add_argument(
        "--edges",
        type=float,
        default=_EDGE_SHARE,
        metavar="SHARE",
        help="of influence (default: %(default)s)",
    )
    parser.add_argument("--special", action="store_true", help="count special tokens and the first as well")
    parser.add_argument("--max-seconds", type=float, default=0.0, metavar="S", help="then tell what is done")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with the graph")
    parser.add_argument(
        "--graph",
        type=Path,
        metavar="FILE",
        help="write the graph for Neuronpedia's and circuit-tracer's viewers",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    arguments.add_address(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a table, or one JSON object; write the files that are wanted."""
    with FeatureClient(options.address) as client:
        found = client.attribute(attribute_call(options), progress_teller())
    if options.html is not None:
        title = f"Why {target_name(found)}?"
        options.html.write_text(render_attribution(found, title=title), encoding="utf-8")
    if options.graph is not None:
        graph = graph_json(
            found, slug=options.graph.stem, node_threshold=options.nodes, edge_threshold=options.edges
        )
        options.graph.write_text(json.dumps(graph, indent=1) + "\n", encoding="utf-8")
    console = open_console()
    if options.json:
        console.print(json.dumps(asdict(found)), soft_wrap=True)
        return 0
    console.print(features_table(found))
    for line in summary_lines(found):
        console.print(line, soft_wrap=True)
    if not found.complete:
        print_warnings(["the study was ended early; something is missing", *rough_lines(found)])
    return 0


def attribute_call(options: argparse.Namespace) -> AttributeCall:
    """The call that the options ask for."""
    chat = StudyText(chat=(ChatTurn("user", options.text),))
    return AttributeCall(
        text=StudyText(prompt=options.text) if options.raw else chat,
        target=options.target,
        against=options.against,
        saes=tuple(options.sae),
        method=_METHODS[options.method],
        groups=options.groups,
        steps=options.steps,
        max_nodes=options.top,
        check=not options.no_check,
        controls=options.controls,
        graph=not options.no_graph,
        node_threshold=options.nodes,
        edge_threshold=options.edges,
        include_special_tokens=options.special,
        max_seconds=options.max_seconds,
    )


def features_table(found: Attribution) -> Table:
    """A row a feature, the strongest first; those outside of the graph are dim if there is one."""
    table = Table("feature", "label", "token", title=_title(found), title_justify="left")
    for heading in ("activation", "predicted", "measured"):
        table.add_column(heading, justify="right")
    for node in found.nodes:
        if node.kind is NodeKind.FEATURE and node.role is NodeRole.TOP:
            table.add_row(
                f"{node.sae}:{node.feature}",
                label_text(node.label) if node.label else "",
                f"{found.token_texts[node.position]!r} {node.position}",
                f"{node.activation:.2f}",
                f"{node.attribution:+.3f}",
                _effect(node),
                style="dim" if found.edges and node.influence is None else "",
            )
    return table


def summary_lines(found: Attribution) -> Iterator[str]:
    """How far the predictions can be trusted, what all features add up to, and how large the graph is."""
    check = found.check
    if check is not None:
        yield (
            f"{check.checked} features were taken out, one at a time: rank correlation of predicted with "
            f"measured effects {_number(check.rank_correlation)}; "
            f"mean size of an effect {check.mean_effect_top:.3f}, "
            f"of random active features {check.mean_effect_random_active:.3f}, "
            f"of random inactive ones {check.mean_effect_random_inactive:.3f}"
        )
    for total in found.totals:
        yield (
            f"{total.sae}: {total.num_active} active features {total.features:+.3f} together, "
            f"what they leave unexplained {total.errors:+.3f}"
        )
    if found.edges:
        nodes = sum(node.influence is not None for node in found.nodes)
        yield f"graph of {nodes} nodes and {len(found.edges)} edges"


def rough_lines(found: Attribution) -> Iterator[str]:
    """Of which SAEs effects are predicted by plain gradients only, as there was no time for more."""
    done = {total.sae for total in found.totals}
    for sae in sorted({node.sae for node in found.nodes if node.sae} - done):
        yield f"effects of {sae} are predicted by plain gradients only"


def _title(found: Attribution) -> str:
    kind = "logit" if isinstance(found.metric, TokenLogit) else "log-probability"
    return f"{kind} of {target_name(found)}: {found.value:.3f}, probability {found.probability:.1%}"


def _effect(node: AttributedNode) -> str:
    return "" if node.measured is None else f"{node.measured:+.3f}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
