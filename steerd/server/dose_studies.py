"""Studies of how strongly to steer, and of special tokens: each request to the study that answers it."""

from __future__ import annotations

from dataclasses import replace

from steerd.config import Config
from steerd.engine.steered_forward import SteeredForward
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.server.dosing import Dosing
from steerd.server.engine_texts import EngineTexts, TextEngine
from steerd.server.parse import RequestParser
from steerd.server.parse_evaluate import parse_evaluate
from steerd.server.parse_outputs import parse_outputs
from steerd.server.parse_special_tokens import parse_special_tokens
from steerd.server.parse_study import StudyParser
from steerd.server.study_cache import study_key
from steerd.server.studying import AskedStudy
from steerd.server.violations import Violations
from steerd.steering.steering import Steering
from steerd.studies.dose_curve import DoseCurve
from steerd.studies.output_ranking import OutputRanking
from steerd.studies.output_table import OutputTable
from steerd.studies.special_token_table import SpecialTokenTable
from steerd.studies.special_tokens import SpecialTokens
from steerd.study_wire.evaluate import curve_message
from steerd.study_wire.outputs import outputs_message
from steerd.study_wire.special_tokens import table_message

_SHARE_OF_PLACES = 2  # of the requests that run at once, one in so many may be a study's


class DoseStudies:
    """What is wrong with a request is raised, policies included."""

    def __init__(
        self, engine: TextEngine, forward: SteeredForward, requests: RequestParser, config: Config
    ) -> None:
        """`engine` writes and reads texts, `forward` runs them steered."""
        self._engine = engine
        self._forward = forward
        self._requests = requests
        self._config = config

    def evaluate(self, message: pb.EvaluateSteeringRequest) -> AskedStudy[DoseCurve]:
        """EvaluateSteering."""
        violations = Violations()
        wish = parse_evaluate(message, self._parser(violations))
        violations.raise_if_any()
        assert wish is not None  # otherwise a violation was recorded
        engine = self._config.engine
        return AskedStudy(
            study=Dosing(
                EngineTexts(
                    self._engine,
                    self._requests.saes,
                    at_once=max(engine.max_running_requests // _SHARE_OF_PLACES, 1),
                ),
                self._forward,
                self._requests,
                wish,
                slice_tokens=engine.study_tokens,
            ),
            response=pb.EvaluateSteeringResponse,
            result_message=curve_message,
            key=study_key(self._requests.host, self._requests.saes, _without_call(message)),
        )

    def special_tokens(self, message: pb.FindSpecialTokenFeaturesRequest) -> AskedStudy[SpecialTokenTable]:
        """FindSpecialTokenFeatures."""
        violations = Violations()
        wish = parse_special_tokens(message, self._parser(violations))
        violations.raise_if_any()
        host, saes, slice_tokens = self._requests.host, self._requests.saes, self._config.engine.study_tokens
        return AskedStudy(
            study=SpecialTokens(host, saes, wish, slice_tokens=slice_tokens),
            response=pb.FindSpecialTokenFeaturesResponse,
            result_message=self._table_message,
            key=study_key(host, saes, wish),
        )

    def outputs(self, message: pb.RankOutputsRequest) -> AskedStudy[OutputTable]:
        """RankOutputs; what policies demand holds in all that is tried."""
        violations = Violations()
        demanded = self._requests.steering.policies.govern(Steering(), (), (), violations)
        wish = parse_outputs(message, self._parser(violations), demanded)
        violations.raise_if_any()
        host, saes, slice_tokens = self._requests.host, self._requests.saes, self._config.engine.study_tokens
        return AskedStudy(
            study=OutputRanking(host, saes, self._forward, wish, slice_tokens=slice_tokens),
            response=pb.RankOutputsResponse,
            result_message=self._outputs_message,
            key=study_key(host, saes, wish),
        )

    def _outputs_message(self, table: OutputTable) -> pb.RankOutputsResult:
        decode = self._requests.host.tokenizer.batch_decode
        features = tuple(
            replace(each, promoted_texts=tuple(decode([[token] for token in each.promoted])))
            for each in table.features
        )
        return outputs_message(replace(table, features=features))

    def _table_message(self, table: SpecialTokenTable) -> pb.FindSpecialTokenFeaturesResult:
        decode = self._requests.host.tokenizer.decode
        tokens = tuple(replace(each, token_text=str(decode([each.token_id]))) for each in table.tokens)
        return table_message(replace(table, tokens=tokens))

    def _parser(self, violations: Violations) -> StudyParser:
        return StudyParser(self._requests.host, self._requests.saes, self._config, violations)


def _without_call(message: pb.EvaluateSteeringRequest) -> bytes:
    """What is asked for, whoever asks."""
    asked = pb.EvaluateSteeringRequest()
    asked.CopyFrom(message)
    asked.ClearField("request_id")
    asked.ClearField("max_seconds")
    return asked.SerializeToString(deterministic=True)
