"""CompareAnswers: the call to its message, and the server's answers to theirs and back."""

from __future__ import annotations

from dataclasses import dataclass

from steerd.client_messages import Unit
from steerd.engine.study import Progress
from steerd.intervention_wire import asked_message, feature_message, intervention_of
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1 import steering_pb2
from steerd.steering.intervention import FeatureRef, Intervention
from steerd.studies.answers.result import (
    AnswerComparison,
    AnswerFeature,
    AnswerScore,
    ControlEffect,
    Flip,
    FlipMember,
    LeftOut,
    Pushes,
)
from steerd.study_wire.label import label_message, label_of
from steerd.study_wire.steered_text import (
    SteeredStudyText,
    applied_steering,
    applied_steering_message,
    steered_fields,
)
from steerd.study_wire.study_text import StudyText, continuation_message, progress_of, text_messages

_SIDES: dict[Pushes, pb.AnswerSide.ValueType] = {
    "right": pb.ANSWER_SIDE_RIGHT,
    "wrong": pb.ANSWER_SIDE_WRONG,
    "both": pb.ANSWER_SIDE_BOTH,
    "neither": pb.ANSWER_SIDE_NEITHER,
}
_PUSHES = {side: pushes for pushes, side in _SIDES.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswersCall:
    """One CompareAnswers call. None stands for the server's default, no SAE for all of them.

    An answer is text, or token ids. `interventions`, those of `presets` too, hold in all that is measured;
    `unit` is that of every add, set and limit among them, and of every test.
    """

    text: StudyText
    right: str | tuple[int, ...]
    wrong: str | tuple[int, ...]
    saes: tuple[str, ...] = ()
    max_features: int | None = None
    additions: int | None = None
    dose: float | None = None
    max_moves: int | None = None
    min_effect: float | None = None
    controls: tuple[StudyText, ...] = ()
    interventions: tuple[Intervention, ...] = ()
    presets: tuple[str, ...] = ()
    unit: Unit = Unit.ACTIVATION
    request_id: str = ""
    max_seconds: float = 0.0


def answers_request(call: AnswersCall) -> pb.CompareAnswersRequest:
    """The message of a call."""
    steered = steered_fields(
        SteeredStudyText(
            text=call.text, interventions=call.interventions, presets=call.presets, unit=call.unit
        )
    )
    return pb.CompareAnswersRequest(
        request_id=call.request_id,
        max_seconds=call.max_seconds,
        text=steered["text"],
        interventions=steered["interventions"],
        presets=steered["presets"],
        right=continuation_message(call.right),
        wrong=continuation_message(call.wrong),
        saes=call.saes,
        max_features=call.max_features,
        additions=call.additions,
        dose=call.dose,
        max_moves=call.max_moves,
        min_effect=call.min_effect,
        controls=text_messages(call.controls),
    )


def answers_message(found: AnswerComparison) -> pb.CompareAnswersResult:
    """The message of a result."""
    return pb.CompareAnswersResult(
        complete=found.complete,
        token_texts=found.token_texts,
        right=_score_message(found.right),
        wrong=_score_message(found.wrong),
        features=map(_feature_message, found.features),
        flip=None if found.flip is None else _flip_message(found.flip),
        tried=found.tried,
        steering=applied_steering_message(found.steering),
        left_out=map(_left_out_message, found.left_out),
    )


def answers_event(message: pb.CompareAnswersResponse) -> Progress | AnswerComparison:
    """One message of the stream."""
    if message.HasField("progress"):
        return progress_of(message.progress)
    result = message.result
    return AnswerComparison(
        complete=result.complete,
        token_texts=tuple(result.token_texts),
        right=_score_of(result.right) if result.HasField("right") else None,
        wrong=_score_of(result.wrong) if result.HasField("wrong") else None,
        features=tuple(map(_feature_of, result.features)),
        flip=_flip_of(result.flip) if result.HasField("flip") else None,
        tried=result.tried,
        steering=applied_steering(result.steering),
        left_out=tuple(map(_left_out_of, result.left_out)),
    )


def _score_message(score: AnswerScore | None) -> pb.AnswerScore | None:
    if score is None:
        return None
    return pb.AnswerScore(logprob=score.logprob, logit=score.logit, num_tokens=score.num_tokens)


def _score_of(message: pb.AnswerScore) -> AnswerScore:
    return AnswerScore(message.logprob, message.logit, message.num_tokens)


def _left_out_message(left_out: LeftOut) -> pb.LeftOutSet:
    interventions = (asked_message(each, steering_pb2.UNIT_ACTIVATION) for each in left_out.interventions)
    return pb.LeftOutSet(interventions=interventions, reason=left_out.reason)


def _left_out_of(message: pb.LeftOutSet) -> LeftOut:
    return LeftOut(tuple(map(intervention_of, message.interventions)), message.reason)


def _feature_message(found: AnswerFeature) -> pb.AnswerFeature:
    return pb.AnswerFeature(
        feature=feature_message(found.feature),
        label=label_message(found.label),
        activation=found.activation,
        position=found.position,
        predicted_right=found.predicted_right,
        predicted_wrong=found.predicted_wrong,
        right=found.right,
        wrong=found.wrong,
        right_logprob=found.right_logprob,
        wrong_logprob=found.wrong_logprob,
        pushes=_SIDES[found.pushes],
    )


def _feature_of(message: pb.AnswerFeature) -> AnswerFeature:
    return AnswerFeature(
        feature=FeatureRef(message.feature.sae, message.feature.index),
        label=label_of(message.label) if message.HasField("label") else None,
        activation=message.activation,
        position=message.position,
        predicted_right=message.predicted_right,
        predicted_wrong=message.predicted_wrong,
        right=message.right,
        wrong=message.wrong,
        right_logprob=message.right_logprob,
        wrong_logprob=message.wrong_logprob,
        pushes=_PUSHES[message.pushes],
    )


def _flip_message(flip: Flip) -> pb.AnswerFlip:
    return pb.AnswerFlip(
        members=map(_member_message, flip.members),
        right=_score_message(flip.right),
        wrong=_score_message(flip.wrong),
        is_minimal=flip.is_minimal,
        controls=[
            pb.ControlEffect(
                tokens=effect.tokens, mean_kl=effect.mean_kl, max_kl=effect.max_kl, changed=effect.changed
            )
            for effect in flip.controls
        ],
    )


def _flip_of(message: pb.AnswerFlip) -> Flip:
    return Flip(
        members=tuple(map(_member_of, message.members)),
        right=_score_of(message.right),
        wrong=_score_of(message.wrong),
        is_minimal=message.is_minimal,
        controls=tuple(
            ControlEffect(effect.tokens, effect.mean_kl, effect.max_kl, effect.changed)
            for effect in message.controls
        ),
    )


def _member_message(member: FlipMember) -> pb.FlipMember:
    return pb.FlipMember(
        intervention=asked_message(member.intervention, steering_pb2.UNIT_ACTIVATION),
        label=label_message(member.label),
        lead_alone=member.lead_alone,
        lead_without=member.lead_without,
    )


def _member_of(message: pb.FlipMember) -> FlipMember:
    return FlipMember(
        intervention=intervention_of(message.intervention),
        label=label_of(message.label) if message.HasField("label") else None,
        lead_alone=message.lead_alone if message.HasField("lead_alone") else None,
        lead_without=message.lead_without if message.HasField("lead_without") else None,
    )
