"""NearestFeatures: the features of any SAEs whose directions point most like a given one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from steerd.engine.study import Progress
from steerd.sae.nearest_features import nearest_to
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.studies.feature_matches import FeatureMatch, FeatureMatches, NearestWish
from steerd.studies.known_features import matched


class Nearest:
    """A study whose result is FeatureMatches by cosine, an SAE a slice."""

    def __init__(self, saes: LoadedSaes, wish: NearestWish) -> None:
        self._wish = wish
        self._saes = [saes.get(name) for name in wish.saes]
        self._given = saes.get(wish.near.sae) if isinstance(wish.near, FeatureRef) else None
        self._found: list[FeatureMatch] = []
        self._searched = 0

    def run(self) -> Iterator[Progress]:
        """Compares with every feature of each SAE in turn."""
        direction = self._direction()
        for loaded in self._saes:
            near = nearest_to(direction, self._directions(loaded), count=self._wish.limit + 1)
            pairs = zip(near.features.tolist(), near.cosines.tolist(), strict=True)
            matches = (matched(loaded, index, cosine) for index, cosine in pairs)
            self._found += [match for match in matches if match.feature != self._wish.near]
            self._searched += loaded.sae.d_sae
            yield Progress(self._searched, sum(each.sae.d_sae for each in self._saes), "features")

    def result(self) -> FeatureMatches:
        """The nearest in the SAEs so far."""
        best = sorted(self._found, key=lambda match: -match.match)[: self._wish.limit]
        total = sum(each.sae.d_sae for each in self._saes)
        return FeatureMatches(tuple(best), found=self._searched, complete=self._searched == total)

    def _direction(self) -> Tensor:
        """What all are compared with, [d_model]."""
        if isinstance(self._wish.near, FeatureRef):
            assert self._given is not None
            return self._directions(self._given)[self._wish.near.index]
        return torch.tensor(self._wish.near)

    def _directions(self, loaded: LoadedSae) -> Tensor:
        """The directions of an SAE's features that are compared, [d_sae, d_model]."""
        return loaded.sae.W_dec if self._wish.side == "decoder" else loaded.sae.W_enc.t()
