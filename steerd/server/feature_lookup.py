"""The short questions about features: one feature's page, words, neighbours."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from steerd.config import Config
from steerd.host.host_model import HostModel
from steerd.host.token_texts import TokenTexts
from steerd.pb.v1 import feature_pb2
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.server.parse_feature_search import parse_labels, parse_nearest, parse_page, parse_words
from steerd.server.parse_study import StudyParser
from steerd.server.study_cache import study_key
from steerd.server.studying import Studying
from steerd.server.violations import Violations
from steerd.steering.loaded_saes import LoadedSaes
from steerd.studies.describing import Describing, OutputTokenFinders
from steerd.studies.feature_page import TokenEffect
from steerd.studies.known_features import words_matched
from steerd.studies.nearest import Nearest
from steerd.study_wire import feature_description, feature_search
from steerd.study_wire.label import label_message


class FeatureLookup:
    """Answers a message with a message; belongs to one event loop."""

    def __init__(self, studying: Studying, host: HostModel, saes: LoadedSaes, config: Config) -> None:
        self._studying = studying
        self._host = host
        self._saes = saes
        self._config = config
        self._finders = OutputTokenFinders(host)
        self._token_texts = TokenTexts(host.tokenizer)

    async def page(self, message: pb.GetFeatureRequest) -> pb.GetFeatureResponse:
        """All that is known of one feature."""
        violations = Violations()
        wish = parse_page(message, self._parser(violations))
        violations.raise_if_any()
        page = await self._studying.answer(Describing(self._finders, self._saes, wish), self._key(wish))
        told = replace(page, promoted=self._told(page.promoted), suppressed=self._told(page.suppressed))
        return feature_description.page_message(told)

    def labels(self, message: pb.GetLabelsRequest) -> pb.GetLabelsResponse:
        """What features are said to stand for."""
        violations = Violations()
        features = parse_labels(message, self._parser(violations))
        violations.raise_if_any()
        labels = (self._saes.get(feature.sae).label(feature.index) for feature in features)
        none = feature_pb2.FeatureLabel()
        return pb.GetLabelsResponse(labels=[label_message(label) or none for label in labels])

    async def words(self, message: pb.SearchFeaturesRequest) -> pb.SearchFeaturesResponse:
        """What words find; no matter for the engine, which has nothing to compute."""
        violations = Violations()
        names, limit = parse_words(message, self._parser(violations))
        violations.raise_if_any()
        saes = [self._saes.get(name) for name in names]
        found = await asyncio.to_thread(words_matched, saes, message.words, limit)
        return feature_search.words_message(found)

    async def nearest(self, message: pb.NearestFeaturesRequest) -> pb.NearestFeaturesResponse:
        """What points most like a feature or a direction."""
        violations = Violations()
        wish = parse_nearest(message, self._parser(violations))
        violations.raise_if_any()
        found = await self._studying.answer(Nearest(self._saes, wish), self._key(wish))
        return feature_search.nearest_message(found)

    def _told(self, effects: Sequence[TokenEffect]) -> tuple[TokenEffect, ...]:
        """The tokens with their texts."""
        return tuple(replace(each, text=self._token_texts.one(each.token_id)) for each in effects)

    def _parser(self, violations: Violations) -> StudyParser:
        return StudyParser(self._host, self._saes, self._config, violations)

    def _key(self, wish: object) -> str:
        return study_key(self._host, self._saes, wish)
