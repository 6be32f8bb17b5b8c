"""What a reader judges a feature by: a histogram of its activations, its strongest and its usual contexts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sae_train.features.feature_contexts import CachedTexts, Context, FeaturePlace, Window, read_contexts
from sae_train.features.largest_places import FoundPlaces, LargestPlaces
from sae_train.features.observed_rows import ActiveEntries, RowSource, active_entries, observed_rows
from sae_train.features.sampled_places import SampledPlace, SampledPlaces
from steerd.sae.autoencoder import SparseAutoencoder

BINS = 32
TOP_CONTEXTS = 10
SAMPLED_CONTEXTS = 8
WINDOW = Window(before=20, after=8)

_TOP_CANDIDATES = 3 * TOP_CONTEXTS  # of which those in different words are shown


@dataclass(frozen=True, slots=True, eq=False)
class SampledContext:
    """A context drawn at random among those of about the same activation."""

    percentile: float
    """Per cent of the feature's active tokens that are less active than this one."""
    context: Context


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What a pass over cached rows showed of the first features, each field by feature."""

    rows: int
    histograms: NDArray[np.int64]
    """[features, BINS]: active tokens by activation, in equal bins from 0 to the recorded maximum."""
    top: Sequence[Sequence[Context]]
    """Strongest first, in different words as far as there are any, of each sequence at most one."""
    sampled: Sequence[Sequence[SampledContext]]
    """Evenly spaced over the order of all activations, strongest first."""


def gather_evidence(
    sae: SparseAutoencoder,
    source: RowSource,
    max_activation: Tensor,
    *,
    features: int,
    on_tokens: Callable[[int], None],
) -> Evidence:
    """Encode the source's rows; tell of the first `features` features.

    `max_activation` [d_sae] are the recorded maxima, at which the histograms end; what is above them counts
    in the last bin. Memory does not grow with the number of rows.
    """
    histograms = np.zeros(features * BINS, dtype=np.int64)
    top = LargestPlaces(features, _TOP_CANDIDATES, one_a_sequence=True)
    sample = SampledPlaces(features)
    rows = 0
    for resid, observed in observed_rows(source, source.source_names()):
        entries = active_entries(sae.encode(resid)[:, :features], observed)
        histograms += np.bincount(_bins(entries, max_activation), minlength=len(histograms))
        top.update(entries, entries.values)
        sample.update(entries)
        rows += len(resid)
        on_tokens(len(resid))
    texts = CachedTexts(source)
    return Evidence(
        rows=rows,
        histograms=histograms.reshape(features, BINS),
        top=_top_contexts(sae, texts, top.by_feature()),
        sampled=_sampled_contexts(sae, texts, sample.by_feature(SAMPLED_CONTEXTS)),
    )


def _bins(entries: ActiveEntries, max_activation: Tensor) -> NDArray[np.int64]:
    """Each entry's place in the histograms laid end to end."""
    highest = np.maximum(max_activation.numpy()[entries.features], 1e-12)
    bins = np.minimum((entries.values / highest * BINS).astype(np.int64), BINS - 1)
    index: NDArray[np.int64] = entries.features * BINS + bins
    return index


def _top_contexts(
    sae: SparseAutoencoder, texts: CachedTexts, places: Sequence[FoundPlaces]
) -> list[list[Context]]:
    asked = [
        FeaturePlace(feature, place)
        for feature, found in enumerate(places)
        for place in texts.distinct(found.places.tolist(), TOP_CONTEXTS)
    ]
    by_feature: list[list[Context]] = [[] for _ in places]
    for (feature, _), context in zip(asked, read_contexts(sae, texts, asked, WINDOW), strict=True):
        by_feature[feature].append(context)
    return by_feature


def _sampled_contexts(
    sae: SparseAutoencoder, texts: CachedTexts, places: Sequence[Sequence[SampledPlace]]
) -> list[list[SampledContext]]:
    asked = [FeaturePlace(feature, each.place) for feature, found in enumerate(places) for each in found]
    contexts = iter(read_contexts(sae, texts, asked, WINDOW))
    return [[SampledContext(each.percentile, next(contexts)) for each in found] for found in places]
