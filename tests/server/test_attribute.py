"""Attribute through a whole server."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from steerd.client_messages import ChatTurn
from steerd.engine.study import Progress
from steerd.feature_client import FeatureClient
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1 import generation_service_pb2
from steerd.steering.intervention import FeatureRef
from steerd.studies.attribution.metric import AnswerLogprob, TokenLogit
from steerd.studies.attribution.result import Attribution, NodeKind, NodeRole
from steerd.studies.attribution.study import Attributing
from steerd.studies.attribution.wish import AttributionWish, Method
from steerd.study_wire.attribution import AttributeCall, attribute_event, attribution_message
from steerd.study_wire.study_text import StudyText
from tests.planted_host import FEATURES, PUSHES, make_planted_host, planted_saes
from tests.server.planted_server import planted_server
from tests.server.running_server import TIMEOUT_SECONDS, RunningServer

QUESTION = "x+AB*EFS?"
PLANTED = {ref: name for name, ref in FEATURES.items()}


@pytest.fixture(scope="module")
def planted() -> Iterator[RunningServer]:
    with planted_server() as running:
        yield running


def attributed(server: RunningServer, call: AttributeCall, told: list[Progress] | None = None) -> Attribution:
    with FeatureClient(server.address, timeout_seconds=TIMEOUT_SECONDS) as client:
        return client.attribute(call, None if told is None else told.append)


def movers(found: Attribution) -> dict[str, float]:
    """Planted features with an effect of their own."""
    return {
        PLANTED[FeatureRef(node.sae, node.feature)]: node.measured or 0.0
        for node in found.nodes
        if node.kind is NodeKind.FEATURE and abs(node.measured or 0.0) > 0.05
    }


def test_the_planted_features_are_found_and_connected(planted: RunningServer) -> None:
    told: list[Progress] = []
    call = AttributeCall(text=StudyText(prompt=QUESTION), target="Y", controls=3)

    found = attributed(planted, call, told)

    assert movers(found).keys() == PUSHES["Y"]
    assert found.complete
    assert found.metric == TokenLogit(ord("Y"))
    assert (found.model, found.num_layers) == ("planted", 3)
    assert found.token_texts == tuple(QUESTION)
    assert found.answer_texts == ("Y",)
    assert found.nodes[0].label is not None
    assert found.nodes[0].label.text.startswith("planted")
    assert any(edge.target == -1 for edge in found.edges)
    assert sum(node.role is NodeRole.RANDOM_INACTIVE for node in found.nodes) == 3
    assert all(progress.unit == "passes" for progress in told)
    assert attributed(planted, call) == found


def test_what_comes_over_the_wire_is_what_the_study_found(planted: RunningServer) -> None:
    host = make_planted_host()
    wish = AttributionWish(
        prompt_ids=tuple(QUESTION.encode()),
        metric=AnswerLogprob(tuple(b"Y."), tuple(b"Z")),
        saes=("late", "early"),
        method=Method.GRADIENT,
        max_nodes=6,
        controls=2,
        node_threshold=0.9,
        edge_threshold=0.9,
        include_special_tokens=True,
        seed=5,
    )
    saes = planted_saes(host)
    study = Attributing(host, [saes.get(name) for name in wish.saes], wish, slice_tokens=256)
    for _ in study.run():
        pass
    expected = study.result()

    call = AttributeCall(
        text=StudyText(prompt=QUESTION),
        target="Y.",
        against="Z",
        saes=("late", "early"),
        method=Method.GRADIENT,
        max_nodes=6,
        controls=2,
        node_threshold=0.9,
        edge_threshold=0.9,
        include_special_tokens=True,
        seed=5,
    )
    found = attributed(planted, call)

    assert attribute_event(pb.AttributeResponse(result=attribution_message(expected))) == expected
    assert found.metric == wish.metric
    assert [(n.kind, n.role, n.sae, n.feature, n.position) for n in found.nodes] == [
        (n.kind, n.role, n.sae, n.feature, n.position) for n in expected.nodes
    ]
    assert [n.attribution for n in found.nodes] == pytest.approx(
        [n.attribution for n in expected.nodes], abs=1e-4
    )


def test_a_chat_is_attributed_through_the_template(planted: RunningServer) -> None:
    call = AttributeCall(
        text=StudyText(chat=(ChatTurn("user", "AB?"),)),
        target="Y",
        check=False,
        graph=False,
        method=Method.DIRECT,
    )

    found = attributed(planted, call)

    text = "".join(found.token_texts)
    assert text.startswith("<|im_start|>user\nAB?<|im_end|>")
    assert text.endswith("<|im_start|>assistant\n")
    assert found.edges == ()
    assert found.check is None
    assert {node.position for node in found.nodes if node.attribution} <= {len(found.token_ids) - 1}


def test_what_is_stopped_at_once_has_no_value(planted: RunningServer) -> None:
    call = AttributeCall(text=StudyText(prompt=QUESTION), target="Y", seed=99, max_seconds=1e-9)

    found = attributed(planted, call)

    assert not found.complete
    assert math.isnan(found.value) or found.nodes


GOOD: dict[str, Any] = {
    "text": pb.Text(prompt="Hello"),
    "target": generation_service_pb2.Continuation(text="a"),
}


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"text": pb.Text()}, ["text.input"]),
        ({"text": pb.Text(prompt="H")}, ["text"]),
        ({"text": pb.Text(token_ids=generation_service_pb2.TokenIds(ids=[72, 257, 258]))}, ["text"]),
        ({"text": pb.Text(prompt="H" * 600)}, ["text.prompt"]),
        (
            {"text": pb.Text(prompt="H" * 511), "target": generation_service_pb2.Continuation(text="ab")},
            ["target"],
        ),
        ({"target": generation_service_pb2.Continuation()}, ["target.content"]),
        ({"target": generation_service_pb2.Continuation(text="")}, ["target.text"]),
        ({"target": generation_service_pb2.Continuation(text="a" * 600)}, ["target"]),
        ({"against": generation_service_pb2.Continuation(text="a")}, ["against"]),
        ({"saes": ["late", "late"]}, ["saes[1]"]),
        ({"method": 9}, ["method"]),
        ({"groups": 0}, ["groups"]),
        ({"groups": 65}, ["groups"]),
        ({"steps": 0}, ["steps"]),
        ({"max_nodes": 0}, ["max_nodes"]),
        ({"controls": 1001}, ["controls"]),
        ({"node_threshold": 0.0}, ["node_threshold"]),
        ({"edge_threshold": 1.5}, ["edge_threshold"]),
        ({"edge_threshold": float("nan")}, ["edge_threshold"]),
        ({"max_seconds": -1}, ["max_seconds"]),
    ],
)
def test_a_bad_request_names_its_fields(
    server: RunningServer, change: dict[str, Any], fields: list[str]
) -> None:
    request = pb.AttributeRequest(**(GOOD | change))

    with pytest.raises(grpc.RpcError) as raised:
        list(server.features.Attribute(request, timeout=TIMEOUT_SECONDS))

    status = rpc_status.from_call(raised.value)
    details = error_details_pb2.BadRequest()
    assert any(detail.Unpack(details) for detail in status.details)
    assert [violation.field for violation in details.field_violations] == fields


def test_an_unknown_sae_is_not_found(server: RunningServer) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        list(server.features.Attribute(pb.AttributeRequest(**GOOD, saes=["nobody"]), timeout=TIMEOUT_SECONDS))

    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
