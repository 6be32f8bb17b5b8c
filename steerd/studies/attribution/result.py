"""The result of an attribution: which features move a metric, and how well that was tested."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from steerd.sae.feature_label import FeatureLabel
from steerd.studies.attribution.metric import Metric


class NodeKind(StrEnum):
    """What a node is: an SAE's feature, what its SAE leaves unexplained of a row, or a token's embedding."""

    FEATURE = "feature"
    ERROR = "error"
    EMBEDDING = "embedding"


class NodeRole(StrEnum):
    """Why a node is in the result: among the strongest, or drawn as a control."""

    TOP = "top"
    RANDOM_ACTIVE = "random_active"
    RANDOM_INACTIVE = "random_inactive"


@dataclass(frozen=True, kw_only=True, slots=True)
class AttributedNode:
    """One node, at a position of the prompt.

    `sae` and `feature` are empty and -1 where there is none. `activation` is the feature's, or the length of
    what an error or an embedding adds to the row. `attribution` is the effect that the method predicts of
    taking the node out, by how much the metric would fall; `measured` is what happened when it was, None when
    it was not tried. `influence` is the share of all influence that the node and those above it have in the
    graph, None outside of it.
    """

    kind: NodeKind
    role: NodeRole
    hook_point: str
    position: int
    activation: float
    attribution: float
    sae: str = ""
    feature: int = -1
    measured: float | None = None
    influence: float | None = None
    label: FeatureLabel | None = None


@dataclass(frozen=True, slots=True)
class AttributionEdge:
    """What a node adds to the activation of a later one, linearly; nodes by their place in the result.

    `target` -1 is the metric.
    """

    source: int
    target: int
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AttributionCheck:
    """Predicted against measured effects of the features that were taken out, one at a time.

    Spearman's rank correlation over the strongest and the random active ones, and over the strongest alone;
    None where there is nothing to rank. Then the mean absolute measured effect of each role.
    """

    checked: int
    rank_correlation: float | None
    rank_correlation_top: float | None
    mean_effect_top: float
    mean_effect_random_active: float
    mean_effect_random_inactive: float


@dataclass(frozen=True, slots=True)
class SaeTotal:
    """What one SAE's nodes add up to: `num_active` features, and the sums of their attributions and of those
    of its errors."""

    sae: str
    num_active: int
    features: float
    errors: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribution:
    """Which nodes move the metric: features by falling size of their attribution, errors and embeddings
    likewise, then controls.

    `value` is the metric, `probability` that of its first token after the prompt. `totals` are of the SAEs
    that are done; attributions by others, as there may be in a study that was stopped, are those of GRADIENT.
    Controls are told once they were taken out. With a graph, of errors and embeddings only those are told
    that are in it. Not `complete` when it was stopped before its end; before its first slice nothing is
    known. `answer_texts` are those of the target and, if there is one, of the answer that it is compared
    with.
    """

    model: str
    num_layers: int
    token_ids: tuple[int, ...]
    token_texts: tuple[str, ...]
    metric: Metric
    answer_texts: tuple[str, ...]
    value: float = math.nan
    probability: float = math.nan
    nodes: tuple[AttributedNode, ...] = ()
    edges: tuple[AttributionEdge, ...] = ()
    check: AttributionCheck | None = None
    totals: tuple[SaeTotal, ...] = ()
    complete: bool = False
