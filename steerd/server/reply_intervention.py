"""Interventions back to the wire, as they are applied: what Started repeats."""

from __future__ import annotations

from math import inf

from steerd.pb.v1 import feature_pb2
from steerd.pb.v1 import steering_pb2 as pb
from steerd.steering.intervention import (
    Ablate,
    Add,
    Direction,
    FeatureRef,
    Intervention,
    Limit,
    Reconstruct,
    Scale,
    Set,
    WholeSae,
)
from steerd.steering.scope import Phase, Schedule, Scope

_PHASES = {
    Phase.ALL: pb.PHASE_ALL,
    Phase.PROMPT: pb.PHASE_PROMPT,
    Phase.GENERATED: pb.PHASE_GENERATED,
}


def intervention_to_wire(intervention: Intervention) -> pb.Intervention:
    """The intervention with nothing left to a default; strengths and values in activation units."""
    message = pb.Intervention(scope=_scope(intervention.scope), preserve_norm=intervention.preserve_norm)
    if intervention.schedule != Schedule():
        message.schedule.CopyFrom(_schedule(intervention.schedule))
    match intervention.target:
        case FeatureRef(sae, index):
            message.feature.CopyFrom(feature_pb2.FeatureRef(sae=sae, index=index))
        case Direction(hook_point, sha256):
            message.direction.CopyFrom(pb.Direction(hook_point=hook_point, sha256=sha256))
        case WholeSae(sae):
            message.sae = sae
    _set_operation(message, intervention)
    return message


def _set_operation(message: pb.Intervention, intervention: Intervention) -> None:
    match intervention.operation:
        case Add(strength):
            message.add.CopyFrom(pb.Add(strength=strength, unit=pb.UNIT_ACTIVATION))
        case Set(value, only_if_active):
            unit = pb.UNIT_ACTIVATION
            message.set.CopyFrom(pb.Set(value=value, unit=unit, only_if_active=only_if_active))
        case Scale(factor):
            message.scale.CopyFrom(pb.Scale(factor=factor))
        case Ablate():
            message.ablate.CopyFrom(pb.Ablate())
        case Limit(low, high):
            message.limit.CopyFrom(_limit(low, high))
        case Reconstruct():
            message.reconstruct.CopyFrom(pb.Reconstruct())


def _limit(low: float, high: float) -> pb.Limit:
    return pb.Limit(
        min=low if low > -inf else None, max=high if high < inf else None, unit=pb.UNIT_ACTIVATION
    )


def _scope(scope: Scope) -> pb.Scope:
    return pb.Scope(
        phase=_PHASES[scope.phase],
        include_special_tokens=scope.include_special_tokens,
        first_n=scope.first_n,
        last_n=scope.last_n,
        positions=[pb.PositionRange(start=r.start, end=r.end) for r in scope.positions],
        token_ids=sorted(scope.token_ids),
        excluded_token_ids=sorted(scope.excluded_token_ids),
        roles=scope.roles,
    )


def _schedule(schedule: Schedule) -> pb.Schedule:
    return pb.Schedule(
        start_after=schedule.start_after,
        ramp=schedule.ramp,
        half_life=schedule.half_life,
        at_most=schedule.at_most,
    )
