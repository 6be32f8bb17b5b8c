"""What clients are told of prompts that take over the pages of others, and of steps that are recorded."""

from __future__ import annotations

from steerd.config import EngineConfig
from steerd.pb.v1 import catalog_service_pb2, steering_pb2
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1.feature_pb2 import FeatureRef
from tests.server.running_server import RunningServer, tiny_config, tiny_parts

PROMPT = "the cat sat on the mat, and then it sat on the dog, which did not like that"
EDIT = steering_pb2.Intervention(feature=FeatureRef(sae="early", index=1), add=steering_pb2.Add(strength=3.0))


def capabilities(server: RunningServer) -> catalog_service_pb2.Capabilities:
    return server.catalog.GetServerInfo(catalog_service_pb2.GetServerInfoRequest()).capabilities


def cached_tokens(server: RunningServer, *edits: steering_pb2.Intervention) -> int:
    request = pb.GenerateRequest(
        prompt=PROMPT, sampling=pb.SamplingParams(max_new_tokens=2), interventions=edits
    )
    return server.generate(request).completed.usage.cached_prompt_tokens


def test_usage_tells_what_was_taken_over() -> None:
    """Pages are of 32 tokens: two of the prompt's 76 bytes are full."""
    with RunningServer(tiny_config(), *tiny_parts()) as server:
        assert capabilities(server).prefix_sharing
        assert capabilities(server).prefix_sharing_reason == ""
        assert [cached_tokens(server), cached_tokens(server)] == [0, 64]
        assert [cached_tokens(server, EDIT), cached_tokens(server, EDIT)] == [0, 64]


def test_a_server_that_does_not_share_says_why() -> None:
    config = tiny_config(engine=EngineConfig(kv_cache_gib=0.01, share_prefixes=False))
    with RunningServer(config, *tiny_parts()) as server:
        assert not capabilities(server).prefix_sharing
        assert capabilities(server).prefix_sharing_reason == "engine.share_prefixes is off"
        assert not capabilities(server).cuda_graphs
        assert "only CUDA devices record steps" in capabilities(server).cuda_graphs_reason
        assert [cached_tokens(server), cached_tokens(server)] == [0, 0]
