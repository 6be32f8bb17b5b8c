"""What a client wants to know of an attribution, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from steerd.studies.attribution.metric import Metric


class Method(StrEnum):
    """How effects are predicted, from the fastest on.

    DIRECT: what a feature of the last row adds to the logits past all later layers.
    GRADIENT: activation times gradient, the first-order effect of taking the feature out.
    INTEGRATED_GRADIENTS: the gradient averaged over paths on which groups of features come up.
    """

    DIRECT = "direct"
    GRADIENT = "gradient"
    INTEGRATED_GRADIENTS = "integrated_gradients"


@dataclass(frozen=True, kw_only=True, slots=True)
class AttributionWish:
    """A checked wish. `saes` are names of loaded SAEs; for a graph no two of them read the same rows.

    `groups` and `steps` are those of INTEGRATED_GRADIENTS: each SAE costs their product in copies of the
    prompt, forward and backward. At most `max_nodes` features are returned, each
    taken out for real if `check` is set, beside `controls` random features that are active somewhere in the
    prompt and as many that are not. `graph` asks for edges between them, pruned by the thresholds. Special
    tokens and the first have no nodes unless `include_special_tokens`.
    """

    prompt_ids: tuple[int, ...]
    metric: Metric
    saes: tuple[str, ...]
    method: Method = Method.INTEGRATED_GRADIENTS
    groups: int = 8
    steps: int = 2
    max_nodes: int = 50
    check: bool = True
    controls: int = 20
    graph: bool = True
    node_threshold: float = 0.8
    edge_threshold: float = 0.98
    include_special_tokens: bool = False
    seed: int = 0
