"""Names of features, for people: a server sends numbers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from steerd.client_views import ServedSae
from steerd.starters import STARTERS, sae_folder
from steerd.steering.intervention import FeatureRef


def starter_labels(served: Sequence[ServedSae], folders: Sequence[Path] = ()) -> Mapping[FeatureRef, str]:
    """Labels of those served SAEs whose weights are those of a starter SAE or of an SAE folder."""
    from steerd.sae.sae_file import load_sae  # costs torch, which no other part of these commands needs

    return {
        FeatureRef(sae.name, note.feature): note.label
        for bundle in (load_sae(path) for path in (*map(sae_folder, STARTERS), *folders))
        for sae in served
        if sae.weights_sha256 == bundle.metadata.weights_sha256
        for note in bundle.notes or ()
    }
