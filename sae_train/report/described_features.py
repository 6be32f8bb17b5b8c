"""Each feature's page, from the SAE's files, its weights, the host and a pass over cached rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sae_train.features.feature_contexts import Context
from sae_train.features.feature_evidence import Evidence
from sae_train.report.feature_details import FeatureDetails, PageContext
from steerd.host.host_model import HostModel
from steerd.host.output_tokens import output_tokens
from steerd.host.token_texts import TokenTexts
from steerd.sae.feature_label import FeatureLabel
from steerd.sae.feature_note import FeatureExample, FeatureNote
from steerd.sae.nearest_features import NearestFeatures
from steerd.sae.sae_file import SaeBundle

OUTPUT_TOKENS = 10


def describe_features(
    bundle: SaeBundle, nearest: NearestFeatures, host: HostModel | None, evidence: Evidence | None
) -> Iterator[FeatureDetails]:
    """Yield the pages of the first features, as many as `nearest` holds.

    Contexts are the evidence's where there is any, else those of the SAE's folder; without a host the page
    has the folder's promoted tokens alone. Evidence is only read with a host, whose tokens it counts in.
    """
    near = zip(nearest.features.tolist(), nearest.cosines.tolist(), strict=True)
    texts = TokenTexts(host.tokenizer) if host is not None else None
    outputs = _outputs(bundle, len(nearest.features), host, texts)
    for feature, (others, cosines) in enumerate(near):
        promoted, suppressed = next(outputs)
        top, sampled = _contexts(feature, bundle.notes, evidence, texts)
        yield FeatureDetails(
            labels=_labels(bundle.notes[feature]) if bundle.notes is not None else (),
            histogram=evidence.histograms[feature].tolist() if evidence is not None else (),
            neighbours=list(zip(others, cosines, strict=True)),
            promoted=promoted,
            suppressed=suppressed,
            top=top,
            sampled=sampled,
        )


def _labels(note: FeatureNote) -> list[FeatureLabel]:
    made = FeatureLabel(note.label, note.scores)
    return [made] if note.written is None else [made, note.written]


Effects = list[tuple[str, float | None]]


def _outputs(
    bundle: SaeBundle, features: int, host: HostModel | None, texts: TokenTexts | None
) -> Iterator[tuple[Effects, Effects]]:
    """Promoted and suppressed tokens of each feature."""
    if host is None or texts is None:
        notes = bundle.notes[:features] if bundle.notes is not None else [None] * features
        for note in notes:
            yield [(token, None) for token in (note.promoted_tokens if note else ())], []
        return
    found = output_tokens(host, bundle.sae.W_dec, count=OUTPUT_TOKENS, features=features)
    for raised, up, lowered, down in zip(*(part.tolist() for part in found), strict=True):
        yield _effects(raised, up, texts), _effects(lowered, down, texts)


def _effects(token_ids: list[int], effects: list[float], texts: TokenTexts) -> Effects:
    return [(texts.one(token_id), effect) for token_id, effect in zip(token_ids, effects, strict=True)]


def _contexts(
    feature: int,
    notes: Sequence[FeatureNote] | None,
    evidence: Evidence | None,
    texts: TokenTexts | None,
) -> tuple[list[PageContext], list[PageContext]]:
    """Strongest and sampled contexts."""
    if evidence is not None and texts is not None:
        top = [_page_context(context, texts) for context in evidence.top[feature]]
        sampled = [_page_context(s.context, texts, s.percentile) for s in evidence.sampled[feature]]
        return top, sampled
    return [_noted(example) for example in (notes[feature].examples if notes else ())], []


def _page_context(context: Context, texts: TokenTexts, percentile: float | None = None) -> PageContext:
    return PageContext(
        tokens=texts.run(context.token_ids.tolist()),
        values=context.values.tolist(),
        peak=context.peak,
        percentile=percentile,
    )


def _noted(example: FeatureExample) -> PageContext:
    peak = max(range(len(example.values)), key=lambda i: example.values[i], default=0)
    return PageContext(tokens=example.tokens, values=example.values, peak=peak)
