"""CompareAnswers through a whole server: the planted flip, which Score confirms, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from steerd.client import Client
from steerd.client_messages import ScoreCall
from steerd.config import NamedTable
from steerd.errors import InvalidRequest
from steerd.feature_client import FeatureClient
from steerd.host.int8_head import quantize_head
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1.generation_service_pb2 import Continuation, TokenIds
from steerd.server.parse_answers import parse_answers
from steerd.server.parse_study import StudyParser
from steerd.server.violations import Violations
from steerd.steering.steering import Steering
from steerd.study_wire.answers import AnswersCall
from steerd.study_wire.study_text import StudyText
from tests.planted_host import EARLY, FEATURES
from tests.server.planted_server import planted_server
from tests.server.running_server import TIMEOUT_SECONDS, RunningServer, tiny_config, tiny_parts

QUESTION = "x+AB*EFS?"


@pytest.fixture(scope="module")
def planted() -> Iterator[RunningServer]:
    with planted_server() as running:
        yield running


def test_a_flip_holds_where_answers_are_scored(planted: RunningServer) -> None:
    call = AnswersCall(
        text=StudyText(prompt=QUESTION),
        right="Y",
        wrong=tuple(b"Z"),
        saes=(EARLY,),
        additions=0,
        controls=(StudyText(prompt="abcdef"),),
    )
    with FeatureClient(planted.address, timeout_seconds=TIMEOUT_SECONDS) as features:
        found, again = features.answers(call), features.answers(call)

    assert found.complete
    assert again == found
    assert found.flip is not None
    interventions = tuple(member.intervention for member in found.flip.members)
    assert {edit.target for edit in interventions} == {FEATURES["E"], FEATURES["F"]}
    score = ScoreCall(prompt=QUESTION, continuations=("Y", "Z"), interventions=interventions, baseline=True)
    with Client(planted.address, timeout_seconds=TIMEOUT_SECONDS) as client:
        right, wrong = client.score(score).texts
    assert right.total_logprob > wrong.total_logprob
    assert right.baseline_total_logprob < wrong.baseline_total_logprob
    steered = (found.flip.right.logprob, found.flip.wrong.logprob)
    assert steered == pytest.approx((right.total_logprob, wrong.total_logprob), abs=1e-3)
    assert found.right is not None
    assert found.right.logprob == pytest.approx(right.baseline_total_logprob, abs=1e-3)
    assert found.flip.controls[0].changed == 0.0


def test_what_a_policy_demands_holds_in_all_that_is_tried() -> None:
    """With F set to nothing for everybody, E alone stands for the wrong answer."""
    edit = {"feature": {"sae": EARLY, "index": FEATURES["F"].index}, "set": {"value": 0}}
    table = {"name": "no-f", "version": "1", "interventions": [edit]}
    policy = NamedTable(name="no-f", version="1", table=table)
    call = AnswersCall(text=StudyText(prompt=QUESTION), right="Y", wrong="Z", saes=(EARLY,), additions=0)
    with planted_server(policies=(policy,)) as server, FeatureClient(server.address) as features:
        found = features.answers(call)

    assert found.flip is not None
    assert [member.intervention.target for member in found.flip.members] == [FEATURES["E"]]


GOOD: dict[str, Any] = {
    "text": pb.Text(prompt="Hello"),
    "right": Continuation(text="a"),
    "wrong": Continuation(text="b"),
}


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"text": pb.Text()}, ["text.input"]),
        ({"right": Continuation()}, ["right.content"]),
        ({"wrong": Continuation(text="")}, ["wrong.text"]),
        ({"wrong": Continuation(text="a")}, ["wrong"]),
        ({"wrong": Continuation(token_ids=TokenIds(ids=[97]))}, ["wrong"]),
        ({"right": Continuation(token_ids=TokenIds(ids=[259]))}, ["right.token_ids.ids[0]"]),
        ({"right": Continuation(text="a" * 600)}, ["right"]),
        ({"max_features": 0}, ["max_features"]),
        ({"max_features": 1001}, ["max_features"]),
        ({"additions": 1001}, ["additions"]),
        ({"dose": 0.0}, ["dose"]),
        ({"dose": float("nan")}, ["dose"]),
        ({"dose": 10.5}, ["dose"]),
        ({"max_moves": 0}, ["max_moves"]),
        ({"max_moves": 33}, ["max_moves"]),
        ({"min_effect": -0.1}, ["min_effect"]),
        ({"controls": [pb.Text(prompt="")]}, ["controls[0].prompt"]),
        ({"saes": ["late", "late"]}, ["saes[1]"]),
        ({"max_seconds": 1e9}, ["max_seconds"]),
    ],
)
def test_a_bad_request_names_its_fields(
    server: RunningServer, change: dict[str, Any], fields: list[str]
) -> None:
    request = pb.CompareAnswersRequest(**(GOOD | change))

    with pytest.raises(grpc.RpcError) as caught:
        list(server.features.CompareAnswers(request, timeout=TIMEOUT_SECONDS))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(caught.value)
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    assert [violation.field for violation in bad.field_violations] == fields


def test_an_unknown_sae_is_not_found(server: RunningServer) -> None:
    request = pb.CompareAnswersRequest(**GOOD, saes=["none"])

    with pytest.raises(grpc.RpcError) as caught:
        list(server.features.CompareAnswers(request, timeout=TIMEOUT_SECONDS))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_host_without_gradients_is_told() -> None:
    host, saes = tiny_parts()
    quantize_head(host.model)
    violations = Violations()

    parse_answers(
        pb.CompareAnswersRequest(**GOOD), StudyParser(host, saes, tiny_config(), violations), Steering()
    )

    with pytest.raises(InvalidRequest, match=r"^text: cannot be studied so: this host's 8-bit weights"):
        violations.raise_if_any()


def test_a_study_that_is_stopped_tells_what_it_has(server: RunningServer) -> None:
    request = pb.CompareAnswersRequest(**GOOD, max_seconds=1e-6)
    *_, last = server.features.CompareAnswers(request, timeout=TIMEOUT_SECONDS)

    assert not last.result.complete
    assert list(last.result.token_texts) == list("Hello")
