"""ContrastFeatures through a whole server."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
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
from steerd.studies.contrast_table import Contrast
from steerd.study_wire.contrast import ContrastCall
from steerd.study_wire.study_text import StudyText
from tests.planted_host import FEATURES
from tests.server.planted_server import planted_server
from tests.server.running_server import TIMEOUT_SECONDS, RunningServer


@pytest.fixture(scope="module")
def planted() -> Iterator[RunningServer]:
    with planted_server() as running:
        yield running


def chats(seed: int, words: Sequence[str]) -> tuple[StudyText, ...]:
    """Twenty chats of random letters, in each one of the words."""
    chance = random.Random(seed)
    said = ("".join(chance.choices("abcdefgh ", k=9)) + chance.choice(words) for _ in range(20))
    return tuple(StudyText(chat=(ChatTurn("user", text),)) for text in said)


def confirmed(contrast: Contrast, more_in: str) -> set[str]:
    names = {ref: name for name, ref in FEATURES.items()}
    found = (feature for feature in contrast.features if feature.confirmed and feature.more_in == more_in)
    return {names[feature.feature] for feature in found}


def test_the_planted_difference_of_chats_is_found(planted: RunningServer) -> None:
    told: list[Progress] = []
    call = ContrastCall(a=chats(1, ["EF?", "FE?"]), b=chats(2, ["A", "@"]))
    with FeatureClient(planted.address, timeout_seconds=TIMEOUT_SECONDS) as client:
        contrast = client.contrast(call, told.append)
        again = client.contrast(call)

    assert confirmed(contrast, "a") == {"E", "F", "Q", "D"}
    assert confirmed(contrast, "b") == {"A", "A late"}
    assert contrast.complete
    assert (contrast.a.discovery_texts, contrast.a.held_out_texts) == (10, 10)
    assert all(progress.unit == "texts" and progress.total == 40 for progress in told)
    assert again == contrast


GOOD: dict[str, Any] = {field: [pb.Text(prompt="Hi")] * 4 for field in "ab"}


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"a": []}, ["a"]),
        ({"b": [pb.Text(prompt="Hi")] * 3}, ["b"]),
        ({"a": [pb.Text(prompt="Hi")] * 3 + [pb.Text()]}, ["a[3].input"]),
        ({"a": [pb.Text(prompt="Hi")] * 4 + [pb.Text(prompt="H")]}, ["a[4]"]),
        (
            {"b": [*GOOD["b"], pb.Text(token_ids=generation_service_pb2.TokenIds(ids=[72, 257, 258]))]},
            ["b[4]"],
        ),
        ({"a": [pb.Text(prompt="a" * 500)] * 300, "b": [pb.Text(prompt="a" * 500)] * 300}, ["b"]),
        ({"false_discovery_rate": 0.0}, ["false_discovery_rate"]),
        ({"false_discovery_rate": 1.0}, ["false_discovery_rate"]),
        ({"false_discovery_rate": float("nan")}, ["false_discovery_rate"]),
        ({"top": 0}, ["top"]),
        ({"top": 1001}, ["top"]),
        ({"strength": 3}, ["strength"]),
        ({"saes": ["late", "late"]}, ["saes[1]"]),
        ({"max_seconds": -1}, ["max_seconds"]),
    ],
)
def test_a_bad_request_names_its_fields(
    server: RunningServer, change: dict[str, Any], fields: list[str]
) -> None:
    request = pb.ContrastFeaturesRequest(**(GOOD | change))

    with pytest.raises(grpc.RpcError) as caught:
        list(server.features.ContrastFeatures(request, timeout=TIMEOUT_SECONDS))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(caught.value)
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    assert [violation.field for violation in bad.field_violations] == fields


def test_with_special_tokens_every_token_counts(server: RunningServer) -> None:
    texts = [pb.Text(prompt="H")] * 4
    request = pb.ContrastFeaturesRequest(a=texts, b=texts, include_special_tokens=True)
    *_, last = server.features.ContrastFeatures(request, timeout=TIMEOUT_SECONDS)

    assert (last.result.a.tokens, last.result.found) == (4, 0)
    assert last.result.complete


def test_an_unknown_sae_is_not_found(server: RunningServer) -> None:
    request = pb.ContrastFeaturesRequest(**GOOD, saes=["none"])

    with pytest.raises(grpc.RpcError) as caught:
        list(server.features.ContrastFeatures(request, timeout=TIMEOUT_SECONDS))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
