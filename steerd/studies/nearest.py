"""NearestFeatures: the features of any SAEs whose directions point most like a given one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from steerd.engine.study import Progress
from steerd.sae.nearest_features import nearest_to
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSae, LoadedSaes
from steerd.studies.feature_matches import FeatureMatch, FeatureMatches, NearestWish, Side
from steerd.studies.known_features import matched


def nearest_in(loaded: LoadedSae, direction: Tensor, side: Side, count: int) -> list[FeatureMatch]:
    """The features of one SAE nearest to a direction [d_model], by cosine, nearest first."""
    near = nearest_to(direction, directions(loaded, side), count=count)
    pairs = zip(near.features.tolist(), near.cosines.tolist(), strict=True)
    return [matched(loaded, index, cosine) for index, cosine in pairs]


def directions(loaded: LoadedSae, side: Side) -> Tensor:
    """What an SAE's features write or what they read, [d_sae, d_model]."""
    return loaded.sae.W_dec if side == "decoder" else loaded.sae.W_enc.t()


class Nearest:
    """A study whose result is FeatureMatches by cosine, an SAE a slice."""

    def __init__(self, saes: LoadedSaes, wish: NearestWish) -> None:
        self._wish = wish
        self._all = saes
        self._saes = [saes.get(name) for name in wish.saes]
        self._found: list[FeatureMatch] = []
        self._searched = 0

    def run(self) -> Iterator[Progress]:
        """Compares with every feature of each SAE in turn."""
        direction = self._direction()
        for loaded in self._saes:
            near = nearest_in(loaded, direction, self._wish.side, self._wish.limit + 1)
            self._found += [match for match in near if match.feature != self._wish.near]
            self._searched += loaded.sae.d_sae
            yield Progress(self._searched, self._total, "features")

    def result(self) -> FeatureMatches:
        """The nearest in the SAEs so far."""
        best = sorted(self._found, key=lambda match: -match.match)[: self._wish.limit]
        return FeatureMatches(tuple(best), self._searched, complete=self._searched == self._total)

    @property
    def _total(self) -> int:
        return sum(loaded.sae.d_sae for loaded in self._saes)

    def _direction(self) -> Tensor:
        """What all are compared with, [d_model]."""
        near = self._wish.near
        if isinstance(near, FeatureRef):
            return directions(self._all.get(near.sae), self._wish.side)[near.index]
        return torch.tensor(near)
