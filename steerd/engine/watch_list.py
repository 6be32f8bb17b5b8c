"""The features that the server watches on every token, as arrays in the order of the list."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np
from numpy.typing import NDArray

from steerd.config import WatchedFeature
from steerd.errors import ConfigError, FieldViolation
from steerd.sae.feature_label import FeatureLabel
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes

NO_LABEL = FeatureLabel("")


class WatchList:
    """One list, never changed: whoever holds it knows what the numbers counted with it are about.

    By feature: `refs`, `thresholds`, and what its SAE's file records, `max_activation` and `density` (the
    share of training tokens on which it was active), NaN where that is not known, and `labels`, without text
    where it has none. `by_sae` has positions.
    """

    def __init__(
        self,
        features: Sequence[WatchedFeature] = (),
        *,
        max_activation: Sequence[float] | None = None,
        density: Sequence[float] | None = None,
        labels: Sequence[FeatureLabel] | None = None,
    ) -> None:
        self.features = tuple(features)
        self.refs = tuple(FeatureRef(feature.sae, feature.index) for feature in features)
        self.thresholds = np.array([feature.threshold for feature in features], dtype=np.float32)
        unknown = [nan] * len(self.features)
        self.max_activation = np.array(unknown if max_activation is None else max_activation)
        self.density = np.array(unknown if density is None else density)
        self.labels = [NO_LABEL] * len(self.features) if labels is None else labels
        self.by_sae: dict[str, NDArray[np.int64]] = {
            sae: np.array([at for at, ref in enumerate(self.refs) if ref.sae == sae], dtype=np.int64)
            for sae in dict.fromkeys(ref.sae for ref in self.refs)
        }

    def __len__(self) -> int:
        return len(self.features)


def configured_list(
    features: Sequence[WatchedFeature], saes: LoadedSaes, key: str = "monitoring.watch"
) -> WatchList:
    """A list that is called `key`; raises ConfigError when the served SAEs have something against it."""
    names = [sae.name for sae in saes]
    for position, feature in enumerate(features):
        if feature.sae not in names:
            field = f"{key}[{position}].sae"
            raise ConfigError(
                f"{field} must be one of the served SAEs {names}; got {feature.sae!r}", key=field
            )
    found = violations(features, saes, key)
    if found:
        raise ConfigError(f"{found[0].field} {found[0].description}", key=found[0].field)
    return load_watch_list(features, saes)


def load_watch_list(features: Sequence[WatchedFeature], saes: LoadedSaes) -> WatchList:
    """The list with what the SAEs' files record; the features must be without `violations`."""
    recorded = [saes.get(feature.sae).statistics for feature in features]
    pairs = list(zip(features, recorded, strict=True))
    return WatchList(
        features,
        max_activation=[nan if s is None else float(s.max_activation[f.index]) for f, s in pairs],
        density=[nan if s is None else float(s.density[f.index]) for f, s in pairs],
        labels=[saes.get(feature.sae).label(feature.index) or NO_LABEL for feature in features],
    )


def violations(features: Sequence[WatchedFeature], saes: LoadedSaes, key: str) -> list[FieldViolation]:
    """What the served SAEs have against a list that is called `key`; they must all be served."""
    found = []
    for position, feature in enumerate(features):
        sae = saes.get(feature.sae)
        if feature.index >= sae.sae.d_sae:
            bound = f"must be below {sae.sae.d_sae}, the SAE's d_sae; got {feature.index}"
            found.append(FieldViolation(f"{key}[{position}].index", bound))
        elif feature.hot and not _has_maximum(sae, feature.index):
            problem = f"needs a recorded maximum above 0, which feature {feature.index} of {sae.name} has not"
            found.append(FieldViolation(f"{key}[{position}].hot", problem))
    return found


def _has_maximum(sae: LoadedSae, index: int) -> bool:
    return sae.statistics is not None and float(sae.statistics.max_activation[index]) > 0
