"""The client's dataclasses to protobuf and back."""

from __future__ import annotations

import pytest

from steerd import client_wire
from steerd.client_messages import (
    ChatTurn,
    Completed,
    Delta,
    FeatureUse,
    GenerateCall,
    Reading,
    Started,
    Token,
    Unit,
)
from steerd.pb.v1 import feature_pb2
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.steering.intervention import Ablate, Add, FeatureRef, Intervention, Scale, Set
from steerd.steering.scope import Phase, Scope

FEATURE = FeatureRef("s", 7)
WIRE_FEATURE = feature_pb2.FeatureRef(sae="s", index=7)


def test_what_is_not_given_is_not_sent() -> None:
    message = client_wire.request(GenerateCall(prompt="Hi"))

    assert message == pb.GenerateRequest(prompt="Hi", sampling=pb.SamplingParams(), capture=pb.Capture())
    assert not message.sampling.HasField("seed")


def test_zero_is_sent_where_it_means_something() -> None:
    sampling = client_wire.request(GenerateCall(prompt="Hi", temperature=0.0, seed=0, top_k=0)).sampling

    assert sampling.HasField("temperature")
    assert sampling.HasField("seed")
    assert sampling.HasField("top_k")


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (GenerateCall(prompt=""), "prompt"),
        (GenerateCall(chat=(ChatTurn("user", "Hi"),)), "chat"),
        (GenerateCall(token_ids=(1, 2)), "token_ids"),
    ],
)
def test_each_form_of_input(call: GenerateCall, field: str) -> None:
    assert client_wire.request(call).WhichOneof("input") == field


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (Add(2.0), pb.Intervention(add=pb.Add(strength=2.0, unit=pb.UNIT_FEATURE_MAX))),
        (Set(2.0), pb.Intervention(set=pb.Set(value=2.0, unit=pb.UNIT_FEATURE_MAX))),
        (Scale(0.5), pb.Intervention(scale=pb.Scale(factor=0.5))),
        (Ablate(), pb.Intervention(ablate=pb.Ablate())),
    ],
)
def test_each_operation(operation: Add | Set | Scale | Ablate, expected: pb.Intervention) -> None:
    scope = Scope(phase=Phase.GENERATED, include_special_tokens=True)
    intervention = Intervention(target=FEATURE, operation=operation, scope=scope)

    message = client_wire.request(
        GenerateCall(prompt="Hi", interventions=(intervention,), unit=Unit.FEATURE_MAX, watch=(FEATURE,))
    )

    expected.feature.CopyFrom(WIRE_FEATURE)
    expected.scope.CopyFrom(pb.Scope(phase=pb.PHASE_GENERATED, include_special_tokens=True))
    assert list(message.interventions) == [expected]
    assert list(message.capture.watch) == [WIRE_FEATURE]


def test_events_are_read() -> None:
    started = pb.Started(
        request_id="r", model="m", prompt_tokens=3, queue_seconds=0.5, sampling=pb.SamplingParams(seed=9)
    )
    delta = pb.Delta(
        text="ab",
        token_ids=[4, 5],
        positions=[3, 4],
        logprobs=[-1.0, -0.5],
        token_texts=["a", "b"],
        readings=[pb.TokenReading(position=2, sae="s", features=[7], values=[1.5])],
    )
    completed = pb.Completed(
        finish_reason=pb.FINISH_REASON_STOP_SEQUENCE,
        usage=pb.Usage(prompt_tokens=3, generated_tokens=2),
        timings=pb.Timings(queue_seconds=0.5, prefill_seconds=0.25, decode_seconds=2.0),
        features=[
            pb.FeatureSummary(feature=WIRE_FEATURE, max_activation=1.5, mean_activation=0.5, active_tokens=1)
        ],
    )

    assert client_wire.event(pb.GenerateResponse(started=started)) == Started("r", "m", 3, 0.5, 9, ())
    assert client_wire.event(pb.GenerateResponse(delta=delta)) == Delta(
        "ab", (Token(4, 3, -1.0, "a"), Token(5, 4, -0.5, "b")), (Reading(2, "s", (7,), (1.5,)),)
    )
    assert client_wire.event(pb.GenerateResponse(completed=completed)) == Completed(
        "stop_sequence", 3, 2, 0.5, 0.25, 2.0, (FeatureUse(FEATURE, 1.5, 0.5, 1, 0),)
    )
