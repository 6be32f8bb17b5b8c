"""Conditions and triggers to protobuf, as a client asks for them and as the server applies them, and back."""

from __future__ import annotations

from math import inf

from steerd.pb.v1 import feature_pb2
from steerd.pb.v1 import steering_pb2 as pb
from steerd.steering.intervention import Condition, Direction, FeatureRef, FeatureTest
from steerd.steering.trigger import Flag, Stop, Switch, Trigger


def condition_message(condition: Condition, unit: pb.Unit.ValueType) -> pb.Condition:
    """What a client sends: bounds are in the unit."""
    return pb.Condition(
        any_of=[pb.Clause(all_of=[_test(test, unit) for test in clause]) for clause in condition.any_of]
    )


def trigger_message(trigger: Trigger, unit: pb.Unit.ValueType) -> pb.Trigger:
    """What a client sends: bounds are in the unit."""
    message = pb.Trigger(name=trigger.name, when=condition_message(trigger.condition, unit))
    match trigger.action:
        case Stop():
            message.stop.SetInParent()
        case Flag():
            message.flag.SetInParent()
        case Switch(preset):
            message.switch.preset = preset
    return message


def applied_condition_message(condition: Condition) -> pb.Condition:
    """What the server answers: activation units, directions by their digests."""
    message = condition_message(condition, pb.UNIT_ACTIVATION)
    tests = [test for clause in message.any_of for test in clause.all_of]
    for test_message, test in zip(tests, condition.tests, strict=True):
        if isinstance(test.target, Direction):
            test_message.direction.ClearField("values")
            test_message.direction.sha256 = test.target.sha256
    return message


def applied_trigger_message(trigger: Trigger) -> pb.Trigger:
    """As applied_condition_message."""
    message = trigger_message(trigger, pb.UNIT_ACTIVATION)
    message.source = trigger.source
    message.when.CopyFrom(applied_condition_message(trigger.condition))
    return message


def condition_of(message: pb.Condition) -> Condition:
    """What the server answers, as data."""
    return Condition(tuple(tuple(map(_test_of, clause.all_of)) for clause in message.any_of))


def _test(test: FeatureTest, unit: pb.Unit.ValueType) -> pb.FeatureTest:
    between = -inf < test.release_below < test.above
    message = pb.FeatureTest(
        above=test.above,
        unit=unit,
        release_below=test.release_below if between else None,
        from_first=test.release_below == -inf,
        include_special_tokens=test.include_special_tokens,
    )
    match test.target:
        case FeatureRef(sae, index):
            message.feature.CopyFrom(feature_pb2.FeatureRef(sae=sae, index=index))
        case Direction(hook_point, _, values):
            message.direction.CopyFrom(pb.Direction(hook_point=hook_point, values=values))
    return message


def _test_of(message: pb.FeatureTest) -> FeatureTest:
    release = message.release_below if message.HasField("release_below") else message.above
    return FeatureTest(
        target=_target_of(message),
        above=message.above,
        release_below=-inf if message.from_first else release,
        include_special_tokens=message.include_special_tokens,
    )


def _target_of(message: pb.FeatureTest) -> FeatureRef | Direction:
    if message.HasField("feature"):
        return FeatureRef(message.feature.sae, message.feature.index)
    direction = message.direction
    return Direction(direction.hook_point, direction.sha256, tuple(direction.values))
