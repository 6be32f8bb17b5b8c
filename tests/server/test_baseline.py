"""The unsteered baseline beside a generation, over the wire."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from steerd.config import EngineConfig
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.pb.v1.feature_pb2 import FeatureRef
from tests.server.running_server import Generated, RunningServer, tiny_config, tiny_parts

STRONG = steering.Intervention(feature=FeatureRef(sae="late", index=3), add=steering.Add(strength=2))
PROMPT = "the cat sat"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer(tiny_config(), *tiny_parts()) as running:
        yield running


def generate(server: RunningServer, *interventions: steering.Intervention, baseline: bool) -> Generated:
    return server.generate(
        pb.GenerateRequest(
            prompt=PROMPT,
            sampling=pb.SamplingParams(max_new_tokens=8, temperature=1.0, seed=3, stop=["never"]),
            interventions=interventions,
            baseline=baseline,
        )
    )


def test_the_baseline_is_the_unsteered_request(server: RunningServer) -> None:
    both = generate(server, STRONG, baseline=True)
    steered, plain = generate(server, STRONG, baseline=False), generate(server, baseline=False)

    assert both.token_ids == steered.token_ids
    assert both.text == steered.text
    parts = [delta.baseline for delta in both.deltas if delta.HasField("baseline")]
    assert [token_id for part in parts for token_id in part.token_ids] == plain.token_ids
    assert "".join(part.text for part in parts) == plain.text
    assert "".join(text for part in parts for text in part.token_texts).strip() in plain.text
    positions = [position for part in parts for position in part.positions]
    assert positions == list(range(len(PROMPT), len(PROMPT) + len(plain.token_ids)))
    logprobs = [value for part in parts for value in part.logprobs]
    expected = [value for delta in plain.deltas for value in delta.logprobs]
    assert logprobs == pytest.approx(expected, abs=1e-4)
    assert not any(delta.HasField("baseline") for delta in steered.deltas)
    assert not steered.completed.HasField("baseline")


def test_completed_tells_where_they_part_and_how_far(server: RunningServer) -> None:
    both = generate(server, STRONG, baseline=True)

    parts = [delta.baseline for delta in both.deltas if delta.HasField("baseline")]
    plain_ids = [token_id for part in parts for token_id in part.token_ids]
    pairs = list(zip(both.token_ids, plain_ids, strict=False))
    first = next(index for index, (steered, plain) in enumerate(pairs) if steered != plain)
    kl = dict(pair for part in parts for pair in zip(part.kl_positions, part.kl, strict=True))
    assert sorted(kl) == list(range(len(PROMPT), len(PROMPT) + len(pairs)))
    assert min(kl.values()) > 0
    summary = both.completed.baseline
    assert summary.first_diverging_position == len(PROMPT) + first
    counted = [value for position, value in kl.items() if position <= len(PROMPT) + first]
    assert summary.mean_kl == pytest.approx(sum(counted) / len(counted), rel=1e-5)
    assert summary.usage == pb.Usage(prompt_tokens=len(PROMPT), generated_tokens=len(plain_ids))
    assert summary.finish_reason == pb.FINISH_REASON_LENGTH


def test_equal_requests_never_part(server: RunningServer) -> None:
    summary = generate(server, baseline=True).completed.baseline

    assert not summary.HasField("first_diverging_position")
    assert 0 <= abs(summary.mean_kl) < 1e-6


def test_a_server_that_runs_one_at_a_time_says_so() -> None:
    config = tiny_config(engine=EngineConfig(kv_cache_gib=0.01, max_running_requests=1))
    with RunningServer(config, *tiny_parts()) as alone, pytest.raises(grpc.RpcError) as refused:
        generate(alone, baseline=True)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in rpc_status.from_call(refused.value).details)
    assert [violation.field for violation in bad.field_violations] == ["baseline"]
