"""Interventions back to the wire, as they are applied: what Started repeats."""

from __future__ import annotations

from steerd.pb.v1 import feature_pb2
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.steering.intervention import Ablate, Add, Intervention, Scale, Set
from steerd.steering.scope import Phase

_PHASES = {
    Phase.ALL: pb.PHASE_ALL,
    Phase.PROMPT: pb.PHASE_PROMPT,
    Phase.GENERATED: pb.PHASE_GENERATED,
}


def intervention_to_wire(intervention: Intervention) -> pb.Intervention:
    """The intervention with nothing left to a default; strengths and values in activation units."""
    message = pb.Intervention(
        feature=feature_pb2.FeatureRef(sae=intervention.target.sae, index=intervention.target.index),
        scope=pb.Scope(
            phase=_PHASES[intervention.scope.phase],
            include_special_tokens=intervention.scope.include_special_tokens,
        ),
    )
    match intervention.operation:
        case Add(strength):
            message.add.CopyFrom(pb.Add(strength=strength, unit=pb.UNIT_ACTIVATION))
        case Set(value):
            message.set.CopyFrom(pb.Set(value=value, unit=pb.UNIT_ACTIVATION))
        case Scale(factor):
            message.scale.CopyFrom(pb.Scale(factor=factor))
        case Ablate():
            message.ablate.CopyFrom(pb.Ablate())
    return message
