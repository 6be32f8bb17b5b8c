"""How many series /metrics may have, and what a watch list costs of them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from steerd.engine.watch_list import WatchList
from steerd.monitoring.buckets import ACTIVATION_RATIO

MAX_SERIES = 2500
SERIES_PER_FEATURE = 3
SERIES_PER_HOT_FEATURE = len(ACTIVATION_RATIO) + 4  # the bucket without a bound, sum, count, and the label


def cost(watch: WatchList) -> int:
    """The series of a watch list."""
    num_hot = sum(feature.hot for feature in watch.features)
    return len(watch) * SERIES_PER_FEATURE + num_hot * SERIES_PER_HOT_FEATURE


def num_series(registry: CollectorRegistry) -> int:
    """The series that a scrape of the registry gives."""
    return sum(
        not sample.name.endswith("_created") for family in registry.collect() for sample in family.samples
    )


def over_budget(watch: WatchList, *, others: int) -> str | None:
    """What a list would cost, for people, when with the `others` it would pass MAX_SERIES; else None."""
    if others + cost(watch) <= MAX_SERIES:
        return None
    num_hot = sum(feature.hot for feature in watch.features)
    return (
        f"costs {cost(watch)} series ({len(watch)} features at {SERIES_PER_FEATURE}, {num_hot} hot ones at "
        f"{SERIES_PER_HOT_FEATURE} more); there is room for {MAX_SERIES - others}, as all other metrics take "
        f"{others} of {MAX_SERIES}"
    )
