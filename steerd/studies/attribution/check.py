"""Predicted against measured effects."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from steerd.studies.attribution.rank_correlation import rank_correlation
from steerd.studies.attribution.result import AttributedNode, AttributionCheck, NodeRole


def check_of(nodes: Sequence[AttributedNode]) -> AttributionCheck | None:
    """What the nodes that were taken out say of the predictions; None when none was."""
    tried = [node for node in nodes if node.measured is not None]
    if not tried:
        return None
    by_role = {role: [node for node in tried if node.role is role] for role in NodeRole}
    top, drawn = by_role[NodeRole.TOP], by_role[NodeRole.RANDOM_ACTIVE]
    return AttributionCheck(
        checked=len(tried),
        rank_correlation=_agreement([*top, *drawn]),
        rank_correlation_top=_agreement(top),
        mean_effect_top=_mean_effect(top),
        mean_effect_random_active=_mean_effect(drawn),
        mean_effect_random_inactive=_mean_effect(by_role[NodeRole.RANDOM_INACTIVE]),
    )


def _agreement(nodes: Sequence[AttributedNode]) -> float | None:
    return rank_correlation([node.attribution for node in nodes], [node.measured or 0.0 for node in nodes])


def _mean_effect(nodes: Sequence[AttributedNode]) -> float:
    return fmean(abs(node.measured or 0.0) for node in nodes) if nodes else 0.0
