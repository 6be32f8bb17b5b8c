"""The watch list, changed while a server runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest

from steerd.client import Client
from steerd.client_views import Watched
from steerd.config import MonitoringConfig, ServerConfig, WatchedFeature
from steerd.engine.watch_list import WatchList
from steerd.errors import ConfigError, Overloaded
from steerd.pb.v1 import admin_service_pb2, catalog_service_pb2
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1.feature_pb2 import FeatureRef
from steerd.server.watch_keeper import WatchKeeper
from steerd.steering.intervention import FeatureRef as Ref
from tests.server.running_server import RunningServer, tiny_config, tiny_parts
from tests.waiting import wait_until

OLD = WatchedFeature(sae="late", index=3, alias="third", threshold=0.5)
PROMPT = pb.GenerateRequest(prompt="the cat sat", sampling=pb.SamplingParams(max_new_tokens=4))
ACTIVE = "steerd_feature_active_tokens_total"


def message(sae: str, index: int, alias: str, **fields: float) -> catalog_service_pb2.WatchedFeature:
    return catalog_service_pb2.WatchedFeature(feature=FeatureRef(sae=sae, index=index), alias=alias, **fields)


def set_list(server: RunningServer, *features: catalog_service_pb2.WatchedFeature) -> None:
    server.admin.SetWatchList(admin_service_pb2.SetWatchListRequest(features=features))


def aliases(server: RunningServer) -> list[str]:
    reply = server.admin.GetWatchList(admin_service_pb2.GetWatchListRequest())
    return [watched.alias for watched in reply.features]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "watch.json"


@pytest.fixture
def admin_server(file: Path) -> Iterator[RunningServer]:
    monitoring = MonitoringConfig(port=0, sample_every=1, watch=(OLD,), watch_file=str(file))
    with RunningServer(tiny_config(monitoring=monitoring), *tiny_parts()) as server:
        yield server


def test_a_list_is_changed_while_a_request_runs(admin_server: RunningServer) -> None:
    """The stream goes on, what stays goes on counting, what goes is gone, what is new counts."""
    server = admin_server
    endless = pb.GenerateRequest(prompt="the cat sat", sampling=pb.SamplingParams(max_new_tokens=400))
    call = server.generation.Generate(endless)
    next(call)
    wait_until(lambda: server.total(ACTIVE, alias="third") > 0)
    before = server.total(ACTIVE, alias="third")

    set_list(server, message("late", 3, "third"), message("early", 5, "fifth", hot=True))
    wait_until(
        lambda: (
            server.total("steerd_generation_tokens_total") >= 400 or server.total(ACTIVE, alias="fifth") > 0
        )
    )

    messages = list(call)
    assert messages[-1].completed.usage.generated_tokens == 400
    assert server.total(ACTIVE, alias="third") >= before
    assert server.total("steerd_request_feature_activation_max_count", alias="fifth") == 1
    info = server.catalog.GetServerInfo(catalog_service_pb2.GetServerInfoRequest())
    assert [watched.alias for watched in info.watched_features] == aliases(server) == ["third", "fifth"]

    set_list(server)
    assert (
        ACTIVE,
        frozenset({("sae", "late"), ("feature", "3"), ("alias", "third")}),
    ) not in server.samples()
    server.generate(PROMPT)


def test_the_list_is_kept_for_the_next_start(admin_server: RunningServer, file: Path) -> None:
    set_list(admin_server, message("early", 7, "seventh", threshold=1.5, hot=True))

    with RunningServer(admin_server.config, *tiny_parts()) as again, Client(again.address) as client:
        assert client.watch_list() == [Watched(Ref("early", 7), "seventh", 1.5, hot=True)]
        client.set_watch_list([])
        assert client.watch_list() == []

    assert json.loads(file.read_text()) == {"format_version": 1, "features": []}
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("features", "code", "said"),
    [
        ([message("late", 3, "Third")], "INVALID_ARGUMENT", "features[0].alias"),
        ([message("late", 3, "a"), message("late", 3, "b")], "INVALID_ARGUMENT", "unique"),
        ([message("late", 3, "a"), message("late", 4, "a")], "INVALID_ARGUMENT", "features.alias"),
        ([message("late", 64, "a")], "INVALID_ARGUMENT", "features[0].index: must be below 64"),
        ([message("late", 1, "dead", hot=True)], "INVALID_ARGUMENT", "features[0].hot"),
        ([message("late", 3, "a", threshold=float("nan"))], "INVALID_ARGUMENT", "features[0].threshold"),
        ([message("nowhere", 3, "a")], "NOT_FOUND", "nowhere"),
        ([message("late", n % 64, f"f{n}") for n in range(257)], "INVALID_ARGUMENT", "at most 256"),
        ([message("late", n + 2, f"f{n}", hot=True) for n in range(49)], "INVALID_ARGUMENT", "at most 48"),
    ],
)
def test_a_bad_list_is_refused_whole(
    server: RunningServer, features: Sequence[catalog_service_pb2.WatchedFeature], code: str, said: str
) -> None:
    before = aliases(server)

    with pytest.raises(grpc.RpcError) as caught:
        set_list(server, message("early", 9, "fine"), *features)

    assert caught.value.code().name == code
    assert said.replace("[0]", "[1]") in caught.value.details()
    assert aliases(server) == before


def test_a_file_that_cannot_be_written_changes_nothing(admin_server: RunningServer, file: Path) -> None:
    file.with_name(f".{file.name}.new").mkdir()

    with pytest.raises(grpc.RpcError) as caught:
        set_list(admin_server, message("early", 9, "ninth"))

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert aliases(admin_server) == ["third"]


class Poor:
    """Metrics with room for two features."""

    def __init__(self) -> None:
        self.lists: list[WatchList] = []

    def over_budget(self, watch: WatchList) -> str | None:
        return "costs too much" if len(watch) > 2 else None

    def watch(self, watch: WatchList) -> None:
        self.lists.append(watch)


def features(count: int) -> list[WatchedFeature]:
    return [WatchedFeature(sae="late", index=index, alias=f"f{index}") for index in range(count)]


def test_a_list_over_the_budget_is_refused_and_the_old_one_stays(file: Path) -> None:
    _, saes = tiny_parts()
    metrics, engine = Poor(), Poor()
    keeper = WatchKeeper(saes, engine, metrics, file)
    keeper.begin(features(2))

    with pytest.raises(Overloaded, match="costs too much") as caught:
        keeper.change(features(3))

    assert caught.value.reason == "FEATURE_SERIES_LIMIT"
    assert keeper.current.features == tuple(features(2))
    assert metrics.lists == engine.lists == [keeper.current]
    assert not file.exists()
    with pytest.raises(ConfigError, match="costs too much"):
        WatchKeeper(saes, engine, metrics, file).begin(features(3))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "format_version 1"),
        ('{"format_version": 2, "features": []}', "format_version 1"),
        ('{"format_version": 1}', "features"),
        ('{"format_version": 1, "features": [{"sae": "late", "index": 3}]}', "alias is missing"),
        ('{"format_version": 1, "features": [{"sae": "x", "index": 3, "alias": "a"}]}', "served SAEs"),
    ],
)
def test_a_damaged_file_is_told_at_the_start(file: Path, content: str, said: str) -> None:
    _, saes = tiny_parts()
    file.write_text(content)

    with pytest.raises(ConfigError, match=said):
        WatchKeeper(saes, Poor(), Poor(), file).begin(features(1))


def test_admin_is_not_served_where_it_is_switched_off() -> None:
    config = tiny_config(server=ServerConfig(port=0, admin="off"))
    with RunningServer(config, *tiny_parts()) as server, pytest.raises(grpc.RpcError) as caught:
        aliases(server)

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("host", "admin", "serves"),
    [
        ("127.0.0.1", "auto", True),
        ("0.0.0.0", "auto", False),
        ("0.0.0.0", "on", True),
        ("127.0.0.1", "off", False),
    ],
)
def test_admin_is_for_loopback_unless_told(host: str, admin: str, serves: bool) -> None:
    assert ServerConfig(host=host, admin=admin, insecure=True).serves_admin is serves
