"""Two SAE folders compared feature by feature: what a second seed of the same recipe finds again."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from sae_train.evaluation.feature_geometry import FeatureMatch, match_features
from steerd.errors import SaeFileError
from steerd.sae.sae_file import SaeBundle, load_sae


def match_folders(folder_a: Path, folder_b: Path) -> FeatureMatch:
    """Match the features of two SAEs of one host; raises SaeFileError when they read at unlike places.

    Features that a folder's statistics call dead are left out: their directions were hardly trained.
    """
    a, b = load_sae(folder_a), load_sae(folder_b)
    for name in ("hook_point", "d_model"):  # not the host: the same one has several names
        of_a, of_b = getattr(a.metadata, name), getattr(b.metadata, name)
        if of_a != of_b:
            raise SaeFileError(f"{name}: {of_a} in {folder_a}, but {of_b} in {folder_b}")
    return match_features(_alive_directions(a, folder_a), _alive_directions(b, folder_b))


def _alive_directions(bundle: SaeBundle, folder: Path) -> Tensor:
    """Decoder rows, [features that are not dead, d_model]."""
    if bundle.statistics is None:
        return bundle.sae.W_dec
    alive = bundle.sae.W_dec[~bundle.statistics.dead]
    if not len(alive):
        raise SaeFileError(f"{folder}: features.safetensors: every feature is dead, there is none to match")
    return alive
