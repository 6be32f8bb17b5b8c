"""What is known of features: matches of a search and whole pages, to their messages and back."""

from __future__ import annotations

from steerd.intervention_wire import feature_message
from steerd.pb.v1 import feature_description_pb2 as description_pb
from steerd.pb.v1 import feature_pb2
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.sae.feature_label import FeatureLabel
from steerd.sae.feature_note import FeatureExample
from steerd.steering.intervention import FeatureRef
from steerd.studies.feature_matches import FeatureMatch, TextMatch
from steerd.studies.feature_page import FeaturePage, TokenEffect
from steerd.study_wire.label import label_message, label_of, score_message, score_of


def match_message(match: FeatureMatch) -> description_pb.FoundFeature:
    """A feature that a search found."""
    return description_pb.FoundFeature(
        feature=feature_message(match.feature),
        hook_point=match.hook_point,
        label=label_message(match.label),
        match=match.match,
        density=match.density,
        max_activation=match.max_activation,
        top_tokens=match.top_tokens,
        promoted_tokens=match.promoted_tokens,
        texts=None if match.texts is None else _text_match_message(match.texts),
    )


def match_of(message: description_pb.FoundFeature) -> FeatureMatch:
    """A feature that a search found, as a message tells it."""
    texts = message.texts
    return FeatureMatch(
        feature=_feature_of(message.feature),
        hook_point=message.hook_point,
        label=label_of(message.label) if message.HasField("label") else None,
        match=message.match,
        density=message.density if message.HasField("density") else None,
        max_activation=message.max_activation if message.HasField("max_activation") else None,
        top_tokens=tuple(message.top_tokens),
        promoted_tokens=tuple(message.promoted_tokens),
        texts=TextMatch(texts.fired_on, texts.fired_elsewhere, texts.strength, texts.background)
        if message.HasField("texts")
        else None,
    )


def page_request(
    feature: FeatureRef, output_tokens: int | None, neighbours: int | None
) -> pb.GetFeatureRequest:
    """The message of a GetFeature call; None leaves the server its defaults."""
    return pb.GetFeatureRequest(
        feature=feature_message(feature), output_tokens=output_tokens, neighbours=neighbours
    )


def page_message(page: FeaturePage) -> pb.GetFeatureResponse:
    """All that is known of a feature."""
    return pb.GetFeatureResponse(
        feature=feature_message(page.feature),
        hook_point=page.hook_point,
        labels=map(_tested_message, page.labels),
        density=page.density,
        max_activation=page.max_activation,
        mean_activation=page.mean_activation,
        dead=page.dead,
        top_tokens=page.top_tokens,
        contexts=map(_context_message, page.contexts),
        promoted=map(_effect_message, page.promoted),
        suppressed=map(_effect_message, page.suppressed),
        neighbours=map(match_message, page.neighbours),
    )


def page_of(message: pb.GetFeatureResponse) -> FeaturePage:
    """All that is known of a feature, as a message tells it."""
    return FeaturePage(
        feature=_feature_of(message.feature),
        hook_point=message.hook_point,
        labels=tuple(map(_tested_of, message.labels)),
        density=message.density if message.HasField("density") else None,
        max_activation=message.max_activation if message.HasField("max_activation") else None,
        mean_activation=message.mean_activation if message.HasField("mean_activation") else None,
        dead=message.dead,
        top_tokens=tuple(message.top_tokens),
        contexts=tuple(map(_context_of, message.contexts)),
        promoted=tuple(map(_effect_of, message.promoted)),
        suppressed=tuple(map(_effect_of, message.suppressed)),
        neighbours=tuple(map(match_of, message.neighbours)),
    )


def _feature_of(message: feature_pb2.FeatureRef) -> FeatureRef:
    return FeatureRef(message.sae, message.index)


def _tested_message(label: FeatureLabel) -> description_pb.TestedLabel:
    scores = map(score_message, label.scores)
    return description_pb.TestedLabel(text=label.text, by=label.by, scores=scores)


def _tested_of(message: description_pb.TestedLabel) -> FeatureLabel:
    return FeatureLabel(message.text, tuple(map(score_of, message.scores)), message.by)


def _text_match_message(texts: TextMatch) -> description_pb.TextMatch:
    return description_pb.TextMatch(
        fired_on=texts.fired_on,
        fired_elsewhere=texts.fired_elsewhere,
        strength=texts.strength,
        background=texts.background,
    )


def _context_message(example: FeatureExample) -> description_pb.FeatureContext:
    return description_pb.FeatureContext(
        tokens=example.tokens, values=example.values, percentile=example.percentile
    )


def _context_of(message: description_pb.FeatureContext) -> FeatureExample:
    percentile = message.percentile if message.HasField("percentile") else None
    return FeatureExample(tuple(message.tokens), tuple(message.values), percentile)


def _effect_message(effect: TokenEffect) -> description_pb.TokenEffect:
    return description_pb.TokenEffect(token_id=effect.token_id, text=effect.text, effect=effect.effect)


def _effect_of(message: description_pb.TokenEffect) -> TokenEffect:
    return TokenEffect(message.token_id, message.effect, message.text)
