"""Encode through a whole server: the same numbers as Generate's capture, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from steerd.client_messages import ChatTurn
from steerd.config import Config, MonitoringConfig, ServerConfig
from steerd.engine.study import Progress
from steerd.feature_client import FeatureClient
from steerd.host.default_host import DEFAULT_HOST_ALIAS
from steerd.host.host_model import HostModel
from steerd.loading import load_saes
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1 import generation_service_pb2
from steerd.pb.v1.feature_pb2 import FeatureRef as WireRef
from steerd.steering.intervention import FeatureRef
from steerd.studies.encoded_tokens import EncodedTokens, EncodeSummary
from steerd.study_wire.encode import EncodeCall
from steerd.study_wire.study_text import StudyText
from tests.server.running_server import TIMEOUT_SECONDS, RunningServer

TOLERANCE = 1e-5  # padded batches here, packed steps there
REAL_TOLERANCE = 1e-3

CHAT = (ChatTurn("system", "Be brief."), ChatTurn("user", "Tell me of the sea."))
TEXTS = (
    StudyText(prompt="The sea is calm."),
    StudyText(chat=CHAT),
    StudyText(token_ids=(257, 72, 105, 258)),
)
WATCH = (FeatureRef("late", 5), FeatureRef("early", 2))


Readings = dict[tuple[int, str], dict[int, float]]
"""Activations by position and SAE, then by feature in the order of the answer."""


def captured(server: RunningServer, text: StudyText, watch: Sequence[FeatureRef] = WATCH) -> Readings:
    """What Generate reads on a prompt."""
    message = generation_service_pb2.GenerateRequest(
        sampling=generation_service_pb2.SamplingParams(max_new_tokens=1),
        capture=generation_service_pb2.Capture(
            watch=[WireRef(sae=ref.sae, index=ref.index) for ref in watch], top_k=6, include_prompt=True
        ),
    )
    if text.prompt:
        message.prompt = text.prompt
    elif text.chat:
        for turn in text.chat:
            message.chat.messages.add(role=turn.role, content=turn.content)
    else:
        message.token_ids.ids.extend(text.token_ids)
    return {
        (reading.position, reading.sae): dict(zip(reading.features, reading.values, strict=True))
        for reading in server.generate(message).readings
    }


def readings_of(part: EncodedTokens) -> Readings:
    return {
        (part.first_position + place, codes.sae): dict(zip(features.tolist(), values, strict=True))
        for codes in part.codes
        for place, (features, values) in enumerate(codes.by_token())
    }


def encoded(server: RunningServer, call: EncodeCall) -> tuple[dict[int, EncodedTokens], EncodeSummary]:
    with FeatureClient(server.address, timeout_seconds=TIMEOUT_SECONDS) as client:
        *events, summary = client.encode(call)
    assert isinstance(summary, EncodeSummary)
    assert all(isinstance(event, Progress | EncodedTokens) for event in events)
    return {event.text: event for event in events if isinstance(event, EncodedTokens)}, summary


def test_the_numbers_are_those_of_generates_capture(server: RunningServer) -> None:
    parts, summary = encoded(server, EncodeCall(texts=TEXTS, watch=WATCH, top_features=6))

    for number, text in enumerate(TEXTS):
        expected, found = captured(server, text), readings_of(parts[number])
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            assert list(found[key]) == list(values)
            np.testing.assert_allclose(
                list(found[key].values()), list(values.values()), rtol=TOLERANCE, atol=TOLERANCE
            )
    tokens = sum(len(part.token_ids) for part in parts.values())
    assert summary == EncodeSummary(complete=True, texts=3, tokens=tokens)
    chat = "".join(parts[1].token_texts)
    assert chat.startswith("<|im_start|>system\nBe brief.<|im_end|>")
    assert chat.endswith("<|im_start|>assistant\n")


@pytest.mark.real_host
def test_the_numbers_on_the_default_host_are_those_of_generates_capture() -> None:
    """Activations there go up to hundreds; of two that are nearly equal either may come first."""
    host, watch = HostModel.load(DEFAULT_HOST_ALIAS), (FeatureRef("starter-14", 222),)
    config = Config(
        server=ServerConfig(port=0), monitoring=MonitoringConfig(port=0, sample_every=0, request_log="off")
    )
    with RunningServer(config, host, load_saes(config, host)) as running:
        parts, _ = encoded(running, EncodeCall(texts=TEXTS, watch=watch, top_features=6))

        for number, text in enumerate(TEXTS):
            expected, found = captured(running, text, watch), readings_of(parts[number])
            assert found.keys() == expected.keys()
            for key, values in expected.items():
                np.testing.assert_allclose(
                    list(found[key].values()), list(values.values()), rtol=REAL_TOLERANCE, atol=REAL_TOLERANCE
                )


def test_full_codes_of_one_sae(server: RunningServer) -> None:
    call = EncodeCall(texts=TEXTS[:1], full_codes=True, saes=("late",))
    with FeatureClient(server.address, timeout_seconds=TIMEOUT_SECONDS) as client:
        parts = [event for event in client.encode(call) if isinstance(event, EncodedTokens)]

    assert [codes.sae for part in parts for codes in part.codes] == ["late"]
    assert int(parts[0].codes[0].counts.sum()) > 100


GOOD: dict[str, Any] = {"texts": [pb.Text(prompt="Hi")], "top_k": 1}


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"texts": []}, ["texts"]),
        ({"texts": [pb.Text()]}, ["texts[0].input"]),
        ({"texts": [pb.Text(prompt="a"), pb.Text(prompt="")]}, ["texts[1].prompt"]),
        ({"texts": [pb.Text(chat=generation_service_pb2.Chat())]}, ["texts[0].chat.messages"]),
        (
            {"texts": [pb.Text(token_ids=generation_service_pb2.TokenIds(ids=[259]))]},
            ["texts[0].token_ids.ids[0]"],
        ),
        ({"texts": [pb.Text(prompt="a")] * 2049}, ["texts"]),
        ({"texts": [pb.Text(prompt="a" * 600)]}, ["texts[0].prompt"]),
        ({"texts": [pb.Text(prompt="a" * 500)] * 525}, ["texts"]),
        ({"top_k": 0}, ["watch"]),
        ({"top_k": 65}, ["top_k"]),
        ({"full_codes": True}, ["full_codes"]),
        ({"top_k": 0, "watch": [WireRef(sae="late", index=1)], "saes": ["late"]}, ["saes"]),
        ({"watch": [WireRef(sae="late", index=1)] * 2}, ["watch[1]"]),
        ({"saes": ["late", "late"]}, ["saes[1]"]),
        ({"max_seconds": -1}, ["max_seconds"]),
        ({"max_seconds": float("nan")}, ["max_seconds"]),
        ({"max_seconds": 601}, ["max_seconds"]),
        ({"request_id": "no spaces", "texts": []}, ["request_id", "texts"]),
    ],
)
def test_a_bad_request_names_its_fields(
    server: RunningServer, change: dict[str, Any], fields: list[str]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(server.features.Encode(pb.EncodeRequest(**(GOOD | change)), timeout=TIMEOUT_SECONDS))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(caught.value)
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    assert [violation.field for violation in bad.field_violations] == fields


@pytest.mark.parametrize(
    "change", [{"saes": ["none"]}, {"watch": [WireRef(sae="late", index=64)]}, {"watch": [WireRef(sae="x")]}]
)
def test_what_is_not_served_is_not_found(server: RunningServer, change: dict[str, Any]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(server.features.Encode(pb.EncodeRequest(**(GOOD | change)), timeout=TIMEOUT_SECONDS))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
