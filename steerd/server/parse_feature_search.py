"""Requests for features -> what is to be looked for; every broken rule is recorded with the parser."""

from __future__ import annotations

import math
from collections.abc import Iterator

from steerd.errors import InvalidRequest
from steerd.host.text import ChatMessage, encode_chat
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.server.parse_study import StudyParser
from steerd.server.parse_target import TargetParser
from steerd.steering.intervention import FeatureRef
from steerd.studies.feature_matches import NearestWish, Side, TextSearchWish
from steerd.studies.feature_page import PageWish
from steerd.study_wire.feature_search import SIDES

_DEFAULT_LIMIT = 20
_DEFAULT_OUTPUT_TOKENS = 10
_DEFAULT_NEIGHBOURS = 8
_MOST_WORDS = 32
_LONGEST_WORD = 200  # characters

Limited = pb.SearchFeaturesRequest | pb.NearestFeaturesRequest | pb.SearchByTextsRequest


def parse_page(message: pb.GetFeatureRequest, parser: StudyParser) -> PageWish:
    """Which feature, and how much of it."""
    violations, limits = parser.violations, parser.config.limits
    targets = TargetParser(parser.host, parser.saes, violations)
    tokens = message.output_tokens if message.HasField("output_tokens") else _DEFAULT_OUTPUT_TOKENS
    neighbours = message.neighbours if message.HasField("neighbours") else _DEFAULT_NEIGHBOURS
    most = min(limits.max_ranked_features, parser.host.vocab_size)
    violations.must_be_between("output_tokens", tokens, 0, most)
    violations.must_be_between("neighbours", neighbours, 0, limits.max_ranked_features)
    feature = targets.feature(message.feature, "feature")
    return PageWish(feature or FeatureRef("", 0), tokens, neighbours)


def parse_labels(message: pb.GetLabelsRequest, parser: StudyParser) -> tuple[FeatureRef, ...]:
    """Whose labels; empty when there are too many."""
    limit = parser.config.limits.max_ranked_features
    if not parser.violations.must_be_at_most("features", len(message.features), limit, "features"):
        return ()
    targets = TargetParser(parser.host, parser.saes, parser.violations)
    found = [targets.feature(each, f"features[{place}]") for place, each in enumerate(message.features)]
    return tuple(feature for feature in found if feature is not None)


def parse_words(message: pb.SearchFeaturesRequest, parser: StudyParser) -> tuple[tuple[str, ...], int]:
    """The SAEs to search, and how many features to tell."""
    violations = parser.violations
    violations.must_be_at_most("words", len(message.words), _MOST_WORDS, "words")
    for place, word in enumerate(message.words):
        field = f"words[{place}]"
        violations.must_not_be_empty(field, word.strip())
        violations.must_be_at_most(field, len(word), _LONGEST_WORD, "characters")
    return parser.sae_names("saes", message.saes), _limit(message, parser)


def parse_nearest(message: pb.NearestFeaturesRequest, parser: StudyParser) -> NearestWish:
    """Near what, and where."""
    sides: dict[int, Side] = {value: side for side, value in SIDES.items()}
    sides[pb.FEATURE_SIDE_UNSPECIFIED] = "decoder"
    parser.violations.must(message.side in sides, "side", "a FeatureSide", message.side)
    return NearestWish(
        near=_near(message, parser),
        saes=parser.sae_names("saes", message.saes),
        side=sides.get(message.side, "decoder"),
        limit=_limit(message, parser),
    )


def parse_text_search(message: pb.SearchByTextsRequest, parser: StudyParser) -> TextSearchWish:
    """On which texts, and where."""
    parser.common(message)
    fires_on = parser.texts("fires_on", message.fires_on)
    not_on = parser.texts("not_on", message.not_on) if message.not_on else ()
    for field, texts in (("fires_on", fires_on), ("not_on", not_on)):
        parser.must_count(field, texts, include_special_tokens=message.include_special_tokens)
    total = sum(map(len, (*fires_on, *not_on)))
    most = parser.config.limits.max_study_tokens
    parser.violations.must_be_at_most("not_on", total, most, "tokens together with fires_on")
    return TextSearchWish(
        fires_on=fires_on,
        not_on=not_on,
        saes=parser.sae_names("saes", message.saes),
        limit=_limit(message, parser),
        include_special_tokens=message.include_special_tokens,
        frames=tuple(dict.fromkeys(_frames(message, parser))) if fires_on else (),
    )


def _frames(message: pb.SearchByTextsRequest, parser: StudyParser) -> Iterator[tuple[int, ...]]:
    """The conversations without their contents, as far as the host's template makes anything of them."""
    for text in message.fires_on:
        if text.WhichOneof("input") == "chat":
            empty = [ChatMessage(turn.role, "") for turn in text.chat.messages]
            try:
                yield tuple(encode_chat(parser.host.tokenizer, empty))
            except InvalidRequest:
                continue


def _near(message: pb.NearestFeaturesRequest, parser: StudyParser) -> FeatureRef | tuple[float, ...]:
    """What others are to be near of; empty when a violation was recorded."""
    match message.WhichOneof("near"):
        case "feature":
            targets = TargetParser(parser.host, parser.saes, parser.violations)
            return targets.feature(message.feature, "feature") or ()
        case "vector":
            return _vector(message.vector, parser)
        case _:
            parser.violations.add("near", "one of feature and vector is required")
            return ()


def _vector(message: pb.FeatureVector, parser: StudyParser) -> tuple[float, ...]:
    values, violations, d_model = tuple(message.values), parser.violations, parser.host.d_model
    violations.must(len(values) == d_model, "vector.values", f"as many as d_model, {d_model}", len(values))
    wrong = next((place for place, value in enumerate(values) if not math.isfinite(value)), None)
    if wrong is not None:
        violations.must(False, f"vector.values[{wrong}]", "finite", values[wrong])
    elif values and not any(values):
        violations.add("vector.values", "must not all be 0")
    return values


def _limit(message: Limited, parser: StudyParser) -> int:
    limit = message.limit if message.HasField("limit") else _DEFAULT_LIMIT
    parser.violations.must_be_between("limit", limit, 1, parser.config.limits.max_ranked_features)
    return limit
