"""Features by their output score: which of them say something when they are steered."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nlargest

from steerd.engine.steered_forward import SteeredForward
from steerd.engine.study import Progress
from steerd.host.host_model import HostModel
from steerd.steering.intervention import FeatureRef
from steerd.steering.loaded_saes import LoadedSaes
from steerd.studies.output_score import OutputScorer
from steerd.studies.output_table import OutputTable, OutputWish, RankedOutput

_MOST_AT_ONCE = 256  # rows of logits of a whole vocabulary


class OutputRanking:
    """A study that scores features, as many in a slice as fit."""

    def __init__(
        self,
        host: HostModel,
        saes: LoadedSaes,
        forward: SteeredForward,
        wish: OutputWish,
        *,
        slice_tokens: int,
    ) -> None:
        self._saes = saes
        self._wish = wish
        self._at_once = min(max(slice_tokens // len(wish.neutral), 1), _MOST_AT_ONCE)
        self._scorers = {
            sae: OutputScorer(host, saes.get(sae), forward, wish.neutral, wish.plain)
            for sae in dict.fromkeys(feature.sae for feature in wish.features)
        }
        self._found: list[RankedOutput] = []
        self._scored = 0

    def run(self) -> Iterator[Progress]:
        """SAE by SAE, the features in their order."""
        for sae, scorer in self._scorers.items():
            indices = [feature.index for feature in self._wish.features if feature.sae == sae]
            for first in range(0, len(indices), self._at_once):
                self._score(sae, scorer, indices[first : first + self._at_once])
                yield Progress(self._scored, len(self._wish.features), "features")

    def result(self) -> OutputTable:
        """The features with the highest scores so far."""
        return OutputTable(
            complete=self._scored == len(self._wish.features),
            scored=self._scored,
            features=tuple(nlargest(self._wish.top, self._found, key=lambda found: found.score)),
        )

    def _score(self, sae: str, scorer: OutputScorer, indices: list[int]) -> None:
        promoted = scorer.promoted(indices)
        scores = scorer.scores(indices, promoted)
        for index, score, tokens in zip(indices, scores, promoted.tolist(), strict=True):
            label = self._saes.get(sae).label(index)
            self._found.append(RankedOutput(FeatureRef(sae, index), label, score, tuple(tokens)))
        self._scored += len(indices)
