"""Calls to protobuf, and their answers back."""

from __future__ import annotations

from steerd.client_messages import (
    BaselineDelta,
    BaselineEnd,
    Completed,
    Delta,
    Event,
    FeatureUse,
    Firing,
    GenerateCall,
    Reading,
    ScoreCall,
    ScoredText,
    Scores,
    Started,
    Token,
    Unit,
)
from steerd.condition_wire import trigger_message
from steerd.intervention_wire import asked_message, feature_message, intervention_of
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2
from steerd.receipt_wire import receipt
from steerd.steering.intervention import FeatureRef
from steerd.steering.steering import NamedVersion

_UNITS = {
    Unit.ACTIVATION: steering_pb2.UNIT_ACTIVATION,
    Unit.FEATURE_MAX: steering_pb2.UNIT_FEATURE_MAX,
    Unit.RESID_NORM: steering_pb2.UNIT_RESID_NORM,
}


def request(call: GenerateCall) -> pb.GenerateRequest:
    """The message of a call; the server judges whether it makes sense."""
    message = pb.GenerateRequest(
        request_id=call.request_id,
        sampling=_sampling(call),
        interventions=_interventions(call),
        presets=call.presets,
        capture=_capture(call),
        baseline=call.baseline,
        triggers=[trigger_message(trigger, _UNITS[call.unit]) for trigger in call.triggers],
    )
    _set_input(message, call)
    return message


def score_request(call: ScoreCall) -> pb.ScoreRequest:
    """The message of a call; the server judges whether it makes sense."""
    message = pb.ScoreRequest(
        request_id=call.request_id,
        continuations=[_continuation(continuation) for continuation in call.continuations],
        interventions=_interventions(call),
        presets=call.presets,
        baseline=call.baseline,
        capture=_capture(call),
    )
    _set_input(message, call)
    return message


def _continuation(continuation: str | tuple[int, ...]) -> pb.Continuation:
    if isinstance(continuation, str):
        return pb.Continuation(text=continuation)
    return pb.Continuation(token_ids=pb.TokenIds(ids=continuation))


def _interventions(call: GenerateCall | ScoreCall) -> list[steering_pb2.Intervention]:
    return [asked_message(intervention, _UNITS[call.unit]) for intervention in call.interventions]


def _capture(call: GenerateCall | ScoreCall) -> pb.Capture:
    return pb.Capture(
        watch=[feature_message(feature) for feature in call.watch],
        top_k=call.top_features,
        top_k_saes=call.top_features_of,
        include_prompt=call.include_prompt,
        after_edit=call.after_edit,
    )


def _set_input(message: pb.GenerateRequest | pb.ScoreRequest, call: GenerateCall | ScoreCall) -> None:
    if call.prompt is not None:
        message.prompt = call.prompt
    if call.chat:
        message.chat.messages.extend(pb.ChatMessage(role=t.role, content=t.content) for t in call.chat)
    if call.token_ids:
        message.token_ids.ids.extend(call.token_ids)


def scores(message: pb.ScoreResponse) -> Scores:
    """The answer to a Score call."""
    return Scores(
        texts=tuple(map(_scored_text, message.scores)),
        warnings=tuple(message.warnings),
        plan_hash=message.plan_hash,
        presets=tuple(map(_named, message.presets)),
        policies=tuple(map(_named, message.policies)),
    )


def _scored_text(message: pb.ContinuationScore) -> ScoredText:
    return ScoredText(
        token_ids=tuple(message.token_ids),
        token_texts=tuple(message.token_texts),
        logprobs=tuple(message.logprobs),
        likeliest=tuple(message.likeliest),
        total_logprob=message.total_logprob,
        baseline_logprobs=tuple(message.baseline_logprobs),
        baseline_total_logprob=message.baseline_total_logprob,
        readings=tuple(map(_reading, message.readings)),
        receipt=receipt(message.receipt),
    )


def _reading(message: pb.TokenReading) -> Reading:
    return Reading(
        position=message.position,
        sae=message.sae,
        features=tuple(message.features),
        values=tuple(message.values),
        values_after=tuple(message.values_after),
    )


def _sampling(call: GenerateCall) -> pb.SamplingParams:
    return pb.SamplingParams(
        max_new_tokens=call.max_new_tokens,
        temperature=call.temperature,
        top_p=call.top_p,
        top_k=call.top_k,
        seed=call.seed,
        stop=call.stop,
    )


def event(message: pb.GenerateResponse) -> Event:
    """One message of the stream."""
    match message.WhichOneof("event"):
        case "started":
            return _started(message.started)
        case "delta":
            return _delta(message.delta)
        case _:
            return _completed(message.completed)


def _started(message: pb.Started) -> Started:
    return Started(
        request_id=message.request_id,
        model=message.model,
        prompt_tokens=message.prompt_tokens,
        queue_seconds=message.queue_seconds,
        seed=message.sampling.seed,
        prompt_token_texts=tuple(message.prompt_token_texts),
        warnings=tuple(message.warnings),
        plan_hash=message.plan_hash,
        presets=tuple(map(_named, message.presets)),
        policies=tuple(map(_named, message.policies)),
        interventions=tuple(map(intervention_of, message.interventions)),
    )


def _named(message: steering_pb2.NamedVersion) -> NamedVersion:
    return NamedVersion(message.name, message.version)


def _delta(message: pb.Delta) -> Delta:
    return Delta(
        text=message.text,
        tokens=_tokens(message),
        readings=tuple(map(_reading, message.readings)),
        fired=tuple(Firing(firing.trigger, firing.position) for firing in message.fired),
        baseline=_baseline_delta(message.baseline) if message.HasField("baseline") else None,
    )


def _baseline_delta(message: pb.BaselineDelta) -> BaselineDelta:
    return BaselineDelta(
        text=message.text,
        tokens=_tokens(message),
        divergences=tuple(zip(message.kl_positions, message.kl, strict=True)),
    )


def _tokens(message: pb.Delta | pb.BaselineDelta) -> tuple[Token, ...]:
    columns = zip(message.token_ids, message.positions, message.logprobs, message.token_texts, strict=True)
    return tuple(Token(*column) for column in columns)


def _completed(message: pb.Completed) -> Completed:
    return Completed(
        finish_reason=_finish_reason(message.finish_reason),
        prompt_tokens=message.usage.prompt_tokens,
        generated_tokens=message.usage.generated_tokens,
        queue_seconds=message.timings.queue_seconds,
        prefill_seconds=message.timings.prefill_seconds,
        decode_seconds=message.timings.decode_seconds,
        features=tuple(_feature_use(summary) for summary in message.features),
        receipt=receipt(message.receipt),
        baseline=_baseline_end(message.baseline) if message.HasField("baseline") else None,
        cached_prompt_tokens=message.usage.cached_prompt_tokens,
    )


def _baseline_end(message: pb.BaselineSummary) -> BaselineEnd:
    parted = message.HasField("first_diverging_position")
    return BaselineEnd(
        finish_reason=_finish_reason(message.finish_reason),
        prompt_tokens=message.usage.prompt_tokens,
        generated_tokens=message.usage.generated_tokens,
        first_diverging_position=message.first_diverging_position if parted else None,
        mean_kl=message.mean_kl,
    )


def _finish_reason(reason: pb.FinishReason.ValueType) -> str:
    return pb.FinishReason.Name(reason).removeprefix("FINISH_REASON_").lower()


def _feature_use(message: pb.FeatureSummary) -> FeatureUse:
    return FeatureUse(
        feature=FeatureRef(message.feature.sae, message.feature.index),
        max_activation=message.max_activation,
        mean_activation=message.mean_activation,
        active_tokens=message.active_tokens,
        steered_tokens=message.steered_tokens,
    )
