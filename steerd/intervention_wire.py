"""Interventions to protobuf, as a client asks for them and as the server applies them, and back."""

from __future__ import annotations

from math import inf, isfinite
from typing import Any

from steerd.condition_wire import applied_condition_message, condition_message, condition_of
from steerd.pb.v1 import feature_pb2
from steerd.pb.v1 import steering_pb2 as pb
from steerd.steering.intervention import (
    Ablate,
    Add,
    Direction,
    FeatureRef,
    Intervention,
    Limit,
    Operation,
    Reconstruct,
    Scale,
    Set,
    Target,
    WholeSae,
)
from steerd.steering.scope import Phase, PositionRange, Schedule, Scope
from steerd.steering.steering import NamedVersion

_PHASES = {Phase.ALL: pb.PHASE_ALL, Phase.PROMPT: pb.PHASE_PROMPT, Phase.GENERATED: pb.PHASE_GENERATED}


def asked_message(intervention: Intervention, unit: pb.Unit.ValueType) -> pb.Intervention:
    """What a client sends: strengths, values and limits are in the unit."""
    return pb.Intervention(
        scope=_scope(intervention.scope),
        schedule=None if intervention.schedule == Schedule() else _schedule(intervention.schedule),
        when=None if intervention.condition is None else condition_message(intervention.condition, unit),
        preserve_norm=intervention.preserve_norm,
        source=intervention.source,
        **_target(intervention.target),
        **_operation(intervention.operation, unit),
    )


def applied_message(intervention: Intervention) -> pb.Intervention:
    """What the server answers: nothing left to a default, activation units, directions by their digests."""
    message = asked_message(intervention, pb.UNIT_ACTIVATION)
    if isinstance(intervention.target, Direction):
        message.direction.ClearField("values")
        message.direction.sha256 = intervention.target.sha256
    if intervention.condition is not None:
        message.when.CopyFrom(applied_condition_message(intervention.condition))
    return message


def named_message(named: NamedVersion) -> pb.NamedVersion:
    """The message that names a preset."""
    return pb.NamedVersion(name=named.name, version=named.version)


def feature_message(feature: FeatureRef) -> feature_pb2.FeatureRef:
    """The message that names a feature."""
    return feature_pb2.FeatureRef(sae=feature.sae, index=feature.index)


def _target(target: Target) -> dict[str, Any]:
    """The one target field that is set, whatever its type, hence Any."""
    match target:
        case FeatureRef():
            return {"feature": feature_message(target)}
        case Direction(hook_point, _, values):
            return {"direction": pb.Direction(hook_point=hook_point, values=values)}
        case WholeSae(sae):
            return {"sae": sae}


def _operation(operation: Operation, unit: pb.Unit.ValueType) -> dict[str, Any]:
    """The one operation field that is set; its message types have nothing in common, hence Any."""
    match operation:
        case Add(strength):
            return {"add": pb.Add(strength=strength, unit=unit)}
        case Set(value, only_if_active):
            return {"set": pb.Set(value=value, unit=unit, only_if_active=only_if_active)}
        case Scale(factor):
            return {"scale": pb.Scale(factor=factor)}
        case Ablate():
            return {"ablate": pb.Ablate()}
        case Limit(low, high):
            low_or_none, high_or_none = (bound if isfinite(bound) else None for bound in (low, high))
            return {"limit": pb.Limit(min=low_or_none, max=high_or_none, unit=unit)}
        case Reconstruct():
            return {"reconstruct": pb.Reconstruct()}


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


def intervention_of(message: pb.Intervention) -> Intervention:
    """What the server answers, as data; of a direction it tells only where it is and its digest."""
    return Intervention(
        target=_target_of(message),
        operation=_operation_of(message),
        scope=_scope_of(message.scope),
        schedule=Schedule(
            start_after=message.schedule.start_after,
            ramp=message.schedule.ramp,
            half_life=message.schedule.half_life,
            at_most=message.schedule.at_most,
        ),
        condition=condition_of(message.when) if message.HasField("when") else None,
        preserve_norm=message.preserve_norm,
        source=message.source,
    )


def _target_of(message: pb.Intervention) -> Target:
    match message.WhichOneof("target"):
        case "feature":
            return FeatureRef(message.feature.sae, message.feature.index)
        case "direction":
            direction = message.direction
            return Direction(direction.hook_point, direction.sha256, tuple(direction.values))
        case _:
            return WholeSae(message.sae)


def _operation_of(message: pb.Intervention) -> Operation:
    match message.WhichOneof("operation"):
        case "add":
            return Add(message.add.strength)
        case "set":
            return Set(message.set.value, message.set.only_if_active)
        case "scale":
            return Scale(message.scale.factor)
        case "limit":
            low = message.limit.min if message.limit.HasField("min") else -inf
            return Limit(low, message.limit.max if message.limit.HasField("max") else inf)
        case "reconstruct":
            return Reconstruct()
        case _:
            return Ablate()


def _scope_of(message: pb.Scope) -> Scope:
    phases = {wire: phase for phase, wire in _PHASES.items()}
    return Scope(
        phase=phases[message.phase],
        include_special_tokens=message.include_special_tokens,
        first_n=message.first_n,
        last_n=message.last_n,
        positions=tuple(
            PositionRange(each.start, each.end if each.HasField("end") else None)
            for each in message.positions
        ),
        token_ids=frozenset(message.token_ids),
        excluded_token_ids=frozenset(message.excluded_token_ids),
        roles=tuple(message.roles),
    )
