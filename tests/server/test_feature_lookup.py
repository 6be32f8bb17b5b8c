"""GetFeature, SearchFeatures, NearestFeatures and SearchByTexts through a whole server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
import torch
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from steerd.client_channel import RemoteError
from steerd.client_messages import ChatTurn
from steerd.config import EngineConfig
from steerd.engine.study import Progress
from steerd.feature_client import FeatureClient
from steerd.host.output_tokens import output_tokens
from steerd.host.token_texts import TokenTexts
from steerd.intervention_wire import feature_message
from steerd.pb.v1 import feature_pb2
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.steering.intervention import FeatureRef
from steerd.study_wire.feature_search import NearestCall, TextSearchCall
from steerd.study_wire.study_text import StudyText
from tests.server.running_server import TIMEOUT_SECONDS, RunningServer, tiny_config, tiny_parts


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(tiny_config(), *tiny_parts()) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[FeatureClient]:
    with FeatureClient(server.address, timeout_seconds=TIMEOUT_SECONDS) as features:
        yield features


def test_a_page_tells_of_file_host_and_weights(server: RunningServer, client: FeatureClient) -> None:
    page = client.feature(FeatureRef("late", 7), output_tokens=3, neighbours=2)
    again = client.feature(FeatureRef("late", 7), output_tokens=3, neighbours=2)

    W_dec = server.saes.get("late").sae.W_dec
    expected = output_tokens(server.host, W_dec, count=3).promoted[7].tolist()
    texts = TokenTexts(server.host.tokenizer)
    assert [(each.token_id, each.text) for each in page.promoted] == [(i, texts.one(i)) for i in expected]
    assert page.labels[0].text == "label of 7"
    assert page.hook_point == "blocks.2.hook_resid_post"
    assert page.max_activation == 2.0
    assert len(page.contexts) == 1
    assert len(page.neighbours) == 2
    assert page.neighbours[0].label is not None
    assert page.neighbours[0].label.text == f"label of {page.neighbours[0].feature.index}"
    assert again == page
    assert len(client.feature(FeatureRef("late", 7)).promoted) == 10


def test_words_are_found_in_all_saes_or_in_some(client: FeatureClient) -> None:
    both = client.search(["Label", "13"])
    one = client.search(["label"], saes=["late"], limit=4)

    assert [match.feature for match in both.features] == [FeatureRef("early", 13), FeatureRef("late", 13)]
    assert both.features[0].match == 1.0
    assert (one.found, len(one.features)) == (64, 4)
    assert client.search(["no-such-word"]).features == ()
    assert client.search([]).found == 128


def test_labels_are_told_in_the_order_asked_for(server: RunningServer, client: FeatureClient) -> None:
    features = [FeatureRef("late", 5), FeatureRef("early", 2), FeatureRef("late", 5)]

    reply = server.features.GetLabels(pb.GetLabelsRequest(features=map(feature_message, features)))

    assert [label.text for label in reply.labels] == ["label of 5", "label of 2", "label of 5"]
    assert {ref: label.text for ref, label in client.labels(features).items()} == {
        features[0]: "label of 5",
        features[1]: "label of 2",
    }


def test_neighbours_are_found_across_layers(server: RunningServer, client: FeatureClient) -> None:
    near = client.nearest(NearestCall(near=FeatureRef("early", 3), saes=("late",), limit=5))
    direction = server.saes.get("early").sae.W_dec[3]
    by_vector = client.nearest(NearestCall(near=(2 * direction).tolist(), saes=("late",), limit=5))

    cosines = torch.nn.functional.cosine_similarity(server.saes.get("late").sae.W_dec, direction.unsqueeze(0))
    best = cosines.topk(5)
    assert [match.feature.index for match in near.features] == best.indices.tolist()
    assert [match.match for match in near.features] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert [match.feature for match in by_vector.features] == [match.feature for match in near.features]
    assert near.found == 64
    assert client.nearest(NearestCall(near=FeatureRef("early", 3), side="encoder")).features[0].match < 1


def test_texts_find_features_and_progress_is_told(client: FeatureClient) -> None:
    told: list[Progress] = []
    call = TextSearchCall(
        fires_on=tuple(StudyText(prompt=f"rain {number}") for number in range(6)),
        not_on=(StudyText(prompt="sun"),),
        limit=3,
    )

    found = client.search_by_texts(call, told.append)
    again = client.search_by_texts(call)

    assert found.complete
    assert found.texts == 7
    assert 0 < len(found.features) <= 3
    assert all(progress.unit == "texts" and progress.total == 7 for progress in told)
    assert again == found


def test_what_the_chat_template_makes_features_fire_is_no_match(client: FeatureClient) -> None:
    empty = client.search_by_texts(TextSearchCall(fires_on=(StudyText(chat=(ChatTurn("user", ""),)),)))
    template = "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
    as_text = client.search_by_texts(TextSearchCall(fires_on=(StudyText(prompt=template),)))

    assert empty.complete
    assert empty.features == ()
    assert as_text.features


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, list[str]]:
    """The code and the fields of a refusal."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    status = rpc_status.from_call(caught.value)
    bad = error_details_pb2.BadRequest()
    found = any(detail.Unpack(bad) for detail in status.details)
    return caught.value.code(), [violation.field for violation in bad.field_violations] if found else []


INVALID = grpc.StatusCode.INVALID_ARGUMENT
HI = pb.Text(prompt="Hi")
LATE = feature_pb2.FeatureRef(sae="late", index=1)
VECTOR = pb.FeatureVector(values=[1.0] * 32)


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (pb.GetFeatureRequest(feature=LATE, output_tokens=260), ["output_tokens"]),
        (pb.GetFeatureRequest(feature=LATE, neighbours=1001), ["neighbours"]),
        (pb.GetLabelsRequest(features=[LATE] * 1001), ["features"]),
        (pb.SearchFeaturesRequest(words=["x"] * 33), ["words"]),
        (pb.SearchFeaturesRequest(words=["a", " "]), ["words[1]"]),
        (pb.SearchFeaturesRequest(words=["x" * 201]), ["words[0]"]),
        (pb.SearchFeaturesRequest(limit=0), ["limit"]),
        (pb.SearchFeaturesRequest(saes=["late", "late"]), ["saes[1]"]),
        (pb.NearestFeaturesRequest(), ["near"]),
        (pb.NearestFeaturesRequest(vector=pb.FeatureVector(values=[1.0])), ["vector.values"]),
        (pb.NearestFeaturesRequest(vector=pb.FeatureVector(values=[0.0] * 32)), ["vector.values"]),
        (
            pb.NearestFeaturesRequest(vector=pb.FeatureVector(values=[1.0] * 31 + [float("nan")])),
            ["vector.values[31]"],
        ),
        (pb.NearestFeaturesRequest(vector=VECTOR, limit=1001), ["limit"]),
        (pb.NearestFeaturesRequest(vector=VECTOR, side=9), ["side"]),  # type: ignore[arg-type]
        (pb.SearchByTextsRequest(), ["fires_on"]),
        (pb.SearchByTextsRequest(fires_on=[HI, pb.Text(prompt="H")]), ["fires_on[1]"]),
        (pb.SearchByTextsRequest(fires_on=[HI], not_on=[pb.Text()]), ["not_on[0].input"]),
        (pb.SearchByTextsRequest(fires_on=[HI], limit=1001), ["limit"]),
        (pb.SearchByTextsRequest(fires_on=[HI], max_seconds=-1), ["max_seconds"]),
        (pb.SearchByTextsRequest(fires_on=[HI], request_id="x" * 200), ["request_id"]),
    ],
)
def test_a_bad_request_names_its_fields(server: RunningServer, request_: Message, fields: list[str]) -> None:
    name = type(request_).__name__.removesuffix("Request")

    def call() -> None:
        reply = getattr(server.features, name)(request_, timeout=TIMEOUT_SECONDS)
        if name == "SearchByTexts":
            list(reply)

    assert refused(call) == (INVALID, fields)


@pytest.mark.parametrize(
    ("feature", "said"),
    [(FeatureRef("none", 0), "no SAE named 'none'"), (FeatureRef("late", 64), "no feature 64")],
)
def test_an_unknown_feature_is_not_found(client: FeatureClient, feature: FeatureRef, said: str) -> None:
    for call in (lambda: client.feature(feature), lambda: client.nearest(NearestCall(near=feature))):
        with pytest.raises(RemoteError, match=said) as caught:
            call()
        assert caught.value.code == "NOT_FOUND"
    with pytest.raises(RemoteError, match="no SAE named 'none'"):
        client.search(["x"], saes=["none"])


def test_short_questions_are_refused_when_too_many_studies_run() -> None:
    config = tiny_config(engine=EngineConfig(kv_cache_gib=0.01, max_studies=1))
    with (
        RunningServer(config, *tiny_parts()) as running,
        FeatureClient(running.address, timeout_seconds=TIMEOUT_SECONDS) as client,
    ):
        texts = tuple(StudyText(prompt="x" * 300) for _ in range(400))
        begun = threading.Event()
        first = threading.Thread(
            target=lambda: client.search_by_texts(
                TextSearchCall(fires_on=texts, request_id="long"), lambda _progress: begun.set()
            )
        )
        first.start()
        assert begun.wait(TIMEOUT_SECONDS)
        with pytest.raises(RemoteError, match="1 studies are under way") as caught:
            client.feature(FeatureRef("late", 1))
        client.stop_study("long")
        first.join(TIMEOUT_SECONDS)

    assert caught.value.code == "RESOURCE_EXHAUSTED"
