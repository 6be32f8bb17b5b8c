"""Curves through protobuf and back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from steerd.client_messages import Unit
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1.steering_pb2 import UNIT_RESID_NORM
from steerd.steering.intervention import FeatureRef
from steerd.studies.dose_curve import DoseCurve, DosePoint, NextTokenEffect, TextEffect
from steerd.study_wire.evaluate import EvaluateCall, curve_message, evaluate_event, evaluate_request

TEXT = TextEffect(0.125, 0.25, 0.375, 2.5, 0.0625)
NEXT = NextTokenEffect(0.5, 0.25, -0.125, 0.75, 0.0625, 0.5)
POINT = DosePoint(
    strength=2.0,
    feature_max=0.5,
    resid_norm=0.25,
    next_token=NEXT,
    text=TEXT,
    control=replace(TEXT, concept=0.5),
    control_next_token=replace(NEXT, kl=0.25),
    fluency=0.75,
    score=0.5,
    is_safe=True,
    sample="hello",
)


@pytest.mark.parametrize(
    "points",
    [
        (),
        (POINT, replace(POINT, strength=4.0, control=None, control_next_token=None, is_safe=False)),
    ],
)
def test_a_curve_arrives_as_it_was(points: tuple[DosePoint, ...]) -> None:
    curve = DoseCurve(
        complete=bool(points),
        feature=FeatureRef("late", 3),
        output_score=0.25,
        promoted=(" a", "b"),
        plain=TEXT,
        plain_sample="plain",
        points=points,
        controls=(FeatureRef("late", 9),),
    )

    message = curve_message(curve)

    assert evaluate_event(pb.EvaluateSteeringResponse(result=message)) == curve
    assert message.HasField("safe_up_to") == message.HasField("sweet_spot") == bool(points)
    assert (message.safe_up_to, message.sweet_spot) == (0, 0)


def test_the_message_of_a_call_leaves_defaults_to_the_server() -> None:
    message = evaluate_request(EvaluateCall(feature=FeatureRef("late", 3)))

    named = {field.name for field, _ in message.ListFields()}
    assert named == {"feature", "operation"}
    asked = evaluate_request(
        EvaluateCall(
            feature=FeatureRef("late", 3),
            strengths=(0.5, 1.0),
            unit=Unit.RESID_NORM,
            sets=True,
            special_token_ids=(257,),
            refinements=0,
        )
    )
    assert (asked.unit, asked.operation) == (UNIT_RESID_NORM, pb.DOSE_OPERATION_SET)
    assert asked.HasField("refinements")
    assert asked.scope.include_special_tokens
    assert list(asked.scope.token_ids) == [257]
