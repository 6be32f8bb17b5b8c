"""EvaluateSteering through a whole server, against the same work done by Generate and Score."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from steerd.client import Client
from steerd.client_channel import RemoteError
from steerd.client_messages import GenerateCall, ScoreCall, Unit
from steerd.config import NamedTable, SteeringConfig
from steerd.engine.study import Progress
from steerd.feature_client import FeatureClient
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1.feature_pb2 import FeatureRef as WireRef
from steerd.pb.v1.steering_pb2 import UNIT_FEATURE_MAX
from steerd.steering.intervention import Add, FeatureRef, Intervention, Operation, Set
from steerd.studies.dose_curve import DoseCurve, repetition
from steerd.study_wire.evaluate import EvaluateCall
from steerd.study_wire.study_text import StudyText
from tests.server.running_server import TIMEOUT_SECONDS, RunningServer, tiny_config, tiny_parts

FEATURE = FeatureRef("late", 5)  # of a recorded maximum of 1.5
PROMPTS = (StudyText(prompt="The sea"), StudyText(token_ids=(257, 72, 105)))
SMALL: dict[str, Any] = {
    "feature": FEATURE,
    "prompts": PROMPTS,
    "control_texts": (StudyText(prompt="abc"),),
    "max_new_tokens": 6,
    "refinements": 0,
}


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[FeatureClient]:
    with FeatureClient(server.address, timeout_seconds=TIMEOUT_SECONDS) as connected:
        yield connected


def answers_by_hand(
    server: RunningServer, operation: Operation | None
) -> list[tuple[list[int], list[float], list[float]]]:
    """Ids, log-probabilities and activations of the answers, by Generate and Score."""
    edits = () if operation is None else (Intervention(target=FEATURE, operation=operation),)
    found = []
    with Client(server.address, timeout_seconds=TIMEOUT_SECONDS) as client:
        for seed, text in enumerate(PROMPTS):
            given: dict[str, Any] = {"prompt": text.prompt, "token_ids": text.token_ids}
            call = GenerateCall(**given, max_new_tokens=6, temperature=0.7, seed=seed, interventions=edits)
            ids = tuple(token.id for token in client.generate(call).tokens)
            score = client.score(ScoreCall(**given, continuations=(ids,), watch=(FEATURE,))).texts[0]
            prompt_tokens = len(text.token_ids or text.prompt or "")
            values = [r.values[0] for r in score.readings if r.position >= prompt_tokens]
            found.append((list(ids), list(score.logprobs), values))
    return found


@pytest.mark.parametrize("sets", [False, True])
def test_answers_are_those_of_generate_and_are_read_as_score_reads_them(
    server: RunningServer, client: FeatureClient, sets: bool
) -> None:
    curve = client.evaluate(EvaluateCall(**SMALL, strengths=(4.0,), unit=Unit.ACTIVATION, sets=sets))

    (point,) = curve.points
    operation = Set(4.0) if sets else Add(4.0)
    for effect, by_hand in (
        (curve.plain, answers_by_hand(server, None)),
        (point.text, answers_by_hand(server, operation)),
    ):
        surprises, concepts, shares, repetitions, promoted = [], [], [], [], []
        for ids, logprobs, values in by_hand:
            kept = [place for place, token in enumerate(ids) if token < 256]
            surprises.append(-sum(logprobs[n] for n in kept) / len(kept))
            active = [values[n] for n in kept if n < len(values)]
            concepts.append(min(max(active) / 1.5, 1.0))
            shares.append(sum(value > 0 for value in active) / len(active))
            repetitions.append(repetition([ids[n] for n in kept]))
            promoted.append(sum(chr(ids[n]) in curve.promoted for n in kept if ids[n] < 128) / len(kept))
        assert effect.surprise == pytest.approx(sum(surprises) / 2, rel=1e-4)
        assert effect.concept == pytest.approx(sum(concepts) / 2, rel=1e-4)
        assert effect.active_share == pytest.approx(sum(shares) / 2)
        assert effect.repetition == pytest.approx(sum(repetitions) / 2)
        assert effect.promoted_share >= sum(promoted) / 2 - 1e-9
    assert point.feature_max == pytest.approx(4 / 1.5)
    assert curve.complete
    assert len(curve.promoted) == 20


def test_refinements_come_nearer_to_the_edge_of_the_safe_range(client: FeatureClient) -> None:
    told: list[Progress] = []
    strict = SMALL | {"refinements": 2, "max_side_kl": 0.01, "max_surprise_gain": 100.0}

    curve = client.evaluate(EvaluateCall(**strict, strengths=(0.25, 8), unit=Unit.FEATURE_MAX), told.append)

    assert curve.points[0].feature_max == pytest.approx(0.25)
    assert len(curve.points) == 4
    safe = [point.is_safe for point in curve.points]
    assert safe == sorted(safe, reverse=True)
    assert safe[0]
    assert not safe[-1]
    assert curve.points[1].strength - curve.points[0].strength < 7.75 * 1.5 / 1.9
    assert all(point.control is not None for point in curve.points)
    assert all(point.is_safe == (point.next_token.side_kl <= 0.01) for point in curve.points)
    assert told[-1].total == 5


def test_a_stopped_evaluation_tells_the_strengths_that_are_done(client: FeatureClient) -> None:
    def stop(progress: Progress) -> None:
        if progress.done >= 2:
            client.stop_study("mine")

    call = EvaluateCall(**SMALL, strengths=tuple(range(1, 17)), request_id="mine")

    curve = client.evaluate(call, stop)

    assert not curve.complete
    assert 1 <= len(curve.points) < 16


def test_the_same_question_is_answered_from_memory(client: FeatureClient) -> None:
    first, second = (
        client.evaluate(EvaluateCall(**SMALL, strengths=(0.5,), request_id=name)) for name in ("one", "two")
    )

    assert first == second


def test_the_controls_are_other_features_of_like_density(client: FeatureClient) -> None:
    curve = client.evaluate(EvaluateCall(**SMALL, strengths=(0.5,), control_features=2))

    assert len(curve.controls) == 2
    assert FEATURE not in curve.controls
    assert {ref.sae for ref in curve.controls} == {"late"}
    assert all(abs(ref.index - FEATURE.index) < 10 for ref in curve.controls), "density falls with the number"


GOOD: dict[str, Any] = {"feature": WireRef(sae="late", index=5)}


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"strengths": [1.0, 0.0]}, ["strengths[1]"]),
        ({"strengths": [float("nan")]}, ["strengths[0]"]),
        ({"strengths": [1e9]}, ["strengths[0]"]),
        ({"strengths": [1.0] * 17}, ["strengths"]),
        ({"unit": 77}, ["unit"]),
        ({"operation": 7}, ["operation"]),
        ({"feature": WireRef(sae="late", index=1), "unit": UNIT_FEATURE_MAX}, ["unit"]),
        ({"max_new_tokens": 0}, ["max_new_tokens"]),
        ({"temperature": 101.0}, ["temperature"]),
        ({"control_features": 5}, ["control_features"]),
        ({"refinements": 7}, ["refinements"]),
        ({"max_surprise_gain": -1.0}, ["max_surprise_gain"]),
        ({"max_repetition_gain": 2.0}, ["max_repetition_gain"]),
        ({"prompts": [pb.Text(prompt="")]}, ["prompts[0].prompt"]),
        ({"prompts": [pb.Text(prompt="a")] * 65}, ["prompts"]),
        ({"control_texts": [pb.Text()]}, ["control_texts[0].input"]),
        ({"scope": {"roles": ["user"]}}, ["scope.roles"]),
        ({"max_seconds": -1.0, "refinements": 9}, ["max_seconds", "refinements"]),
    ],
)
def test_a_bad_request_names_its_fields(
    server: RunningServer, change: dict[str, Any], fields: list[str]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(server.features.EvaluateSteering(pb.EvaluateSteeringRequest(**(GOOD | change))))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in rpc_status.from_call(caught.value).details)
    assert [violation.field for violation in bad.field_violations] == fields


def test_what_the_operator_forbids_is_refused_before_anything_runs() -> None:
    policy = NamedTable(
        name="mild",
        version="1",
        table={"name": "mild", "version": "1", "allow": {"features": ["early:*"], "presets": ["*"]}},
    )
    config = tiny_config(steering=SteeringConfig(max_dose=0.05, over_dose="clamp"), policies=(policy,))
    with RunningServer(config, *tiny_parts()) as strict, FeatureClient(strict.address) as client:
        with pytest.raises(RemoteError) as denied:
            client.evaluate(EvaluateCall(**SMALL))
        with pytest.raises(RemoteError, match="dose limit") as too_much:
            client.evaluate(
                EvaluateCall(**(SMALL | {"feature": FeatureRef("early", 5), "strengths": (4.0,)}))
            )
        weak: DoseCurve = client.evaluate(
            EvaluateCall(**(SMALL | {"feature": FeatureRef("early", 5), "strengths": (0.01,)}))
        )

    assert denied.value.code == "PERMISSION_DENIED"
    assert too_much.value.code == "INVALID_ARGUMENT"
    assert len(weak.points) == 1
