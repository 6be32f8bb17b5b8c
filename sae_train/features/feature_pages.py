"""Statistics and notes of every feature, gathered in one pass over the cached training activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sae_train.activations.activation_cache import ActivationCache
from sae_train.activations.activation_scale import ActivationScale
from sae_train.features.feature_contexts import CachedTexts, Context, FeaturePlace, Window, read_contexts
from sae_train.features.feature_notes import TOP_TOKENS, characteristic_tokens, dominating_sources, label
from sae_train.features.feature_observations import FeatureObservations
from sae_train.features.largest_places import FoundPlaces, LargestPlaces
from sae_train.features.observed_rows import RowSource, active_entries, observed_rows
from sae_train.features.sampled_places import SampledPlace, SampledPlaces
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.host.output_tokens import output_tokens
from steerd.host.token_texts import TokenTexts
from steerd.sae.autoencoder import SparseAutoencoder
from steerd.sae.feature_files import FeatureStatistics
from steerd.sae.feature_note import FeatureExample, FeatureNote

EXAMPLES = 2
SAMPLED = 2
WINDOW = Window(before=11, after=4)
SAMPLED_WINDOW = Window(before=7, after=2)  # contexts are most of what a folder takes beside the weights

_CANDIDATES = 4 * EXAMPLES  # places held a feature, of which those in different words are shown


@dataclass(frozen=True, slots=True)
class Seen:
    """What a pass over the rows left: counts, the strongest and some sampled places by feature, the sources'
    names."""

    observations: FeatureObservations
    places: Sequence[FoundPlaces]
    sampled: Sequence[Sequence[SampledPlace]]
    sources: list[str]


def observe(
    sae: SparseAutoencoder, source: RowSource, *, vocab_size: int, on_tokens: Callable[[int], None]
) -> Seen:
    """Encode the source's rows."""
    names = source.source_names()
    observations = FeatureObservations(sae.d_sae, vocab_size=vocab_size, num_sources=len(names))
    strongest = LargestPlaces(sae.d_sae, _CANDIDATES, one_a_sequence=True)
    sample = SampledPlaces(sae.d_sae)
    for resid, observed in observed_rows(source, names):
        entries = active_entries(sae.encode(resid), observed)
        observations.update(observed, entries)
        strongest.update(entries, entries.values)
        sample.update(entries)
        on_tokens(len(resid))
    return Seen(observations, strongest.by_feature(), sample.by_feature(SAMPLED), names)


def feature_pages(
    sae: SparseAutoencoder,
    host: HostModel,
    cache: ActivationCache,
    hook_point: HookPoint,
    scale: ActivationScale,
    *,
    tokens: int,
    on_tokens: Callable[[int], None],
) -> tuple[FeatureStatistics, tuple[FeatureNote, ...]]:
    """Return statistics and notes for all features, from about `tokens` cached rows of the hook point."""
    source = RowSource.of_cache(cache, hook_point, scale, tokens=tokens)
    vocab_size = max(host.vocab_size, len(host.tokenizer))
    seen = observe(sae, source, vocab_size=vocab_size, on_tokens=on_tokens)
    statistics = seen.observations.statistics()
    ranked = characteristic_tokens(seen.observations)
    sources = dominating_sources(seen.observations, seen.sources)
    promoted = output_tokens(host, sae.W_dec, count=TOP_TOKENS).promoted
    texts = TokenTexts(host.tokenizer)
    examples = _examples(sae, source, seen.places, texts)
    sampled = _sampled(sae, source, seen.sampled, texts)
    notes = tuple(
        FeatureNote(
            feature=feature,
            label=label(ranked[feature], sources[feature], texts, dead=bool(statistics.dead[feature])),
            top_tokens=[texts.one(i) for i in ranked[feature].token_ids.tolist()],
            promoted_tokens=[texts.one(i) for i in promoted[feature].tolist()],
            examples=examples[feature],
            sampled=sampled[feature],
        )
        for feature in range(sae.d_sae)
    )
    return statistics, notes


def _examples(
    sae: SparseAutoencoder, source: RowSource, places: Sequence[FoundPlaces], texts: TokenTexts
) -> list[tuple[FeatureExample, ...]]:
    """The strongest contexts of every feature."""
    cached = CachedTexts(source)
    asked = [
        FeaturePlace(feature, place)
        for feature, found in enumerate(places)
        for place in cached.distinct(found.places.tolist(), EXAMPLES)
    ]
    examples: list[list[FeatureExample]] = [[] for _ in places]
    for (feature, _), context in zip(asked, read_contexts(sae, cached, asked, WINDOW), strict=True):
        examples[feature].append(_example(context, texts))
    return [tuple(of_feature) for of_feature in examples]


def sampled_examples(
    sae: SparseAutoencoder, source: RowSource, texts: TokenTexts, count: int
) -> list[tuple[FeatureExample, ...]]:
    """Return up to `count` contexts a feature over the order of its activations, from a pass of its own."""
    sample = SampledPlaces(sae.d_sae)
    for resid, observed in observed_rows(source, source.source_names()):
        sample.update(active_entries(sae.encode(resid), observed))
    return _sampled(sae, source, sample.by_feature(count), texts)


def _sampled(
    sae: SparseAutoencoder, source: RowSource, places: Sequence[Sequence[SampledPlace]], texts: TokenTexts
) -> list[tuple[FeatureExample, ...]]:
    asked = [FeaturePlace(feature, each.place) for feature, found in enumerate(places) for each in found]
    contexts = iter(read_contexts(sae, CachedTexts(source), asked, SAMPLED_WINDOW))
    return [tuple(_example(next(contexts), texts, each.percentile) for each in found) for found in places]


def _example(context: Context, texts: TokenTexts, percentile: float | None = None) -> FeatureExample:
    return FeatureExample(
        tokens=texts.run(context.token_ids.tolist()),
        values=[float(f"{value:.3g}") for value in context.values.tolist()],
        percentile=None if percentile is None else round(percentile),
    )
