"""What the features of a server are said to stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from steerd.cli.label_text import brief_text, label_text
from steerd.feature_client import FeatureClient
from steerd.sae.feature_label import FeatureLabel
from steerd.steering.intervention import FeatureRef

Labels = Mapping[FeatureRef, FeatureLabel]

_ASKED_AT_ONCE = 500


def served_labels(address: str, features: Iterable[FeatureRef]) -> Labels:
    """The labels of features that a server has; raises RemoteError."""
    asked = list(dict.fromkeys(features))
    found: dict[FeatureRef, FeatureLabel] = {}
    if asked:
        with FeatureClient(address) as client:
            for first in range(0, len(asked), _ASKED_AT_ONCE):
                found |= client.labels(asked[first : first + _ASKED_AT_ONCE])
    return found


def label_of(feature: FeatureRef, labels: Labels) -> str:
    """A feature's label with its score; empty where it has none."""
    return label_text(labels[feature]) if feature in labels else ""


def brief_label_of(feature: FeatureRef, labels: Labels) -> str:
    """The same in short; the feature itself where it has no label."""
    return brief_text(labels[feature]) if feature in labels else f"{feature.sae}:{feature.index}"
