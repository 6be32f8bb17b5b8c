"""Names of features, for people: a server sends numbers only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path

from steerd.client_messages import ServedSae
from steerd.steering.intervention import FeatureRef

STARTER_FOLDER = Path(str(files("steerd"))) / "starter_sae"


def starter_labels(served: Iterable[ServedSae]) -> Mapping[FeatureRef, str]:
    """Labels of those served SAEs whose weights are those of this package's starter SAE."""
    from steerd.sae.sae_file import load_sae  # costs torch, which no other part of these commands needs

    if not STARTER_FOLDER.is_dir():
        return {}
    bundle = load_sae(STARTER_FOLDER)
    names = [sae.name for sae in served if sae.weights_sha256 == bundle.metadata.weights_sha256]
    return {FeatureRef(name, note.feature): note.label for name in names for note in bundle.notes or ()}
