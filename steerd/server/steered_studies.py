"""Studies that steer a text: each request to the study that answers it."""

from __future__ import annotations

from steerd.config import Config
from steerd.engine.steered_forward import SteeredForward
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.server.answer_rules import AnswerRules
from steerd.server.parse import RequestParser
from steerd.server.parse_answers import parse_answers
from steerd.server.parse_effects import parse_effects
from steerd.server.parse_lens import parse_lens
from steerd.server.parse_steered import SteeredMessage, SteeredParser
from steerd.server.parse_study import StudyParser
from steerd.server.parse_trace import parse_trace
from steerd.server.study_cache import study_key
from steerd.server.studying import AskedStudy
from steerd.server.violations import Violations
from steerd.studies.answers.result import AnswerComparison
from steerd.studies.answers.study import ComparingAnswers
from steerd.studies.effect_table import EffectTable
from steerd.studies.lens_table import LensTable
from steerd.studies.logit_lens import LogitLens
from steerd.studies.token_effects import TokenEffects
from steerd.studies.trace import Trace
from steerd.studies.trace_table import TraceTable
from steerd.study_wire.answers import answers_message
from steerd.study_wire.effects import effects_message
from steerd.study_wire.logit_lens import lens_message
from steerd.study_wire.trace import trace_message


class SteeredStudies:
    """Steering is parsed, and judged by policies, as that of requests; what is wrong is raised."""

    def __init__(self, forward: SteeredForward, requests: RequestParser, config: Config) -> None:
        self._forward = forward
        self._requests = requests
        self._host = requests.host
        self._saes = requests.saes
        self._config = config

    def lens(self, message: pb.LogitLensRequest) -> AskedStudy[LensTable]:
        """LogitLens."""
        wish = parse_lens(message, self._parser(message), self._requests.plan_hash)
        return AskedStudy(
            study=LogitLens(self._forward, self._host, wish),
            response=pb.LogitLensResponse,
            result_message=lens_message,
            key=self._key(wish),
        )

    def trace(self, message: pb.TraceRequest) -> AskedStudy[TraceTable]:
        """Trace."""
        wish = parse_trace(message, self._parser(message), self._requests.plan_hash)
        return AskedStudy(
            study=Trace(self._forward, self._host, self._saes, wish),
            response=pb.TraceResponse,
            result_message=trace_message,
            key=self._key(wish),
        )

    def effects(self, message: pb.MeasureEffectsRequest) -> AskedStudy[EffectTable]:
        """MeasureEffects."""
        wish = parse_effects(message, self._parser(message), self._requests.plan_hash)
        slice_tokens = self._config.engine.study_tokens
        return AskedStudy(
            study=TokenEffects(self._forward, self._host, self._saes, wish, slice_tokens=slice_tokens),
            response=pb.MeasureEffectsResponse,
            result_message=effects_message,
            key=self._key(wish),
        )

    def answers(self, message: pb.CompareAnswersRequest) -> AskedStudy[AnswerComparison]:
        """CompareAnswers; what policies demand and forbid holds in all that is tried."""
        parser = self._requests.steering
        study = StudyParser(self._host, self._saes, self._config, Violations())
        wish = parse_answers(message, study, parser, self._requests.plan_hash)
        refusal = AnswerRules(message, wish.prompt_ids, parser, wish.steering).refusal
        slice_tokens = self._config.engine.study_tokens
        return AskedStudy(
            study=ComparingAnswers(
                self._forward, self._host, self._saes, wish, refusal, slice_tokens=slice_tokens
            ),
            response=pb.CompareAnswersResponse,
            result_message=answers_message,
            key=self._key(wish),
        )

    def _parser(self, message: SteeredMessage) -> SteeredParser:
        study = StudyParser(self._host, self._saes, self._config, Violations())
        return SteeredParser(message, study, self._requests.steering)

    def _key(self, wish: object) -> str:
        return study_key(self._host, self._saes, wish)
