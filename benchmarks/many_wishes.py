"""What the engine is asked for under full load: sixteen different interventions and 64 watched features."""

from __future__ import annotations

from collections.abc import Callable

from steerd.config import WatchedFeature
from steerd.steering.intervention import Ablate, Add, FeatureRef, Intervention, Operation, Scale, Set

SAE_NAME = "starter"
NUM_INTERVENTIONS = 16
NUM_WATCHED = 64

_OPERATIONS: tuple[Callable[[int], Operation], ...] = (
    lambda step: Add(0.5 * step),
    lambda step: Set(0.25 * step),
    lambda step: Scale(0.1 * step),
    lambda _: Ablate(),
)


def watched_features(d_sae: int) -> tuple[FeatureRef, ...]:
    """64 features, evenly spread over the SAE."""
    return tuple(FeatureRef(SAE_NAME, index * d_sae // NUM_WATCHED) for index in range(NUM_WATCHED))


def server_watch_list(d_sae: int) -> tuple[WatchedFeature, ...]:
    """The same features as a server's own watch list."""
    return tuple(
        WatchedFeature(sae=ref.sae, index=ref.index, alias=f"feature_{ref.index}")
        for ref in watched_features(d_sae)
    )


def operation(number: int) -> Operation:
    """The four operations in turn, of growing strength over sixteen numbers."""
    return _OPERATIONS[number % len(_OPERATIONS)](number % NUM_INTERVENTIONS + 1)


def sixteen_interventions(d_sae: int) -> tuple[Intervention, ...]:
    """One a request: sixteen features that nobody watches."""
    return tuple(
        Intervention(
            target=FeatureRef(SAE_NAME, row * d_sae // NUM_INTERVENTIONS + 1),
            operation=operation(row),
        )
        for row in range(NUM_INTERVENTIONS)
    )
