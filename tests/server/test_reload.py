"""An SAE's folder changes while a server runs: what is fit is served in its place, what is not is refused."""

from __future__ import annotations

import asyncio
import threading
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

from steerd.config import MonitoringConfig, SaeConfig, ServerConfig, WatchedFeature
from steerd.config_file import parse_config
from steerd.errors import FailedPrecondition
from steerd.host.host_model import HostModel
from steerd.monitoring.metrics import Metrics
from steerd.pb.v1 import admin_service_pb2, catalog_service_pb2
from steerd.pb.v1 import feature_service_pb2 as feature_pb
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.pb.v1.feature_pb2 import FeatureRef
from steerd.pb.v1.feature_service_pb2_grpc import FeatureServiceStub
from steerd.sae.sae_file import SaeBundle, load_sae, save_sae
from steerd.server.sae_reloader import SaeReloader
from steerd.server.served import Serving, read_served
from steerd.server.watch_keeper import WatchKeeper
from steerd.steering.loaded_saes import LoadedSaes
from tests.server.running_server import TIMEOUT_SECONDS, RunningServer, tiny_config
from tests.server.scripted import ScriptedEngine
from tests.server.test_edge_table import error_info
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae
from tests.waiting import wait_until

POINT = "blocks.1.hook_resid_post"
PRESET = """
    [[presets]]
    name = "calm"
    version = "1"
    [[presets.interventions]]
    feature = { sae = "early", index = 7 }
    add = { strength = 3.0, unit = "UNIT_FEATURE_MAX" }
"""
WATCHED = (
    WatchedFeature(sae="early", index=7, alias="seventh", hot=True),
    WatchedFeature(sae="late", index=3, alias="third"),
)


def bundle(host: HostModel, seed: int, **changes: object) -> SaeBundle:
    return replace(tiny_sae(host, POINT, seed), **changes)  # type: ignore[arg-type]


def twice(found: SaeBundle) -> SaeBundle:
    """The same with twice the maxima."""
    assert found.statistics is not None
    larger = replace(found.statistics, max_activation=2 * found.statistics.max_activation)
    return replace(found, statistics=larger)


def serving_from(folder: Path, seed: int) -> RunningServer:
    """SAEs in folders: `early`, made from a seed, and `late`."""
    host = make_tiny_host()
    save_sae(folder / "early", bundle(host, seed))
    save_sae(folder / "late", bundle(host, 2))
    saes = LoadedSaes(host)
    names = ("early", "late")
    for name in names:
        saes.add(name, load_sae(folder / name))
    config = tiny_config(
        saes=tuple(SaeConfig(name=name, path=str(folder / name)) for name in names),
        presets=parse_config(tomllib.loads(PRESET), folder=folder).presets,
        monitoring=MonitoringConfig(port=0, sample_every=1, watch=WATCHED, request_log="off"),
    )
    return RunningServer(config, host, saes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[RunningServer]:
    with serving_from(folder, seed=1) as running:
        yield running


def reload(server: RunningServer, name: str = "early") -> catalog_service_pb2.Sae:
    request = admin_service_pb2.ReloadSaeRequest(name=name)
    return server.admin.ReloadSae(request, timeout=TIMEOUT_SECONDS).sae


def steered(num_new: int) -> pb.GenerateRequest:
    """Both by a preset, in multiples of a recorded maximum, and by itself; reads what is read whole."""
    own = steering.Intervention(feature=FeatureRef(sae="early", index=20), add=steering.Add(strength=4))
    return pb.GenerateRequest(
        prompt="the cat sat",
        sampling=pb.SamplingParams(max_new_tokens=num_new),
        presets=["calm"],
        interventions=[own],
        capture=pb.Capture(watch=[FeatureRef(sae="early", index=5)], top_k=4, top_k_saes=["early"]),
    )


def values(messages: list[pb.GenerateResponse]) -> list[float]:
    readings = [reading for message in messages for reading in message.delta.readings]
    return [value for reading in readings for value in reading.values]


def tokens(messages: list[pb.GenerateResponse]) -> list[int]:
    return [token for message in messages for token in message.delta.token_ids]


def hashes(server: RunningServer) -> dict[str, str]:
    reply = server.catalog.ListSaes(catalog_service_pb2.ListSaesRequest())
    return {sae.name: sae.weights_sha256 for sae in reply.saes}


def test_a_stream_ends_as_it_began_and_the_next_has_the_new_sae(folder: Path, server: RunningServer) -> None:
    with serving_from(folder / "fresh", seed=9) as fresh:
        save_sae(folder / "fresh" / "early", twice(bundle(fresh.host, 9)))
        reload(fresh)
        expected_after = list(fresh.generation.Generate(steered(12)))
    expected_before = list(server.generation.Generate(steered(150)))
    before = hashes(server)

    stream = server.generation.Generate(steered(150), timeout=TIMEOUT_SECONDS)
    messages = [next(stream), next(stream)]
    save_sae(folder / "early", twice(bundle(server.host, 9)))
    told = reload(server)
    after = list(server.generation.Generate(steered(12)))
    assert stream.is_active()
    messages += list(stream)

    assert tokens(messages) == tokens(expected_before)
    assert values(messages) == pytest.approx(values(expected_before), abs=1e-3)
    assert messages[0].started.plan_hash == expected_before[0].started.plan_hash
    assert tokens(after) == tokens(expected_after) != tokens(expected_before)[:12]
    assert values(after) == pytest.approx(values(expected_after), abs=1e-3)
    (_, calm), (_, calm_before) = after[0].started.interventions, messages[0].started.interventions
    assert calm.add.strength == 2 * calm_before.add.strength == 12.0
    assert after[0].started.plan_hash == expected_after[0].started.plan_hash
    assert told.weights_sha256 == hashes(server)["early"] != before["early"]
    assert hashes(server)["late"] == before["late"]


def test_what_is_counted_says_which_weights_are_served(folder: Path, server: RunningServer) -> None:
    former = hashes(server)["early"][:12]
    save_sae(folder / "early", twice(bundle(server.host, 9)))

    told = reload(server)
    list(server.generation.Generate(steered(4)))

    samples = server.samples()
    shown = {
        dict(labels)["sha256_12"]
        for name, labels in samples
        if name == "steerd_sae_generation_info" and dict(labels)["sae"] == "early"
    }
    assert shown == {told.weights_sha256[:12]} != {former}
    assert server.total("steerd_sae_loads_total", result="ok") == 3
    assert server.total("steerd_sae_reload_failures_total") == 0
    loaded_at = server.total("steerd_sae_last_load_timestamp_seconds", sae="early")
    assert loaded_at > server.total("steerd_sae_last_load_timestamp_seconds", sae="late")
    # The largest activation of the hot feature, in multiples of its new maximum.
    assert server.total("steerd_request_feature_activation_max_count", alias="seventh") == 1


def truncated(folder: Path, host: HostModel) -> None:
    del host
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def not_finite(folder: Path, host: HostModel) -> None:
    del host
    weights = folder / "sae_weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4:] = b"\x00\x00\xc0\x7f"
    weights.write_bytes(bytes(content))


def saved(**changes: object) -> Callable[[Path, HostModel], None]:
    return lambda folder, host: (save_sae(folder, bundle(host, 9, **changes)), None)[1]


def elsewhere(folder: Path, host: HostModel) -> None:
    save_sae(folder, tiny_sae(host, "blocks.0.hook_resid_post", 9))


def larger(folder: Path, host: HostModel) -> None:
    save_sae(folder, tiny_sae(host, POINT, 9, d_sae=65))


def gone(folder: Path, host: HostModel) -> None:
    del host
    folder.rename(folder.with_name("moved"))


def without_the_watched_maximum(folder: Path, host: HostModel) -> None:
    found = bundle(host, 9)
    assert found.statistics is not None
    maxima = found.statistics.max_activation.clone()
    maxima[7] = 0
    save_sae(folder, replace(found, statistics=replace(found.statistics, max_activation=maxima)))


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (truncated, "sae_weights.safetensors"),
        (not_finite, "finite"),
        (elsewhere, "reads blocks.1.hook_resid_post, and the one in its folder blocks.0.hook_resid_post"),
        (larger, "has d_sae 64, and the one in its folder 65"),
        (gone, "early"),
        (saved(statistics=None), "presets[0]"),
        (without_the_watched_maximum, "presets[0]"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_served_leaves_what_is(
    folder: Path, server: RunningServer, break_it: Callable[[Path, HostModel], None], reason: str
) -> None:
    before = list(server.generation.Generate(steered(6)))
    served = hashes(server)

    break_it(folder / "early", server.host)
    with pytest.raises(grpc.RpcError) as refused:
        reload(server)

    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error_info(refused.value).reason == "SAE_NOT_RELOADED"
    assert "what was served before still is" in refused.value.details()
    assert reason in refused.value.details()
    assert hashes(server) == served
    assert tokens(list(server.generation.Generate(steered(6)))) == tokens(before)
    assert server.total("steerd_sae_reload_failures_total", sae="early") == 1
    assert server.total("steerd_sae_reload_failing", sae="early") == 1
    assert server.total("steerd_sae_reload_failing", sae="late") == 0
    assert (
        server.total("grpc_server_handled_total", grpc_method="ReloadSae", grpc_code="FAILED_PRECONDITION")
        == 1
    )

    save_sae(folder / "early", bundle(server.host, 9))
    assert reload(server).weights_sha256 != served["early"]
    assert server.total("steerd_sae_reload_failing", sae="early") == 0


def test_a_watched_feature_that_must_have_a_maximum_is_no_less_checked(tmp_path: Path) -> None:
    with serving_from(tmp_path, seed=1) as server:
        watch = catalog_service_pb2.WatchedFeature(
            feature=FeatureRef(sae="late", index=5), alias="fifth", hot=True
        )
        server.admin.SetWatchList(admin_service_pb2.SetWatchListRequest(features=[watch]))
        save_sae(tmp_path / "late", bundle(server.host, 2, statistics=None))
        with pytest.raises(grpc.RpcError, match=r"the watch list\[0\].hot needs a recorded maximum"):
            reload(server, "late")


def test_an_unknown_name_is_not_found(server: RunningServer) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        reload(server, "lost")

    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert error_info(refused.value).metadata["field"] == "name"
    assert server.total("steerd_sae_reload_failures_total") == 0


def test_a_server_that_demands_a_selftest_reloads_nothing() -> None:
    host = make_tiny_host()
    saes = LoadedSaes(host)
    saes.add("early", bundle(host, 1))
    config = tiny_config(server=ServerConfig(require_selftest=True))
    serving, engine = Serving(read_served(config, host, saes)), ScriptedEngine()
    metrics = Metrics(CollectorRegistry(), model="m", saes=("early",), queue_limit=1, build={"version": "1"})

    async def try_it() -> None:
        reloader = SaeReloader(
            config,
            host,
            serving,
            engine=engine,
            read=load_sae,
            watch=WatchKeeper(saes, engine, metrics),
            metrics=metrics,
            loaded=print,
        )
        with pytest.raises(FailedPrecondition, match="require_selftest is set"):
            await reloader.reload("early")

    asyncio.run(try_it())
    assert serving.now.saes is saes


def test_labels_and_looked_up_answers_are_those_of_the_new_file(folder: Path, server: RunningServer) -> None:
    features = FeatureServiceStub(server.channel)
    page = feature_pb.GetFeatureRequest(feature=FeatureRef(sae="early", index=5))
    before = features.GetFeature(page, timeout=TIMEOUT_SECONDS)
    found = bundle(server.host, 1)  # the same weights
    assert found.notes is not None
    notes = tuple(replace(note, label=f"new {note.feature}") for note in found.notes)

    save_sae(folder / "early", replace(found, notes=notes))
    reload(server)

    assert "new 5" not in str(before)
    assert "new 5" in str(features.GetFeature(page, timeout=TIMEOUT_SECONDS))


def test_many_reloads_under_load_fail_no_request(folder: Path, server: RunningServer) -> None:
    """Each request has one of the two, whole."""
    expected = []
    for seed in (1, 9):
        save_sae(folder / "early", bundle(server.host, seed))
        reload(server)
        expected.append(tokens(list(server.generation.Generate(steered(20)))))
    streams = []
    for number in range(16):
        streams.append(server.generation.Generate(steered(20), timeout=TIMEOUT_SECONDS))
        save_sae(folder / "early", bundle(server.host, (1, 9)[number % 2]))
        reload(server)

    assert expected[0] != expected[1]
    for stream in streams:
        assert tokens(list(stream)) in expected


def test_a_reload_that_began_ends_though_nobody_waits_for_it(folder: Path, server: RunningServer) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def slowly(path: Path) -> SaeBundle:
        reading.set()
        assert go_on.wait(TIMEOUT_SECONDS)
        return load_sae(path)

    save_sae(folder / "early", bundle(server.host, 9))
    before = hashes(server)["early"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("steerd.loading.load_sae", slowly)
        call = server.admin.ReloadSae.future(admin_service_pb2.ReloadSaeRequest(name="early"))
        assert reading.wait(TIMEOUT_SECONDS)
        call.cancel()
        assert list(server.generation.Generate(steered(2))), "nobody waits for the reload"
        assert hashes(server)["early"] == before
        go_on.set()
        wait_until(lambda: hashes(server)["early"] != before)
