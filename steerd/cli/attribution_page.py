"""An attribution as one HTML page: the graph, and what was predicted and measured. Nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from steerd.cli.attribution_graph import target_name
from steerd.cli.effect_page import visible
from steerd.cli.graph_layout import Layout, lay_out
from steerd.cli.label_text import label_text
from steerd.studies.attribution.metric import TokenLogit
from steerd.studies.attribution.result import AttributedNode, Attribution, AttributionEdge, NodeKind, NodeRole

_PLOT = 260  # pixels of the plot of predicted against measured effects
_SCRIPT_ESCAPES = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})

Row = dict[str, Any]  # Any: what the template shows


def render_attribution(found: Attribution, *, title: str) -> str:
    """The page. What texts and labels hold stands in it as text."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    tokens = [visible(text) for text in found.token_texts]
    layout = lay_out(found, tokens)
    style, script = _asset("attribution_page.css"), _asset("attribution_page.js")
    return environment.from_string(_asset("attribution_page.html")).render(
        title=title,
        policy=f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'",
        style=style,
        script=script,
        found=found,
        target=visible(target_name(found)),
        kind="logit" if isinstance(found.metric, TokenLogit) else "log-probability",
        prompt=tokens,
        layout=layout,
        nodes=[_drawn(found, place, spot, tokens) for place, spot in layout.places.items()],
        edges=_drawn_edges(found, layout),
        features=[_row(node, tokens) for node in found.nodes if node.kind is NodeKind.FEATURE],
        plot=_plot(found.nodes),
        data=_script_json(
            {
                "names": [_name(node, tokens) for node in found.nodes],
                "edges": [[edge.source, edge.target, edge.weight] for edge in found.edges],
            }
        ),
    )


def _name(node: AttributedNode, tokens: Sequence[str]) -> str:
    """One line about a node."""
    at = f"at {node.position} {tokens[node.position]!r}"
    match node.kind:
        case NodeKind.FEATURE:
            label = f" {visible(label_text(node.label))}" if node.label else ""
            return f"{node.sae}:{node.feature}{label}, {at}"
        case NodeKind.ERROR:
            return f"error of {node.sae}, {at}"
    return f"embedding, {at}"


def _drawn(found: Attribution, place: int, spot: tuple[float, float], tokens: Sequence[str]) -> Row:
    node = found.nodes[place]
    largest = max((abs(n.attribution) for n in found.nodes if n.kind is node.kind), default=1.0) or 1.0
    return {
        "place": place,
        "x": round(spot[0], 1),
        "y": round(spot[1], 1),
        "size": round(3 + 6 * (abs(node.attribution) / largest) ** 0.5, 1),
        "kind": node.kind.value,
        "sign": "for" if node.attribution >= 0 else "against",
        "told": f"{_name(node, tokens)}: {_effect(node)}",
    }


def _drawn_edges(found: Attribution, layout: Layout) -> list[Row]:
    """Wide where an edge has a large share of all that comes into its target."""
    total: dict[int, float] = {}
    for edge in found.edges:
        total[edge.target] = total.get(edge.target, 0.0) + abs(edge.weight)
    return [
        {
            "source": edge.source,
            "target": edge.target,
            "path": _path(edge, layout),
            "width": round(0.4 + 5 * abs(edge.weight) / total[edge.target], 2),
            "sign": "for" if edge.weight >= 0 else "against",
        }
        for edge in found.edges
    ]


def _path(edge: AttributionEdge, layout: Layout) -> str:
    x1, y1 = layout.places[edge.source]
    x2, y2 = layout.target if edge.target < 0 else layout.places[edge.target]
    middle = (y1 + y2) / 2
    return f"M{x1:.1f},{y1:.1f} C{x1:.1f},{middle:.1f} {x2:.1f},{middle:.1f} {x2:.1f},{y2:.1f}"


def _row(node: AttributedNode, tokens: Sequence[str]) -> Row:
    return {
        "name": f"{node.sae}:{node.feature}",
        "label": visible(label_text(node.label)) if node.label else "",
        "position": node.position,
        "token": tokens[node.position],
        "activation": f"{node.activation:.3g}",
        "attribution": f"{node.attribution:+.4f}",
        "measured": "" if node.measured is None else f"{node.measured:+.4f}",
        "role": "" if node.role is NodeRole.TOP else node.role.value.replace("_", " "),
    }


def _plot(nodes: Sequence[AttributedNode]) -> Row | None:
    """Predicted effects to the right, measured ones upwards, both on one scale."""
    tried = [node for node in nodes if node.measured is not None]
    if not tried:
        return None
    largest = max(max(abs(node.attribution), abs(node.measured or 0.0)) for node in tried) or 1.0

    def at(effect: float) -> float:
        return round(_PLOT / 2 * (1 + effect / largest), 1)

    return {
        "size": _PLOT,
        "largest": f"{largest:.3g}",
        "dots": [
            {
                "x": at(node.attribution),
                "y": _PLOT - at(node.measured or 0.0),
                "role": node.role.value,
                "told": f"{node.sae}:{node.feature} at {node.position}: {_effect(node)}",
            }
            for node in tried
        ],
    }


def _effect(node: AttributedNode) -> str:
    measured = "" if node.measured is None else f", measured {node.measured:+.4f}"
    return f"activation {node.activation:.3g}, predicted {node.attribution:+.4f}{measured}"


def _script_json(value: Any) -> str:  # Any: JSON values
    """JSON that can stand inside a script element whatever its texts hold."""
    return json.dumps(value, ensure_ascii=True).translate(_SCRIPT_ESCAPES)


def _asset(name: str) -> str:
    return files("steerd.cli").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
