"""A text that is steered while it is studied: what a client asks for, and what it is told was done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steerd.client_messages import Unit
from steerd.intervention_wire import applied_message, asked_message, intervention_of, named_message
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1 import steering_pb2
from steerd.receipt_wire import receipt, receipt_message
from steerd.steering.intervention import Intervention
from steerd.steering.steering import NamedVersion
from steerd.studies.applied_steering import AppliedSteering
from steerd.study_wire.study_text import StudyText, continuation_message, text_messages


@dataclass(frozen=True, kw_only=True, slots=True)
class SteeredStudyText:
    """A text, what follows it as if it had been generated, and what steers both.

    `unit` is that of every add, set and limit among the interventions, and of every test.
    """

    text: StudyText
    continuation: str | tuple[int, ...] | None = None
    interventions: tuple[Intervention, ...] = ()
    presets: tuple[str, ...] = ()  # name, or name@version
    unit: Unit = Unit.ACTIVATION


def steered_fields(steered: SteeredStudyText) -> dict[str, Any]:
    """The fields that all requests with a steered text have; of several types, hence Any."""
    (text,) = text_messages([steered.text])
    unit = steering_pb2.Unit.Value(f"UNIT_{steered.unit.name}")
    return {
        "text": text,
        "continuation": None if steered.continuation is None else continuation_message(steered.continuation),
        "interventions": [asked_message(intervention, unit) for intervention in steered.interventions],
        "presets": steered.presets,
    }


def applied_steering_message(steering: AppliedSteering) -> pb.AppliedSteering:
    """What steered the text."""
    return pb.AppliedSteering(
        interventions=[applied_message(intervention) for intervention in steering.interventions],
        presets=[named_message(preset) for preset in steering.presets],
        policies=[named_message(policy) for policy in steering.policies],
        warnings=steering.warnings,
        receipt=receipt_message(steering.receipt, steering.plan_hash),
    )


def applied_steering(message: pb.AppliedSteering) -> AppliedSteering:
    """What steered the text, as a message tells it."""
    return AppliedSteering(
        interventions=tuple(map(intervention_of, message.interventions)),
        presets=tuple(NamedVersion(each.name, each.version) for each in message.presets),
        policies=tuple(NamedVersion(each.name, each.version) for each in message.policies),
        warnings=tuple(message.warnings),
        plan_hash=message.receipt.plan_hash,
        receipt=receipt(message.receipt),
    )
