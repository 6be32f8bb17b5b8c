"""An attribution made by hand, with a node of every kind."""

from __future__ import annotations

from steerd.sae.feature_label import FeatureLabel, LabelScore
from steerd.studies.attribution.metric import Metric, TokenLogit
from steerd.studies.attribution.result import (
    AttributedNode,
    Attribution,
    AttributionCheck,
    AttributionEdge,
    NodeKind,
    NodeRole,
    SaeTotal,
)

METRIC = TokenLogit(9, 8)
HOSTILE = "</script><b>&\u2028"


def feature(sae: str, index: int, layer: int, position: int, **values) -> AttributedNode:
    """An SAE's feature at a layer's output, in the graph."""
    defaults = {"attribution": 0.5, "activation": 2.0, "influence": 0.4, "role": NodeRole.TOP}
    point = f"blocks.{layer}.hook_resid_post"
    return AttributedNode(
        kind=NodeKind.FEATURE,
        hook_point=point,
        position=position,
        sae=sae,
        feature=index,
        **(defaults | values),
    )


def whole(
    kind: NodeKind, layer: int, position: int, sae: str = "", site: str = "resid_post"
) -> AttributedNode:
    """An error or an embedding in the graph."""
    return AttributedNode(
        kind=kind,
        role=NodeRole.TOP,
        hook_point=f"blocks.{layer}.hook_{site}",
        position=position,
        sae=sae,
        activation=7.0,
        attribution=-0.25,
        influence=0.6,
    )


def attribution(metric: Metric = METRIC, **changes) -> Attribution:
    """Four tokens, SAEs in layers 1 and 2, two of them in layer 2."""
    label = FeatureLabel(f"boats {HOSTILE}", (LabelScore("tokens", 0.81, 40),))
    nodes = (
        feature("late", 3, 2, 3, attribution=1.5, measured=1.25, label=label),
        feature("late mlp", 3, 2, 3, attribution=-0.5, measured=-0.5),
        feature("early", 5, 1, 1, measured=0.25),
        feature("early", 6, 1, 1, attribution=0.01, measured=0.0, influence=None),
        whole(NodeKind.ERROR, 1, 2, sae="early"),
        whole(NodeKind.EMBEDDING, 0, 1, site="resid_pre"),
        feature(
            "late", 4, 2, 2, attribution=0.0, influence=None, measured=0.0, role=NodeRole.RANDOM_INACTIVE
        ),
    )
    edges = (
        AttributionEdge(0, -1, 1.5),
        AttributionEdge(1, -1, -0.5),
        AttributionEdge(2, 0, 0.75),
        AttributionEdge(4, 0, -0.25),
        AttributionEdge(5, 2, 2.0),
    )
    values = {
        "model": "tiny-llama",
        "num_layers": 3,
        "token_ids": (11, 12, 13, 14),
        "metric": metric,
        "value": 2.5,
        "probability": 0.125,
        "nodes": nodes,
        "edges": edges,
        "check": AttributionCheck(
            checked=5,
            rank_correlation=0.9,
            rank_correlation_top=None,
            mean_effect_top=0.5,
            mean_effect_random_active=0.0,
            mean_effect_random_inactive=0.0,
        ),
        "totals": (SaeTotal("early", 4, 0.5, -0.25), SaeTotal("late", 3, 1.5, 0.0)),
        "complete": True,
        "token_texts": ("The", " sea", "\n", HOSTILE),
        "answer_texts": (" calm", " rough"),
    }
    return Attribution(**(values | changes))
