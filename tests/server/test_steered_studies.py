"""LogitLens, Trace and MeasureEffects through a whole server, against plain forwards and under policies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import torch

from steerd.client_channel import RemoteError
from steerd.client_messages import ChatTurn
from steerd.config import Config, LimitsConfig, MonitoringConfig, ServerConfig
from steerd.feature_client import FeatureClient
from steerd.host.default_host import DEFAULT_HOST_ALIAS
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.loading import load_saes
from steerd.pb.v1 import feature_service_pb2 as pb
from steerd.pb.v1 import generation_service_pb2, steering_pb2
from steerd.pb.v1.feature_pb2 import FeatureRef as WireRef
from steerd.steering.intervention import Ablate, Add, FeatureRef, Intervention, Set
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.scope import Phase, PositionRange, Scope
from steerd.study_wire.effects import EffectsCall
from steerd.study_wire.logit_lens import LensCall
from steerd.study_wire.steered_text import SteeredStudyText
from steerd.study_wire.study_text import StudyText
from steerd.study_wire.trace import TraceCall
from tests.server.running_server import TIMEOUT_SECONDS, RunningServer, tiny_config, tiny_parts
from tests.server.test_edge_table import error_info, violations
from tests.server.test_policies import config_of
from tests.studies.steered import plain_logits, plain_rows, steered

TOLERANCE = 1e-4
REAL_TOLERANCE = 2e-3

ADD = Intervention(target=FeatureRef("early", 3), operation=Add(2.0), scope=Scope(phase=Phase.GENERATED))
ABLATE = Intervention(target=FeatureRef("late", 5), operation=Ablate())
TEXT = SteeredStudyText(
    text=StudyText(prompt="the cat sat"), continuation=" on the mat", interventions=(ADD, ABLATE)
)
IDS = b"the cat sat on the mat"
ALL = (PositionRange(0),)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    limits = LimitsConfig(max_study_values=400, max_text_tokens=60, max_top_k=20, max_prompt_characters=300)
    with RunningServer(tiny_config(limits=limits), *tiny_parts()) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[FeatureClient]:
    with FeatureClient(server.address, timeout_seconds=TIMEOUT_SECONDS) as connected:
        yield connected


def naive(*interventions: Intervention) -> torch.Tensor:
    """log-softmax [tokens, vocab] of the text."""
    text = steered(IDS[:11], *interventions, continuation=IDS[11:])
    return plain_logits(*tiny_parts(), text).log_softmax(dim=-1)


def test_the_lens_of_a_steered_text(client: FeatureClient) -> None:
    lens = client.lens(LensCall(steered=TEXT, layers=(2,), positions=(PositionRange(-3),), tokens=("a", 257)))

    expected = naive(ADD, ABLATE)
    assert [(cell.layer, cell.position) for cell in lens.cells] == [(2, 19), (2, 20), (2, 21)]
    for cell in lens.cells:
        row = expected[cell.position]
        assert [token.logprob for token in cell.top] == pytest.approx(
            row.sort(descending=True).values[:5].tolist(), abs=TOLERANCE
        )
        found = [token.logprob for token in cell.chosen]
        assert found == pytest.approx([float(row[97]), float(row[257])], abs=TOLERANCE)
    assert lens.complete
    assert (lens.token_ids, lens.chosen_ids) == (tuple(IDS), (97, 257))
    assert lens.steering.interventions == (ADD, ABLATE)
    assert [part.rows for part in lens.steering.receipt.interventions] == [11, 22]
    assert len(lens.steering.plan_hash) == 64


def test_the_trace_of_a_chat_is_what_generate_reads(server: RunningServer, client: FeatureClient) -> None:
    chat = (ChatTurn("user", "Tell me."),)
    trace = client.trace(
        TraceCall(
            steered=SteeredStudyText(text=StudyText(chat=chat)), positions=(PositionRange(4, 8),), top=6
        )
    )

    message = generation_service_pb2.GenerateRequest(
        sampling=generation_service_pb2.SamplingParams(max_new_tokens=1),
        capture=generation_service_pb2.Capture(top_k=6, include_prompt=True),
    )
    message.chat.messages.add(role="user", content="Tell me.")
    captured = {
        (reading.sae, reading.position): dict(zip(reading.features, reading.values, strict=True))
        for reading in server.generate(message).readings
    }
    assert [(row.sae, row.position) for row in trace.rows] == [
        (sae, position) for sae in ("early", "late") for position in range(4, 8)
    ]
    for row in trace.rows:
        found = {each.feature: each.activation for each in row.features}
        assert found == pytest.approx(captured[row.sae, row.position], abs=TOLERANCE)
    assert "".join(trace.token_texts).endswith("<|im_start|>assistant\n")


def test_the_effects_of_features(client: FeatureClient) -> None:
    features = (FeatureRef("late", 7), FeatureRef("early", 9))

    table = client.effects(EffectsCall(steered=replace(TEXT, interventions=(ADD,)), features=features))

    chosen = torch.tensor(list(IDS[1:])).unsqueeze(1)
    plain = naive(ADD)[:-1].gather(1, chosen).squeeze(1)
    assert table.logprobs == pytest.approx([0.0, *plain.tolist()], abs=TOLERANCE)
    for effect in table.effects:
        ablate = Intervention(target=effect.feature, operation=Ablate())
        ablated = naive(ADD, ablate)[:-1].gather(1, chosen).squeeze(1)
        assert effect.changes == pytest.approx([0.0, *(ablated - plain).tolist()], abs=5 * TOLERANCE)
    assert [effect.feature for effect in table.effects] == list(features)


def test_an_answer_that_was_given_is_given_again(client: FeatureClient) -> None:
    """The same study once more takes no step of the engine."""
    call = TraceCall(steered=replace(TEXT, interventions=(ABLATE,)), positions=ALL, top=2)
    first = client.trace(call)
    seen: list[object] = []

    again = client.trace(call, told=seen.append)

    assert again == first
    assert seen == []


POLICIES = """
    [[policies]]
    name = "never"
    version = "3"
    [[policies.interventions]]
    feature = { sae = "early", index = 7 }
    set = { value = 25 }

    [[policies]]
    name = "only"
    version = "1"
    allow = { features = ["early:0-9", "late:3"] }
"""


def test_policies_hold_for_studies() -> None:
    demanded = Intervention(target=FeatureRef("early", 7), operation=Set(25.0), source="policy:never@3")
    plain = SteeredStudyText(text=StudyText(prompt="the cat sat on the mat"))
    config = tiny_config(policies=config_of(POLICIES).policies)
    with (
        RunningServer(config, *tiny_parts()) as server,
        FeatureClient(server.address, timeout_seconds=TIMEOUT_SECONDS) as client,
    ):
        lens = client.lens(LensCall(steered=plain, layers=(2,), positions=ALL, tokens=("x",), top=0))
        effects = client.effects(EffectsCall(steered=plain, features=(FeatureRef("late", 3),)))
        refused = {}
        for feature in (FeatureRef("early", 7), FeatureRef("late", 4)):
            with pytest.raises(RemoteError) as caught:
                client.effects(EffectsCall(steered=plain, features=(feature,)))
            refused[feature] = caught.value
        with pytest.raises(RemoteError) as caught:
            client.lens(LensCall(steered=replace(plain, interventions=(ABLATE,))))

    expected = naive(demanded)
    found = [cell.chosen[0].logprob for cell in lens.cells]
    assert found == pytest.approx(expected[:, ord("x")].tolist(), abs=TOLERANCE)
    assert lens.steering.interventions == (demanded,)
    assert [str(policy) for policy in lens.steering.policies] == ["never@3", "only@1"]
    chosen = expected[:-1].gather(1, torch.tensor(list(IDS[1:])).unsqueeze(1)).squeeze(1)
    assert effects.logprobs[1:] == pytest.approx(chosen.tolist(), abs=TOLERANCE)
    assert {error.code for error in (*refused.values(), caught.value)} == {"PERMISSION_DENIED"}
    assert "never@3 edits feature early:7 itself" in str(refused[FeatureRef("early", 7)])
    assert "only@1 does not allow edits of feature late:4" in str(refused[FeatureRef("late", 4)])


def test_a_text_that_a_policy_ends_is_not_studied() -> None:
    policy = """
    [[policies]]
    name = "halt"
    version = "1"
    [[policies.triggers]]
    name = "too-far"
    stop = {}
    when = { any_of = [{ all_of = [{ feature = { sae = "early", index = 3 }, above = -1 }] }] }
    """
    with RunningServer(tiny_config(policies=config_of(policy).policies), *tiny_parts()) as server:
        for study, asked in (
            (server.features.LogitLens, pb.LogitLensRequest(text=pb.Text(prompt="Hello"))),
            (server.features.Trace, pb.TraceRequest(text=pb.Text(prompt="Hello"))),
            (
                server.features.MeasureEffects,
                pb.MeasureEffectsRequest(
                    text=pb.Text(prompt="Hello"), features=[WireRef(sae="late", index=1)]
                ),
            ),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                list(study(asked, timeout=TIMEOUT_SECONDS))
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert error_info(caught.value).reason == "POLICY_STOPPED"


GOOD = {"text": pb.Text(prompt="Hello")}
ROLES = steering_pb2.Scope(roles=["user"])


def stretch(start: int, end: int | None = None) -> list[steering_pb2.PositionRange]:
    return [steering_pb2.PositionRange(start=start, end=end)]


def edit(index: int, **fields: Any) -> steering_pb2.Intervention:
    feature = WireRef(sae="late", index=index)
    return steering_pb2.Intervention(feature=feature, ablate=steering_pb2.Ablate(), **fields)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"text": None}, ["text.input"]),
        ({"text": pb.Text(prompt="")}, ["text.prompt"]),
        ({"text": pb.Text(prompt="a" * 61)}, ["text"]),
        ({"continuation": generation_service_pb2.Continuation(text="")}, ["continuation.text"]),
        ({"continuation": generation_service_pb2.Continuation(text="a" * 56)}, ["continuation"]),
        ({"continuation": generation_service_pb2.Continuation(text="a" * 301)}, ["continuation.text"]),
        ({"interventions": [edit(1), edit(1)]}, ["interventions[1]"]),
        ({"interventions": [edit(1, scope=ROLES)]}, ["interventions[0].scope.roles"]),
        ({"positions": stretch(5)}, ["positions[0]"]),
        ({"positions": stretch(-6)}, ["positions[0]"]),
        ({"positions": stretch(0, 6)}, ["positions[0]"]),
        ({"positions": stretch(3, 3)}, ["positions[0]"]),
        ({"positions": stretch(0) * 257}, ["positions"]),
        ({"layers": [3]}, ["layers[0]"]),
        ({"layers": [1, 1]}, ["layers[1]"]),
        ({"layers": [0] * 4}, ["layers"]),
        ({"top_k": 21}, ["top_k"]),
        ({"tokens": [pb.TokenChoice()]}, ["tokens[0].token"]),
        ({"tokens": [pb.TokenChoice(id=1), pb.TokenChoice(id=259)]}, ["tokens[1].id"]),
        ({"tokens": [pb.TokenChoice(text="ab")]}, ["tokens[0].text"]),
        ({"tokens": [pb.TokenChoice(text="")]}, ["tokens[0].text"]),
        ({"tokens": [pb.TokenChoice(text="a" * 257)]}, ["tokens[0].text"]),
        ({"tokens": [pb.TokenChoice(id=1)] * 21}, ["tokens"]),
        ({"text": pb.Text(prompt="a" * 30), "positions": stretch(0)}, ["positions"]),
        ({"max_seconds": -1.0}, ["max_seconds"]),
        ({"request_id": "no spaces"}, ["request_id"]),
    ],
)
def test_a_bad_lens_names_its_fields(
    server: RunningServer, change: dict[str, Any], fields: list[str]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(server.features.LogitLens(pb.LogitLensRequest(**(GOOD | change)), timeout=TIMEOUT_SECONDS))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert list(violations(caught.value)) == fields


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"text": None}, ["text.input"]),
        ({"saes": ["late", "late"]}, ["saes[1]"]),
        ({"top_k": 21}, ["top_k"]),
        ({"text": pb.Text(prompt="a" * 30), "positions": stretch(0), "top_k": 7}, ["positions"]),
    ],
)
def test_a_bad_trace_names_its_fields(
    server: RunningServer, change: dict[str, Any], fields: list[str]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(server.features.Trace(pb.TraceRequest(**(GOOD | change)), timeout=TIMEOUT_SECONDS))

    assert list(violations(caught.value)) == fields


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"features": []}, ["features"]),
        ({"features": [WireRef(sae="late", index=1)] * 2}, ["features[1]"]),
        ({"features": [WireRef(sae="late", index=n) for n in range(41)]}, ["features"]),
        ({"text": pb.Text(prompt="a")}, ["text.prompt"]),
        ({"interventions": [edit(1)]}, ["features[0]"]),
    ],
)
def test_bad_effects_name_their_fields(
    server: RunningServer, change: dict[str, Any], fields: list[str]
) -> None:
    good = GOOD | {"features": [WireRef(sae="late", index=1)]}
    with pytest.raises(grpc.RpcError) as caught:
        list(
            server.features.MeasureEffects(
                pb.MeasureEffectsRequest(**(good | change)), timeout=TIMEOUT_SECONDS
            )
        )

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert list(violations(caught.value)) == fields


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ("Trace", pb.TraceRequest(**GOOD, saes=["none"])),
        ("MeasureEffects", pb.MeasureEffectsRequest(**GOOD, features=[WireRef(sae="late", index=64)])),
        ("LogitLens", pb.LogitLensRequest(**GOOD, presets=["none"])),
    ],
)
def test_what_is_not_served_is_not_found(server: RunningServer, study: str, message: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(getattr(server.features, study)(message, timeout=TIMEOUT_SECONDS))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.fixture(scope="module")
def real() -> Iterator[tuple[FeatureClient, HostModel, LoadedSaes]]:
    config = Config(
        server=ServerConfig(port=0), monitoring=MonitoringConfig(port=0, sample_every=0, request_log="off")
    )
    host, plain = (HostModel.load(DEFAULT_HOST_ALIAS) for _ in range(2))
    with (
        RunningServer(config, host, load_saes(config, host)) as running,
        FeatureClient(running.address, timeout_seconds=TIMEOUT_SECONDS) as client,
    ):
        yield client, plain, load_saes(config, plain)


@pytest.mark.real_host
def test_studies_of_the_default_host(real: tuple[FeatureClient, HostModel, LoadedSaes]) -> None:
    client, host, saes = real
    prompt, continuation = "The capital of France is", " Paris, of course."
    add = Intervention(target=FeatureRef("starter-14", 1823), operation=Add(30.0))
    asked = SteeredStudyText(text=StudyText(prompt=prompt), continuation=continuation, interventions=(add,))
    ids = host.tokenizer.encode(prompt), host.tokenizer.encode(continuation)
    text = steered(ids[0], add, continuation=ids[1])

    lens = client.lens(LensCall(steered=asked, positions=ALL, tokens=(" Paris",), top=1))
    trace = client.trace(TraceCall(steered=asked, top=3, after_edit=True))
    effects = client.effects(EffectsCall(steered=asked, features=(FeatureRef("starter-21", 7),)))

    logprobs = plain_logits(host, saes, text).log_softmax(dim=-1)
    last = [cell.chosen[0] for cell in lens.cells if cell.layer == host.num_layers - 1]
    paris = logprobs[:, ids[1][0]]
    assert [token.logprob for token in last] == pytest.approx(paris.tolist(), abs=REAL_TOLERANCE)
    assert last[len(ids[0]) - 1].rank == 1
    for row in trace.rows:
        point = HookPoint.parse(row.hook_point)
        acts = saes.get(row.sae).sae.encode(plain_rows(host, saes, text, point)[-1])
        strongest = acts.sort(descending=True).values[:3].tolist()
        assert [each.activation for each in row.features] == pytest.approx(strongest, rel=REAL_TOLERANCE)
    chosen = torch.tensor(text.token_ids[1:]).unsqueeze(1)
    plain = logprobs[:-1].gather(1, chosen).squeeze(1)
    assert effects.logprobs[1:] == pytest.approx(plain.tolist(), abs=REAL_TOLERANCE)
    ablated = plain_logits(
        host,
        saes,
        replace(
            text,
            steering=replace(
                text.steering,
                interventions=(
                    add,
                    Intervention(target=FeatureRef("starter-21", 7), operation=Ablate()),
                ),
            ),
        ),
    )
    change = ablated.log_softmax(dim=-1)[:-1].gather(1, chosen).squeeze(1) - plain
    assert effects.effects[0].changes[1:] == pytest.approx(change.tolist(), abs=REAL_TOLERANCE)
    assert math.isfinite(effects.effects[0].total_change)
