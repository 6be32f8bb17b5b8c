"""Studies of what features do on given texts: each request to the study that answers it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from steerd.config import Config
from steerd.host.host_model import HostModel
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.server.parse_attribution import parse_attribution
from steerd.server.parse_contrast import parse_contrast
from steerd.server.parse_encode import parse_encode
from steerd.server.parse_feature_search import parse_text_search
from steerd.server.parse_study import StudyParser
from steerd.server.study_cache import study_key
from steerd.server.studying import AskedStudy
from steerd.server.violations import Violations
from steerd.steering.loaded_saes import LoadedSaes
from steerd.studies.attribution.result import Attribution
from steerd.studies.attribution.study import Attributing
from steerd.studies.contrast import Contrasting
from steerd.studies.contrast_table import Contrast
from steerd.studies.encoded_tokens import EncodedTokens, EncodeSummary
from steerd.studies.encoding import Encoding
from steerd.studies.feature_matches import TextMatches
from steerd.studies.text_search import TextSearch
from steerd.study_wire import attribution, contrast, encode, feature_search


class TextStudies:
    """For one host and one set of SAEs; what is wrong with a request is raised."""

    def __init__(self, host: HostModel, saes: LoadedSaes, config: Config) -> None:
        self._host = host
        self._saes = saes
        self._config = config

    def encode(self, message: pb.EncodeRequest) -> AskedStudy[EncodeSummary]:
        """Encode."""
        violations = Violations()
        wish = parse_encode(message, self._parser(violations))
        violations.raise_if_any()
        return AskedStudy(
            study=Encoding(self._host, self._saes, wish, slice_tokens=self._slice_tokens),
            response=pb.EncodeResponse,
            result_message=encode.summary_message,
            part_messages=self._encoded,
        )

    def attribution(self, message: pb.AttributeRequest) -> AskedStudy[Attribution]:
        """Attribute."""
        wish = parse_attribution(message, self._parser(Violations()))
        saes = [self._saes.get(name) for name in wish.saes]
        return AskedStudy(
            study=Attributing(self._host, saes, wish, slice_tokens=self._slice_tokens),
            response=pb.AttributeResponse,
            result_message=attribution.attribution_message,
            key=self._key(wish),
        )

    def contrast(self, message: pb.ContrastFeaturesRequest) -> AskedStudy[Contrast]:
        """ContrastFeatures."""
        violations = Violations()
        wish = parse_contrast(message, self._parser(violations))
        violations.raise_if_any()
        return AskedStudy(
            study=Contrasting(self._host, self._saes, wish, slice_tokens=self._slice_tokens),
            response=pb.ContrastFeaturesResponse,
            result_message=contrast.contrast_message,
            key=self._key(wish),
        )

    def search(self, message: pb.SearchByTextsRequest) -> AskedStudy[TextMatches]:
        """SearchByTexts."""
        violations = Violations()
        wish = parse_text_search(message, self._parser(violations))
        violations.raise_if_any()
        return AskedStudy(
            study=TextSearch(self._host, self._saes, wish, slice_tokens=self._slice_tokens),
            response=pb.SearchByTextsResponse,
            result_message=feature_search.text_matches_message,
            key=self._key(wish),
        )

    def _encoded(self, parts: Sequence[EncodedTokens]) -> Iterator[pb.EncodeResponse]:
        for part in parts:
            texts = self._host.tokenizer.batch_decode([[token_id] for token_id in part.token_ids])
            yield from encode.tokens_responses(replace(part, token_texts=tuple(texts)))

    def _parser(self, violations: Violations) -> StudyParser:
        return StudyParser(self._host, self._saes, self._config, violations)

    @property
    def _slice_tokens(self) -> int:
        return self._config.engine.study_tokens

    def _key(self, wish: object) -> str:
        """What a study's result is cached by."""
        return study_key(self._host, self._saes, wish)
