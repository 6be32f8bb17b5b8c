"""What EvaluateSteering asks of the engine, parsed as if its client had sent it: limits and policies hold."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import isclose

from steerd.engine.request import Capture, GenerationRequest
from steerd.engine.twins import baseline_of
from steerd.errors import FieldViolation, InvalidRequest
from steerd.pb.v1 import feature_service_pb2, steering_pb2
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.server.parse import RequestParser
from steerd.steering.intervention import Add, FeatureRef, Operation, Set
from steerd.studies.dose_curve import DoseBounds

_ROUNDING = 1e-6  # of float32, in which the wire holds strengths


@dataclass(frozen=True, slots=True)
class DoseWish:
    """What is to be evaluated; strengths are in activation units, rising and above 0.

    `feature_max` is the feature's recorded maximum, 0 if none is known; `resid_norm` activation units are as
    long as the hook point's median row. With each control feature comes what a strength is multiplied by for
    an equal length.
    """

    feature: FeatureRef
    feature_max: float
    resid_norm: float
    strengths: tuple[float, ...]
    sets: bool
    scope: steering_pb2.Scope
    prompts: tuple[feature_service_pb2.Text, ...]
    controls: tuple[feature_service_pb2.Text, ...]
    control_features: tuple[tuple[FeatureRef, float], ...]
    sampling: pb.SamplingParams
    refinements: int
    bounds: DoseBounds


@dataclass(frozen=True, slots=True)
class Push:
    """Steering by one feature at a strength; 0 leaves the host as it is."""

    feature: FeatureRef
    strength: float


class DoseRequests:
    """Makes the engine's requests of one evaluation. May be used from any thread."""

    def __init__(self, parser: RequestParser, wish: DoseWish) -> None:
        self._parser = parser
        self._wish = wish
        self._name = f"dose.{secrets.token_hex(8)}"  # a dot, so that no client's id can be the same
        self._numbers = count()

    def written(self, push: Push, text: feature_service_pb2.Text, seed: int) -> GenerationRequest:
        """One that goes on from a text; raises InvalidRequest or Forbidden for a strength that may not be."""
        message = pb.GenerateRequest(sampling=self._wish.sampling)
        message.sampling.seed = seed
        match text.WhichOneof("input"):
            case "prompt":
                message.prompt = text.prompt
            case "chat":
                message.chat.CopyFrom(text.chat)
            case _:
                message.token_ids.CopyFrom(text.token_ids)
        if push.strength:
            message.interventions.append(self._intervention(push))
        request = self._parser.parse(message, self._next_id())
        if push.strength:
            _check_strength(request.steering.interventions[0].operation, push)
        return request

    def read(self, written: GenerationRequest, answer: Sequence[int]) -> GenerationRequest:
        """One that reads an answer without steering."""
        return replace(
            baseline_of(written),
            id=self._next_id(),
            continuation=tuple(answer),
            capture=Capture(watch=(self._wish.feature,)),
        )

    def _next_id(self) -> str:
        return f"{self._name}.{next(self._numbers)}"

    def _intervention(self, push: Push) -> steering_pb2.Intervention:
        message = steering_pb2.Intervention(scope=self._wish.scope)
        message.feature.sae, message.feature.index = push.feature.sae, push.feature.index
        if self._wish.sets:
            message.set.value = push.strength
        else:
            message.add.strength = push.strength
        return message


def _check_strength(operation: Operation, push: Push) -> None:
    """What the server lowers would be told as what it is not."""
    assert isinstance(operation, Add | Set)  # as it was asked for
    applied = operation.strength if isinstance(operation, Add) else operation.value
    if not isclose(applied, push.strength, rel_tol=_ROUNDING):
        description = (
            f"must be within the server's dose limit; {push.strength:.7g} activation units are lowered to it"
        )
        raise InvalidRequest([FieldViolation("strengths", description)])
