"""An attribution graph as the JSON that the viewers of Neuronpedia and circuit-tracer read."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from steerd.cli.label_text import label_text
from steerd.host.hook_point import HookPoint
from steerd.studies.attribution.metric import answers_of
from steerd.studies.attribution.result import AttributedNode, Attribution, NodeKind

_SCHEMA_VERSION = 1  # of circuit-tracer's graph files: features are numbered together with their layers

Json = dict[str, Any]  # Any: JSON values


def graph_json(found: Attribution, *, slug: str, node_threshold: float, edge_threshold: float) -> Json:
    """The nodes and links of the graph, in the form of circuit-tracer's schema version 1.

    The viewers know features of transcoders, errors, embeddings and logits; an SAE's features stand in the
    first's place. Nodes also tell their `sae`, `attribution` and, if they were taken out, `measured`.
    """
    ids = node_ids(found)
    target = _logit_node(found)
    links = [
        {
            "source": ids[edge.source],
            "target": target["node_id"] if edge.target < 0 else ids[edge.target],
            "weight": edge.weight,
        }
        for edge in found.edges
    ]
    nodes = [_node(found, node, ids[place]) for place, node in enumerate(found.nodes) if place in ids]
    return {
        "metadata": {
            "slug": slug,
            "scan": found.model,
            "transcoder_list": [],
            "prompt_tokens": list(found.token_texts),
            "prompt": "".join(found.token_texts),
            "node_threshold": node_threshold,
            "schema_version": _SCHEMA_VERSION,
            "info": {"generator": {"name": "steerd", "version": version("steerd")}},
            "pruning_settings": {"node_threshold": node_threshold, "edge_threshold": edge_threshold},
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [*nodes, target],
        "links": links,
    }


def node_ids(found: Attribution) -> dict[int, str]:
    """The id of each node that is in the graph, by its place in the result.

    LAYER_FEATURE_POSITION; where several SAEs read in one layer, all but the first add their name.
    """
    first_in: dict[int, str] = {}
    ids = {}
    for place, node in enumerate(found.nodes):
        if node.influence is None:
            continue
        layer = HookPoint.parse(node.hook_point).layer
        name = f"{layer}_{node.feature}_{node.position}"
        if node.kind is NodeKind.EMBEDDING:
            name = f"E_{found.token_ids[node.position]}_{node.position}"
        elif first_in.setdefault(layer, node.sae) != node.sae:
            name += f"_{node.sae}"
        ids[place] = name
    return ids


def target_name(found: Attribution) -> str:
    """The answer in quotes, less the other one if there is one."""
    return " - ".join(f'"{text}"' for text in found.answer_texts)


def _node(found: Attribution, node: AttributedNode, node_id: str) -> Json:
    layer = HookPoint.parse(node.hook_point).layer
    forms: dict[NodeKind, tuple[str, int, str, str]] = {
        NodeKind.FEATURE: (
            str(layer),
            _cantor(layer, node.feature),
            "cross layer transcoder",
            f"{layer}_{node.feature}-0",
        ),
        NodeKind.ERROR: (str(layer), -1, "mlp reconstruction error", f"{layer}_-1-{node.position}"),
        NodeKind.EMBEDDING: (
            "E",
            node.position,
            "embedding",
            f"E_{found.token_ids[node.position]}-{node.position}",
        ),
    }
    shown_layer, feature, feature_type, js_id = forms[node.kind]
    return _form(
        node_id=node_id,
        feature=feature,
        layer=shown_layer,
        ctx_idx=node.position,
        feature_type=feature_type,
        js_id=js_id,
        clerp=_clerp(found, node),
        influence=node.influence,
        activation=node.activation if node.kind is NodeKind.FEATURE else None,
    ) | {"sae": node.sae, "attribution": node.attribution, "measured": node.measured}


def _clerp(found: Attribution, node: AttributedNode) -> str:
    """What the viewers show; left to them, an error would be said to be an MLP's."""
    if node.kind is NodeKind.ERROR:
        return f"Err: {node.sae} “{found.token_texts[node.position]}”"
    return label_text(node.label) if node.label else ""


def _logit_node(found: Attribution) -> Json:
    """The metric; the viewers find the probability in its name."""
    token_id = answers_of(found.metric)[0][0]
    last, layer = len(found.token_ids) - 1, found.num_layers + 1
    return _form(
        node_id=f"{layer}_{token_id}_{last}",
        feature=token_id,
        layer=str(layer),
        ctx_idx=last,
        feature_type="logit",
        js_id=f"L_{token_id}-{last}",
        clerp=f"Output {target_name(found)} (p={found.probability:.3f})",
        influence=None,
        activation=None,
    ) | {"token_prob": found.probability, "is_target_logit": True}


def _form(*, js_id: str, **values: Any) -> Json:  # Any: JSON values
    """A node with all that the form asks for."""
    return {
        **values,
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": js_id,
    }


def _cantor(layer: int, feature: int) -> int:
    """One number for both, as schema version 1 has it."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature
