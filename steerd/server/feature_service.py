"""FeatureService: what features do and why. Each RPC is parsed into a study, which `studying` runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import grpc

from steerd.config import Config
from steerd.host.host_model import HostModel
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1.feature_service_pb2_grpc import FeatureServiceServicer
from steerd.server.dose_studies import DoseStudies
from steerd.server.feature_lookup import FeatureLookup
from steerd.server.parse_attribution import parse_attribution
from steerd.server.parse_contrast import parse_contrast
from steerd.server.parse_encode import parse_encode
from steerd.server.parse_feature_search import parse_text_search
from steerd.server.parse_study import StudyParser
from steerd.server.steered_studies import SteeredStudies
from steerd.server.study_cache import study_key
from steerd.server.studying import AskedStudy, Studying
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

StopContext = grpc.aio.ServicerContext[pb.StopStudyRequest, pb.StopStudyResponse]
EncodeContext = grpc.aio.ServicerContext[pb.EncodeRequest, pb.EncodeResponse]
LensContext = grpc.aio.ServicerContext[pb.LogitLensRequest, pb.LogitLensResponse]
TraceContext = grpc.aio.ServicerContext[pb.TraceRequest, pb.TraceResponse]
EffectsContext = grpc.aio.ServicerContext[pb.MeasureEffectsRequest, pb.MeasureEffectsResponse]
AnswersContext = grpc.aio.ServicerContext[pb.CompareAnswersRequest, pb.CompareAnswersResponse]
AttributeContext = grpc.aio.ServicerContext[pb.AttributeRequest, pb.AttributeResponse]
SpecialTokensContext = grpc.aio.ServicerContext[
    pb.FindSpecialTokenFeaturesRequest, pb.FindSpecialTokenFeaturesResponse
]
EvaluateContext = grpc.aio.ServicerContext[pb.EvaluateSteeringRequest, pb.EvaluateSteeringResponse]
ContrastContext = grpc.aio.ServicerContext[pb.ContrastFeaturesRequest, pb.ContrastFeaturesResponse]


PageContext = grpc.aio.ServicerContext[pb.GetFeatureRequest, pb.GetFeatureResponse]
LabelsContext = grpc.aio.ServicerContext[pb.GetLabelsRequest, pb.GetLabelsResponse]
WordsContext = grpc.aio.ServicerContext[pb.SearchFeaturesRequest, pb.SearchFeaturesResponse]
NearestContext = grpc.aio.ServicerContext[pb.NearestFeaturesRequest, pb.NearestFeaturesResponse]
TextSearchContext = grpc.aio.ServicerContext[pb.SearchByTextsRequest, pb.SearchByTextsResponse]


class FeatureService(FeatureServiceServicer):
    """Answers for one host and the SAEs that were loaded at the start."""

    def __init__(
        self,
        studying: Studying,
        host: HostModel,
        saes: LoadedSaes,
        config: Config,
        steered: SteeredStudies,
        dosed: DoseStudies,
    ) -> None:
        self._studying = studying
        self._steered = steered
        self._dosed = dosed
        self._host = host
        self._saes = saes
        self._config = config
        self._lookup = FeatureLookup(studying, host, saes, config)

    async def StopStudy(
        self,
        request: pb.StopStudyRequest,
        context: StopContext,  # noqa: ARG002
    ) -> pb.StopStudyResponse:
        self._studying.stop(request.request_id)
        return pb.StopStudyResponse()

    async def Encode(self, message: pb.EncodeRequest, context: EncodeContext) -> None:  # type: ignore[override]
        await self._studying.run(message, context, self._encode)

    def _encode(self, message: pb.EncodeRequest) -> AskedStudy[EncodeSummary]:
        violations = Violations()
        wish = parse_encode(message, self._parser(violations))
        violations.raise_if_any()
        return AskedStudy(
            study=Encoding(self._host, self._saes, wish, slice_tokens=self._slice_tokens),
            response=pb.EncodeResponse,
            result_message=encode.summary_message,
            part_messages=self._encoded,
        )

    async def CompareAnswers(  # type: ignore[override]
        self, message: pb.CompareAnswersRequest, context: AnswersContext
    ) -> None:
        await self._studying.run(message, context, self._steered.answers)

    async def ContrastFeatures(  # type: ignore[override]
        self, message: pb.ContrastFeaturesRequest, context: ContrastContext
    ) -> None:
        await self._studying.run(message, context, self._contrast)

    async def LogitLens(self, message: pb.LogitLensRequest, context: LensContext) -> None:  # type: ignore[override]
        await self._studying.run(message, context, self._steered.lens)

    async def Trace(self, message: pb.TraceRequest, context: TraceContext) -> None:  # type: ignore[override]
        await self._studying.run(message, context, self._steered.trace)

    async def MeasureEffects(  # type: ignore[override]
        self, message: pb.MeasureEffectsRequest, context: EffectsContext
    ) -> None:
        await self._studying.run(message, context, self._steered.effects)

    async def Attribute(self, message: pb.AttributeRequest, context: AttributeContext) -> None:  # type: ignore[override]
        await self._studying.run(message, context, self._attribute)

    def _attribute(self, message: pb.AttributeRequest) -> AskedStudy[Attribution]:
        wish = parse_attribution(message, self._parser(Violations()))
        saes = [self._saes.get(name) for name in wish.saes]
        return AskedStudy(
            study=Attributing(self._host, saes, wish, slice_tokens=self._slice_tokens),
            response=pb.AttributeResponse,
            result_message=attribution.attribution_message,
            key=self._key(wish),
        )

    def _contrast(self, message: pb.ContrastFeaturesRequest) -> AskedStudy[Contrast]:
        violations = Violations()
        wish = parse_contrast(message, self._parser(violations))
        violations.raise_if_any()
        return AskedStudy(
            study=Contrasting(self._host, self._saes, wish, slice_tokens=self._slice_tokens),
            response=pb.ContrastFeaturesResponse,
            result_message=contrast.contrast_message,
            key=self._key(wish),
        )

    async def EvaluateSteering(  # type: ignore[override]
        self, message: pb.EvaluateSteeringRequest, context: EvaluateContext
    ) -> None:
        await self._studying.run(message, context, self._dosed.evaluate)

    async def FindSpecialTokenFeatures(  # type: ignore[override]
        self, message: pb.FindSpecialTokenFeaturesRequest, context: SpecialTokensContext
    ) -> None:
        await self._studying.run(message, context, self._dosed.special_tokens)

    async def GetFeature(
        self,
        message: pb.GetFeatureRequest,
        context: PageContext,  # noqa: ARG002
    ) -> pb.GetFeatureResponse:
        return await self._lookup.page(message)

    async def GetLabels(
        self,
        message: pb.GetLabelsRequest,
        context: LabelsContext,  # noqa: ARG002
    ) -> pb.GetLabelsResponse:
        return self._lookup.labels(message)

    async def SearchFeatures(
        self,
        message: pb.SearchFeaturesRequest,
        context: WordsContext,  # noqa: ARG002
    ) -> pb.SearchFeaturesResponse:
        return await self._lookup.words(message)

    async def NearestFeatures(
        self,
        message: pb.NearestFeaturesRequest,
        context: NearestContext,  # noqa: ARG002
    ) -> pb.NearestFeaturesResponse:
        return await self._lookup.nearest(message)

    async def SearchByTexts(  # type: ignore[override]
        self, message: pb.SearchByTextsRequest, context: TextSearchContext
    ) -> None:
        await self._studying.run(message, context, self._text_search)

    def _text_search(self, message: pb.SearchByTextsRequest) -> AskedStudy[TextMatches]:
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
