"""A small typed client of a server's studies: what features do, and why.

Calls are the dataclasses of `study_wire`, results those of `studies`. Every failure of a call is a
RemoteError. Quick to import: neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from steerd.client_channel import DEFAULT_ADDRESS, failures, open_channel
from steerd.engine.study import Progress
from steerd.intervention_wire import feature_message
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1 import feature_service_pb2_grpc
from steerd.sae.feature_label import FeatureLabel
from steerd.steering.intervention import FeatureRef
from steerd.studies.answers.result import AnswerComparison
from steerd.studies.attribution.result import Attribution
from steerd.studies.contrast_table import Contrast
from steerd.studies.dose_curve import DoseCurve
from steerd.studies.effect_table import EffectTable
from steerd.studies.encoded_tokens import EncodedTokens, EncodeSummary
from steerd.studies.feature_matches import FeatureMatches, TextMatches
from steerd.studies.feature_page import FeaturePage
from steerd.studies.lens_table import LensTable
from steerd.studies.output_table import OutputTable
from steerd.studies.special_token_table import SpecialTokenTable
from steerd.studies.trace_table import TraceTable
from steerd.study_wire import (
    answers,
    attribution,
    contrast,
    effects,
    encode,
    evaluate,
    feature_description,
    feature_search,
    logit_lens,
    outputs,
    special_tokens,
    trace,
)
from steerd.study_wire.label import label_of

Event = TypeVar("Event")


class FeatureClient:
    """A connection to one server. Use it as a context manager, from any number of threads.

    `timeout_seconds` bounds every call, a whole study included; None waits as long as the server allows.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, *, timeout_seconds: float | None = None) -> None:
        self.address = address
        self._timeout = timeout_seconds
        self._channel = open_channel(address)
        self._features = feature_service_pb2_grpc.FeatureServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every call that runs and hang up."""
        self._channel.close()

    def stop_study(self, request_id: str) -> None:
        """Have a study end with what it has done so far; raises RemoteError."""
        with failures(self.address):
            self._features.StopStudy(pb.StopStudyRequest(request_id=request_id), timeout=self._timeout)

    def encode(self, call: encode.EncodeCall) -> Iterator[Progress | EncodedTokens | EncodeSummary]:
        """What features do on texts, as it comes: tokens of texts in any order, last an EncodeSummary.

        Closing the iterator drops the study; raises RemoteError.
        """
        with failures(self.address):
            replies = self._features.Encode(encode.encode_request(call), timeout=self._timeout)
            yield from _events(replies, encode.encode_event)

    def contrast(
        self, call: contrast.ContrastCall, told: Callable[[Progress], None] | None = None
    ) -> Contrast:
        """The features that tell two sets of texts apart; `told` hears how far it is. Raises RemoteError."""
        with failures(self.address):
            replies = self._features.ContrastFeatures(contrast.contrast_request(call), timeout=self._timeout)
            result: Contrast = _result(_events(replies, contrast.contrast_event), told)
        return result

    def lens(self, call: logit_lens.LensCall, told: Callable[[Progress], None] | None = None) -> LensTable:
        """What the host would predict after each layer; `told` hears how far it is. Raises RemoteError."""
        with failures(self.address):
            replies = self._features.LogitLens(logit_lens.lens_request(call), timeout=self._timeout)
            result: LensTable = _result(_events(replies, logit_lens.lens_event), told)
        return result

    def trace(self, call: trace.TraceCall, told: Callable[[Progress], None] | None = None) -> TraceTable:
        """Which features are active at some tokens; `told` hears how far it is. Raises RemoteError."""
        with failures(self.address):
            replies = self._features.Trace(trace.trace_request(call), timeout=self._timeout)
            result: TraceTable = _result(_events(replies, trace.trace_event), told)
        return result

    def effects(
        self, call: effects.EffectsCall, told: Callable[[Progress], None] | None = None
    ) -> EffectTable:
        """What ablating features changes for each token; `told` hears how far it is. Raises RemoteError."""
        with failures(self.address):
            replies = self._features.MeasureEffects(effects.effects_request(call), timeout=self._timeout)
            result: EffectTable = _result(_events(replies, effects.effects_event), told)
        return result

    def answers(
        self, call: answers.AnswersCall, told: Callable[[Progress], None] | None = None
    ) -> AnswerComparison:
        """What pushes two answers, and what makes the right one win; `told` hears how far it is. Raises
        RemoteError."""
        with failures(self.address):
            replies = self._features.CompareAnswers(answers.answers_request(call), timeout=self._timeout)
            result: AnswerComparison = _result(_events(replies, answers.answers_event), told)
        return result

    def feature(
        self, feature: FeatureRef, *, output_tokens: int | None = None, neighbours: int | None = None
    ) -> FeaturePage:
        """All that the server knows of a feature; raises RemoteError."""
        request = feature_description.page_request(feature, output_tokens, neighbours)
        with failures(self.address):
            reply = self._features.GetFeature(request, timeout=self._timeout)
        return feature_description.page_of(reply)

    def labels(self, features: Sequence[FeatureRef]) -> Mapping[FeatureRef, FeatureLabel]:
        """What features are said to stand for, of those that have labels; raises RemoteError."""
        request = pb.GetLabelsRequest(features=map(feature_message, features))
        with failures(self.address):
            reply = self._features.GetLabels(request, timeout=self._timeout)
        labels = zip(features, map(label_of, reply.labels), strict=True)
        return {feature: label for feature, label in labels if label.text}

    def search(
        self, words: Sequence[str], *, saes: Sequence[str] = (), limit: int | None = None
    ) -> FeatureMatches:
        """The features that words ask for, in the SAEs named, or in all; raises RemoteError."""
        request = pb.SearchFeaturesRequest(words=words, saes=saes, limit=limit)
        with failures(self.address):
            reply = self._features.SearchFeatures(request, timeout=self._timeout)
        return feature_search.words_of(reply)

    def nearest(self, call: feature_search.NearestCall) -> FeatureMatches:
        """The features near another or near a direction; raises RemoteError."""
        with failures(self.address):
            reply = self._features.NearestFeatures(
                feature_search.nearest_request(call), timeout=self._timeout
            )
        return feature_search.nearest_of(reply)

    def search_by_texts(
        self, call: feature_search.TextSearchCall, told: Callable[[Progress], None] | None = None
    ) -> TextMatches:
        """The features that fire on some texts and not on others; `told` hears how far it is.

        Raises RemoteError.
        """
        request = feature_search.text_search_request(call)
        with failures(self.address):
            replies = self._features.SearchByTexts(request, timeout=self._timeout)
            result: TextMatches = _result(_events(replies, feature_search.text_search_event), told)
        return result

    def attribute(
        self, call: attribution.AttributeCall, told: Callable[[Progress], None] | None = None
    ) -> Attribution:
        """Which features move what the host answers; `told` hears how far it is. Raises RemoteError."""
        with failures(self.address):
            replies = self._features.Attribute(attribution.attribute_request(call), timeout=self._timeout)
            result: Attribution = _result(_events(replies, attribution.attribute_event), told)
        return result

    def evaluate(
        self, call: evaluate.EvaluateCall, told: Callable[[Progress], None] | None = None
    ) -> DoseCurve:
        """What steering by a feature does at each strength; `told` is as above. Raises RemoteError."""
        with failures(self.address):
            replies = self._features.EvaluateSteering(evaluate.evaluate_request(call), timeout=self._timeout)
            result: DoseCurve = _result(_events(replies, evaluate.evaluate_event), told)
        return result

    def special_tokens(
        self, call: special_tokens.SpecialTokensCall, told: Callable[[Progress], None] | None = None
    ) -> SpecialTokenTable:
        """The features that fire on special tokens; `told` is as above. Raises RemoteError."""
        request = special_tokens.special_tokens_request(call)
        with failures(self.address):
            replies = self._features.FindSpecialTokenFeatures(request, timeout=self._timeout)
            result: SpecialTokenTable = _result(_events(replies, special_tokens.special_tokens_event), told)
        return result

    def rank_outputs(
        self, call: outputs.OutputsCall, told: Callable[[Progress], None] | None = None
    ) -> OutputTable:
        """The features that say most when they are steered; `told` is as above. Raises RemoteError."""
        with failures(self.address):
            replies = self._features.RankOutputs(outputs.outputs_request(call), timeout=self._timeout)
            result: OutputTable = _result(_events(replies, outputs.outputs_event), told)
        return result


def _events(replies: Any, read: Callable[[Any], Event]) -> Iterator[Event]:
    """Each message of a study's stream as data; the study is dropped when nobody reads on."""
    try:
        yield from map(read, replies)
    finally:
        replies.cancel()


def _result(events: Iterable[Any], told: Callable[[Progress], None] | None) -> Any:
    """The result of a study whose stream is progress and a result; `told` hears of the progress."""
    result = None
    for result in events:
        if told is not None and isinstance(result, Progress):
            told(result)
    return result
