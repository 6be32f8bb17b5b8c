"""What the server says of itself: catalog, health, reflection."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from steerd.pb.v1 import catalog_service_pb2 as pb
from tests.server.conftest import WATCHED
from tests.server.running_server import RunningServer


def test_server_info_tells_host_limits_and_watch_list(server: RunningServer) -> None:
    info = server.catalog.GetServerInfo(pb.GetServerInfoRequest())

    assert info.version
    assert info.model.name == "tiny-llama"
    assert (info.model.d_model, info.model.num_layers, info.model.max_context) == (32, 3, 512)
    assert (info.model.dtype, info.model.device) == ("float32", "cpu")
    assert info.model.has_chat_template
    assert info.limits.max_new_tokens == server.config.limits.max_new_tokens
    assert info.limits.max_request_seconds == server.config.server.max_request_seconds
    (watched,) = info.watched_features
    assert (watched.feature.sae, watched.feature.index, watched.alias) == ("late", 3, "third")
    assert watched.threshold == WATCHED.threshold


def test_every_limit_of_the_config_is_told(server: RunningServer) -> None:
    info = server.catalog.GetServerInfo(pb.GetServerInfoRequest())

    told = {field.name: value for field, value in info.limits.ListFields()}
    configured = {name: getattr(server.config.limits, name) for name in server.config.limits.__slots__}
    times = ("max_request_seconds", "max_study_seconds")
    assert told == configured | {name: getattr(server.config.server, name) for name in times}


def test_saes_are_listed_in_order(server: RunningServer) -> None:
    saes = server.catalog.ListSaes(pb.ListSaesRequest()).saes

    assert [sae.name for sae in saes] == ["early", "late"]
    assert [sae.hook_point for sae in saes] == ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"]
    assert all((sae.d_model, sae.d_sae, sae.architecture) == (32, 64, "jumprelu") for sae in saes)
    assert all(sae.has_statistics for sae in saes)


@pytest.mark.parametrize("service", ["", "steerd.v1.GenerationService", "steerd.v1.CatalogService"])
def test_health_knows_every_service(server: RunningServer, service: str) -> None:
    assert server.health(service) == "SERVING"


def test_health_of_an_unknown_service_is_not_found(server: RunningServer) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(server.channel).Check(health_pb2.HealthCheckRequest(service="lost"))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services_and_their_files(server: RunningServer) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="steerd.v1.GenerationService"),
    ]

    listed, file = stub.ServerReflectionInfo(iter(asked))

    names = {service.name for service in listed.list_services_response.service}
    assert {"steerd.v1.GenerationService", "steerd.v1.CatalogService", "grpc.health.v1.Health"} <= names
    assert file.file_descriptor_response.file_descriptor_proto


def test_a_client_without_our_code_can_call_by_reflection(server: RunningServer) -> None:
    buf = shutil.which("buf", path=Path(sys.executable).parent)
    if buf is None:
        pytest.skip("buf is not installed")
    url = f"http://{server.address}/steerd.v1.CatalogService/ListSaes"

    curl = subprocess.run(
        [buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert '"name": "early"' in curl.stdout, curl.stderr
