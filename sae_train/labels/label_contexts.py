"""Held-out contexts of one feature: some to write a label from, others to test it on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_train.features.feature_contexts import CachedTexts, FeaturePlace, Window, read_contexts
from sae_train.labels.held_out_windows import WINDOW_TOKENS, HeldOutWindows
from steerd.host.token_texts import TokenTexts
from steerd.sae.autoencoder import SparseAutoencoder

TESTED = 50
"""Contexts of either kind that a label is tested on at most."""

_QUANTILES = 10
_WRITTEN_FROM = 20
_COUNTEREXAMPLES = 5
_STRONGEST = 5  # contexts that the rubric of arXiv 2506.07691 is about
_WINDOW = Window(before=0, after=WINDOW_TOKENS - 1)


@dataclass(frozen=True, slots=True, eq=False)
class LabelContext:
    """The tokens of a window and the feature's activation at each, all zero where it is not active."""

    tokens: Sequence[str]
    values: NDArray[np.float32]

    @property
    def is_active(self) -> bool:
        """Whether the feature is active in it."""
        return bool((self.values > 0).any())

    @property
    def peak(self) -> float:
        """The largest activation."""
        return float(self.values.max())


class LabelContexts:
    """Draws contexts for each feature, the same each time.

    Sequences are parted in two: what a label is written from and what it is tested on never share one. Of
    active windows as many are drawn from each tenth of their order by activation, as in arXiv 2410.13928.
    """

    def __init__(self, sae: SparseAutoencoder, windows: HeldOutWindows, texts: TokenTexts) -> None:
        self._sae = sae
        self._windows = windows
        self._texts = texts
        self._cached = CachedTexts(windows.source)
        self._is_for_testing = windows.sequences % 2 == 1

    def to_write_from(self, feature: int) -> list[LabelContext]:
        """Return active contexts, strongest first, and after them a few that are not."""
        random = np.random.default_rng([feature, 0])
        active, inactive = self._parted(feature, testing=False)
        strongest = active[: _WRITTEN_FROM // 2]
        sampled = _from_each_quantile(active[len(strongest) :], _WRITTEN_FROM - len(strongest), random)
        few = random.permutation(inactive)[:_COUNTEREXAMPLES]
        return self._read(feature, np.concatenate([strongest, sampled, few]))

    def to_test_on(self, feature: int) -> list[LabelContext]:
        """Return at most TESTED active contexts and as many that are not, in random order."""
        random = np.random.default_rng([feature, 1])
        active, inactive = self._parted(feature, testing=True)
        chosen = _from_each_quantile(active, TESTED, random)
        others = random.permutation(inactive)[: len(chosen)]
        return self._read(feature, random.permutation(np.concatenate([chosen, others])))

    def strongest(self, feature: int) -> list[LabelContext]:
        """Return the few strongest of all active contexts."""
        return self._read(feature, self._windows.active(feature).windows[:_STRONGEST])

    def _parted(self, feature: int, *, testing: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Active windows, strongest first, and all others, of one part of the sequences."""
        found = self._windows.active(feature).windows
        here = self._is_for_testing == testing
        inactive = here.copy()
        inactive[found] = False
        return found[here[found]], np.flatnonzero(inactive)

    def _read(self, feature: int, windows: NDArray[np.int64]) -> list[LabelContext]:
        asked = [FeaturePlace(feature, int(self._windows.places[window])) for window in windows]
        return [
            LabelContext(self._texts.run(context.token_ids.tolist()), context.values)
            for context in read_contexts(self._sae, self._cached, asked, _WINDOW)
        ]


def _from_each_quantile(
    ranked: NDArray[np.int64], count: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """About `count` of them, as many from each tenth, in their order; all where there are no more."""
    if len(ranked) <= count:
        return ranked
    parts = np.array_split(np.arange(len(ranked)), _QUANTILES)
    share = count / _QUANTILES
    wanted = [round((i + 1) * share) - round(i * share) for i in range(_QUANTILES)]
    drawn = [random.permutation(part)[:number] for part, number in zip(parts, wanted, strict=True)]
    chosen: NDArray[np.int64] = ranked[np.sort(np.concatenate(drawn))]
    return chosen
