"""CompareAnswers through a whole server: the planted flip, which Score confirms, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from steerd.client import Client
from steerd.client_messages import ChatTurn, ScoreCall
from steerd.config import NamedTable, SteeringConfig
from steerd.errors import InvalidRequest
from steerd.feature_client import FeatureClient
from steerd.host.int8_head import quantize_head
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1 import steering_pb2
from steerd.pb.v1.feature_pb2 import FeatureRef as WireRef
from steerd.pb.v1.generation_service_pb2 import Continuation, TokenIds
from steerd.server.parse_answers import parse_answers
from steerd.server.parse_study import StudyParser
from steerd.server.served import read_served
from steerd.server.violations import Violations
from steerd.steering.intervention import Add, Intervention, Set
from steerd.steering.scope import Scope
from steerd.study_wire.answers import AnswersCall
from steerd.study_wire.study_text import StudyText
from tests.planted_host import D_SAE, EARLY, FEATURES, LATE
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


def test_what_the_request_asks_for_holds_where_answers_are_scored(planted: RunningServer) -> None:
    """With F set to nothing by the request, E alone stands for Z: Score says so of the same steering."""
    own = Intervention(target=FEATURES["F"], operation=Set(0.0))
    common: dict[str, Any] = {"right": "YY", "wrong": "Z", "saes": (EARLY,), "additions": 0}
    call = AnswersCall(text=StudyText(prompt=QUESTION), interventions=(own,), **common)
    with FeatureClient(planted.address, timeout_seconds=TIMEOUT_SECONDS) as features:
        found = features.answers(call)

    assert found.flip is not None
    (member,) = found.flip.members
    assert member.intervention.target == FEATURES["E"]
    assert [edit.target for edit in found.steering.interventions] == [FEATURES["F"]]
    assert found.steering.receipt.interventions[0].rows > 0
    with Client(planted.address, timeout_seconds=TIMEOUT_SECONDS) as client:
        scores = [
            client.score(
                ScoreCall(prompt=QUESTION, continuations=("YY", "Z"), interventions=interventions)
            ).texts
            for interventions in ((own,), (own, member.intervention))
        ]
    before, after = ([text.total_logprob for text in texts] for texts in scores)
    assert before[0] < before[1]
    assert after[0] > before[0]
    assert found.right is not None
    assert found.wrong is not None
    assert [found.right.logprob, found.wrong.logprob] == pytest.approx(before, abs=1e-3)
    assert [found.flip.right.logprob, found.flip.wrong.logprob] == pytest.approx(after, abs=1e-3)


def policy_of(**table: Any) -> NamedTable:
    return NamedTable(name="p", version="1", table={"name": "p", "version": "1", **table})


def test_what_a_policy_does_not_allow_is_not_tried() -> None:
    """E may not be edited: nothing else flips the answer. All that is told instead is why."""
    forbidden = FEATURES["E"].index
    others = [f"{EARLY}:0-{forbidden - 1}", f"{EARLY}:{forbidden + 1}-{D_SAE - 1}"]
    policy = policy_of(allow={"features": others})
    call = AnswersCall(text=StudyText(prompt=QUESTION), right="Y", wrong="Z", saes=(EARLY,), additions=0)
    with (
        planted_server(policies=(policy,)) as server,
        FeatureClient(server.address, timeout_seconds=TIMEOUT_SECONDS) as features,
    ):
        found = features.answers(call)

    assert found.complete
    assert FEATURES["E"] not in {feature.feature for feature in found.features}
    assert FEATURES["F"] in {feature.feature for feature in found.features}
    assert [edit.target for each in found.left_out for edit in each.interventions] == [FEATURES["E"]]
    assert f"policy p@1 does not allow edits of feature {EARLY}:" in found.left_out[0].reason
    if found.flip is not None:
        assert FEATURES["E"] not in {member.intervention.target for member in found.flip.members}


def test_what_makes_a_policy_end_the_text_is_left_out() -> None:
    """With more of Q, C fires at the question, and on that a policy ends the text."""
    above = {"feature": {"sae": LATE, "index": FEATURES["C"].index}, "above": 0.5}
    trigger = {"name": "no-c", "stop": {}, "when": {"any_of": [{"all_of": [above]}]}}
    call = AnswersCall(
        text=StudyText(prompt="xB?"), right="Y", wrong=".", saes=(EARLY,), additions=8, dose=1.0
    )
    with (
        planted_server(policies=(policy_of(triggers=[trigger]),)) as server,
        FeatureClient(server.address, timeout_seconds=TIMEOUT_SECONDS) as features,
    ):
        found = features.answers(call)

    assert found.complete
    reasons = {edit.target: each.reason for each in found.left_out for edit in each.interventions}
    assert "trigger 'no-c' of policy p@1 ends this text" in reasons[FEATURES["Q"]]
    assert found.flip is not None
    assert FEATURES["Q"] not in {member.intervention.target for member in found.flip.members}


@pytest.mark.parametrize("over_dose", ["warn", "clamp", "reject"])
def test_no_more_is_added_than_the_dose_limit(over_dose: str) -> None:
    call = AnswersCall(text=StudyText(prompt="xB?"), right="Y", wrong=".", additions=8, dose=1.0)
    adding = []
    for max_dose in (1e6, 1e-6):
        steering = SteeringConfig(max_dose=max_dose, over_dose=over_dose)
        with (
            planted_server(steering=steering) as server,
            FeatureClient(server.address, timeout_seconds=TIMEOUT_SECONDS) as features,
        ):
            adding.append(features.answers(call))

    free, held = adding
    assert free.flip is not None
    assert isinstance(free.flip.members[0].intervention.operation, Add)
    assert free.left_out == ()
    assert held.flip is None
    assert held.left_out
    assert all(isinstance(each.interventions[0].operation, Add) for each in held.left_out)
    assert all("times the median residual norm" in each.reason for each in held.left_out)
    assert len(held.features) == len(free.features)


UNDONE = steering_pb2.Intervention(feature=WireRef(sae="late", index=1))

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
        ({"interventions": [UNDONE]}, ["interventions[0].operation"]),
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


@pytest.mark.parametrize("change", [{"saes": ["none"]}, {"presets": ["none"]}])
def test_an_unknown_name_is_not_found(server: RunningServer, change: dict[str, Any]) -> None:
    request = pb.CompareAnswersRequest(**(GOOD | change))

    with pytest.raises(grpc.RpcError) as caught:
        list(server.features.CompareAnswers(request, timeout=TIMEOUT_SECONDS))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_host_without_gradients_is_told() -> None:
    host, saes = tiny_parts()
    quantize_head(host.model)
    requests = read_served(tiny_config(), host, saes).requests
    study = StudyParser(host, saes, tiny_config(), Violations())

    with pytest.raises(InvalidRequest, match=r"^text: cannot be studied so: this host's 8-bit weights"):
        parse_answers(pb.CompareAnswersRequest(**GOOD), study, requests.steering, requests.plan_hash)


def test_a_study_that_is_stopped_tells_what_it_has(server: RunningServer) -> None:
    request = pb.CompareAnswersRequest(**GOOD, max_seconds=1e-6)
    *_, last = server.features.CompareAnswers(request, timeout=TIMEOUT_SECONDS)

    assert not last.result.complete
    assert list(last.result.token_texts) == list("Hello")


def test_interventions_for_roles_reach_the_controls_that_are_chats(planted: RunningServer) -> None:
    """Roles of the text's own messages, and of each control's; one that is no chat has none."""
    own = Intervention(target=FEATURES["F"], operation=Set(0.0), scope=Scope(roles=("user",)))
    turns = (ChatTurn("user", QUESTION),)
    call = AnswersCall(
        text=StudyText(chat=turns),
        right="Y",
        wrong="Z",
        saes=(EARLY,),
        additions=0,
        interventions=(own,),
        controls=(StudyText(chat=(ChatTurn("user", "xF?"),)), StudyText(prompt="xF?")),
    )
    with FeatureClient(planted.address, timeout_seconds=TIMEOUT_SECONDS) as features:
        found = features.answers(call)

    assert found.complete
    assert found.steering.receipt.interventions[0].rows == len(QUESTION)
