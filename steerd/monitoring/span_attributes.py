"""What a request's span says: under the names of OpenTelemetry's GenAI conventions and, for what those have
no word for, under `steerd.`

Ids, numbers and names that operators gave: no text of prompts or answers, hence no stop strings either.
"""

from __future__ import annotations

from collections.abc import Mapping

from steerd.engine.events import FailedEvent, FinishedEvent, LastEvent
from steerd.engine.request import GenerationRequest
from steerd.errors import SteerdError
from steerd.monitoring.request_tallies import RequestFeatures
from steerd.steering.intervention import Intervention, operation_name, target_name

Attributes = Mapping[str, str | int | float | bool | tuple[str, ...] | tuple[int, ...]]


def operation_of(request: GenerationRequest) -> str:
    """The conventions' word for what is asked; they have none for scoring."""
    if request.continuation:
        return "score"
    return "chat" if request.is_chat else "text_completion"


def asked(request: GenerationRequest, model: str) -> Attributes:
    """What the request is."""
    steering = request.steering
    return {
        "gen_ai.operation.name": operation_of(request),
        "gen_ai.provider.name": "steerd",
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
        "steerd.request_id": request.id,
        "steerd.plan_hash": request.plan_hash,
        "steerd.interventions": tuple(_edit(edit) for edit in steering.numbered),
        "steerd.presets": tuple(map(str, steering.presets)),
        "steerd.policies": tuple(map(str, steering.policies)),
        **({} if request.continuation else _sampling(request)),
    }


def became(request: GenerationRequest, event: LastEvent) -> Attributes:
    """How the request ended."""
    return _failed(event, request) if isinstance(event, FailedEvent) else _finished(event)


def felt(features: RequestFeatures) -> Attributes:
    """The watched features that went over their thresholds, by their aliases."""
    over = (
        feature.alias for feature, rows in zip(features.watch.features, features.over, strict=True) if rows
    )
    return {"steerd.features.over_threshold": tuple(over)}


def error_type(event: FailedEvent) -> str:
    """The reason that the client is told, one of few."""
    return event.error.reason if isinstance(event.error, SteerdError) else "INTERNAL"


def _sampling(request: GenerationRequest) -> Attributes:
    sampling = request.sampling
    return {
        "gen_ai.output.type": "text",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": sampling.max_new_tokens,
        "gen_ai.request.temperature": float(sampling.temperature),
        "gen_ai.request.top_p": float(sampling.top_p),
        "gen_ai.request.top_k": float(sampling.top_k),
        "gen_ai.request.seed": sampling.seed,
    }


def _finished(event: FinishedEvent) -> Attributes:
    timings, edits = event.timings, event.receipt.interventions
    attributes: dict[str, str | int | float | bool | tuple[str, ...] | tuple[int, ...]] = {
        "gen_ai.response.finish_reasons": (event.reason.value,),
        "gen_ai.usage.input_tokens": event.prompt_tokens,
        "gen_ai.usage.output_tokens": event.generated_tokens,
        "gen_ai.usage.cache_read.input_tokens": event.cached_prompt_tokens,
        "steerd.interventions.rows_changed": tuple(receipt.rows_changed for receipt in edits),
        "steerd.triggers.fired": tuple(fired.name for fired in event.receipt.fired),
        "steerd.triggers.times": tuple(fired.times for fired in event.receipt.fired),
    }
    if event.generated_tokens:
        attributes["gen_ai.response.time_to_first_chunk"] = timings.queue_seconds + timings.prefill_seconds
    if event.receipt.switched is not None:
        attributes["steerd.switched_to"] = event.receipt.switched.preset
    return attributes


def _failed(event: FailedEvent, request: GenerationRequest) -> Attributes:
    return {"error.type": error_type(event), "gen_ai.usage.input_tokens": len(request.prompt_ids)}


def _edit(edit: Intervention) -> str:
    """Such as `scale starter-14:7 (preset:calm@1)`."""
    source = f" ({edit.source})" if edit.source else ""
    return f"{operation_name(edit.operation)} {target_name(edit.target)}{source}"
