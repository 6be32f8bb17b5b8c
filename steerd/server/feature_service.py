"""FeatureService: what features do and why. Each RPC is parsed into a study, which `studying` runs."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1.feature_service_pb2_grpc import FeatureServiceServicer
from steerd.server.feature_answers import FeatureAnswers
from steerd.server.served import Served, Serving
from steerd.server.studying import Studying

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
OutputsContext = grpc.aio.ServicerContext[pb.RankOutputsRequest, pb.RankOutputsResponse]
EvaluateContext = grpc.aio.ServicerContext[pb.EvaluateSteeringRequest, pb.EvaluateSteeringResponse]
ContrastContext = grpc.aio.ServicerContext[pb.ContrastFeaturesRequest, pb.ContrastFeaturesResponse]


PageContext = grpc.aio.ServicerContext[pb.GetFeatureRequest, pb.GetFeatureResponse]
LabelsContext = grpc.aio.ServicerContext[pb.GetLabelsRequest, pb.GetLabelsResponse]
WordsContext = grpc.aio.ServicerContext[pb.SearchFeaturesRequest, pb.SearchFeaturesResponse]
NearestContext = grpc.aio.ServicerContext[pb.NearestFeaturesRequest, pb.NearestFeaturesResponse]
TextSearchContext = grpc.aio.ServicerContext[pb.SearchByTextsRequest, pb.SearchByTextsResponse]


class FeatureService(FeatureServiceServicer):
    """Answers for one host and the SAEs that are served when a call comes."""

    def __init__(
        self, studying: Studying, serving: Serving, answers: Callable[[Served], FeatureAnswers]
    ) -> None:
        """`answers` makes what answers for one set of SAEs."""
        self._studying = studying
        self._serving = serving
        self._make = answers
        self._made_for = serving.now
        self._made = answers(serving.now)

    @property
    def _now(self) -> FeatureAnswers:
        """To be looked at once a call."""
        if self._made_for is not self._serving.now:
            self._made_for = self._serving.now
            self._made = self._make(self._made_for)
        return self._made

    async def StopStudy(
        self,
        request: pb.StopStudyRequest,
        context: StopContext,  # noqa: ARG002
    ) -> pb.StopStudyResponse:
        self._studying.stop(request.request_id)
        return pb.StopStudyResponse()

    async def Encode(self, message: pb.EncodeRequest, context: EncodeContext) -> None:  # type: ignore[override]
        await self._studying.run(message, context, self._now.texts.encode)

    async def CompareAnswers(  # type: ignore[override]
        self, message: pb.CompareAnswersRequest, context: AnswersContext
    ) -> None:
        await self._studying.run(message, context, self._now.steered.answers)

    async def ContrastFeatures(  # type: ignore[override]
        self, message: pb.ContrastFeaturesRequest, context: ContrastContext
    ) -> None:
        await self._studying.run(message, context, self._now.texts.contrast)

    async def LogitLens(self, message: pb.LogitLensRequest, context: LensContext) -> None:  # type: ignore[override]
        await self._studying.run(message, context, self._now.steered.lens)

    async def Trace(self, message: pb.TraceRequest, context: TraceContext) -> None:  # type: ignore[override]
        await self._studying.run(message, context, self._now.steered.trace)

    async def MeasureEffects(  # type: ignore[override]
        self, message: pb.MeasureEffectsRequest, context: EffectsContext
    ) -> None:
        await self._studying.run(message, context, self._now.steered.effects)

    async def Attribute(self, message: pb.AttributeRequest, context: AttributeContext) -> None:  # type: ignore[override]
        await self._studying.run(message, context, self._now.texts.attribution)

    async def EvaluateSteering(  # type: ignore[override]
        self, message: pb.EvaluateSteeringRequest, context: EvaluateContext
    ) -> None:
        await self._studying.run(message, context, self._now.dosed.evaluate)

    async def FindSpecialTokenFeatures(  # type: ignore[override]
        self, message: pb.FindSpecialTokenFeaturesRequest, context: SpecialTokensContext
    ) -> None:
        await self._studying.run(message, context, self._now.dosed.special_tokens)

    async def RankOutputs(  # type: ignore[override]
        self, message: pb.RankOutputsRequest, context: OutputsContext
    ) -> None:
        await self._studying.run(message, context, self._now.dosed.outputs)

    async def GetFeature(
        self,
        message: pb.GetFeatureRequest,
        context: PageContext,  # noqa: ARG002
    ) -> pb.GetFeatureResponse:
        return await self._now.lookup.page(message)

    async def GetLabels(
        self,
        message: pb.GetLabelsRequest,
        context: LabelsContext,  # noqa: ARG002
    ) -> pb.GetLabelsResponse:
        return self._now.lookup.labels(message)

    async def SearchFeatures(
        self,
        message: pb.SearchFeaturesRequest,
        context: WordsContext,  # noqa: ARG002
    ) -> pb.SearchFeaturesResponse:
        return await self._now.lookup.words(message)

    async def NearestFeatures(
        self,
        message: pb.NearestFeaturesRequest,
        context: NearestContext,  # noqa: ARG002
    ) -> pb.NearestFeaturesResponse:
        return await self._now.lookup.nearest(message)

    async def SearchByTexts(  # type: ignore[override]
        self, message: pb.SearchByTextsRequest, context: TextSearchContext
    ) -> None:
        await self._studying.run(message, context, self._now.texts.search)
