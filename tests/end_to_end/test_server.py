"""The server as a process: signals, exit status, and mistakes that stop it from starting."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from steerd.cli.server_process import free_ports, server_process, stop, wait_until_serving
from steerd.pb.v1 import generation_service_pb2 as pb
from steerd.pb.v1 import steering_pb2 as steering
from steerd.pb.v1.feature_pb2 import FeatureRef
from steerd.pb.v1.generation_service_pb2_grpc import GenerationServiceStub
from steerd.sae.sae_file import save_sae
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae

START_SECONDS = 300.0
END_SECONDS = 120.0


@dataclass(frozen=True)
class Folder:
    """Where a tiny host and its SAE lie, and a config that serves them."""

    path: Path
    port: int

    def config(self, **server: float | str) -> Path:
        lines = "\n".join(f"{key} = {value}" for key, value in server.items())
        (metrics_port,) = free_ports(1)
        config = self.path / "steerd.toml"
        config.write_text(
            f"""
            [model]
            name = "{self.path / "host"}"
            [[saes]]
            name = "tiny"
            path = "sae"
            [engine]
            kv_cache_gib = 0.1
            [limits]
            max_new_tokens = 100000
            [monitoring]
            port = {metrics_port}
            [server]
            port = {self.port}
            {lines}
            """
        )
        return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    path = tmp_path_factory.mktemp("server")
    host = make_tiny_host("llama", max_position_embeddings=100_000)
    host.model.save_pretrained(path / "host")
    host.tokenizer.save_pretrained(path / "host")
    save_sae(path / "sae", tiny_sae(host, "blocks.1.hook_resid_post"))
    return Folder(path, free_ports(1)[0])


def request(max_new_tokens: int) -> pb.GenerateRequest:
    """Greedily, the tiny host goes on from this prompt for thousands of tokens."""
    edit = steering.Intervention(feature=FeatureRef(sae="tiny", index=3), scale=steering.Scale(factor=1.5))
    return pb.GenerateRequest(
        prompt="xyz", sampling=pb.SamplingParams(max_new_tokens=max_new_tokens), interventions=[edit]
    )


@pytest.fixture
def stub(folder: Folder) -> Iterator[GenerationServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{folder.port}") as channel:
        yield GenerationServiceStub(channel)


def test_a_signal_lets_streams_finish_and_the_process_end_well(
    folder: Folder, stub: GenerationServiceStub
) -> None:
    log = folder.path / "drain.log"
    with server_process(folder.config(), log=log) as process:
        wait_until_serving(process, f"127.0.0.1:{folder.port}", timeout_seconds=START_SECONDS)
        call = stub.Generate(request(60))
        assert next(call).HasField("started")

        process.send_signal(signal.SIGTERM)

        assert list(call)[-1].completed.usage.generated_tokens == 60
        assert process.wait(END_SECONDS) == 0
    text = log.read_text()
    assert "Traceback" not in text
    assert text.count("code=OK") == 1


@pytest.mark.parametrize(
    ("server", "signals"),
    [({"drain_seconds": 0.1}, [signal.SIGTERM]), ({"drain_seconds": 600}, [signal.SIGINT, signal.SIGTERM])],
    ids=["time runs out", "second signal"],
)
def test_streams_that_outlast_the_drain_end_unavailable(
    folder: Folder, stub: GenerationServiceStub, server: dict[str, float], signals: list[signal.Signals]
) -> None:
    log = folder.path / "cut.log"
    with server_process(folder.config(**server), log=log) as process:
        wait_until_serving(process, f"127.0.0.1:{folder.port}", timeout_seconds=START_SECONDS)
        call = stub.Generate(request(50_000))
        assert next(call).HasField("started")

        for number in signals:
            process.send_signal(number)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)

        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert process.wait(END_SECONDS) == 0
    assert "Traceback" not in log.read_text()


def test_a_server_that_passes_its_selftest_serves(folder: Folder, stub: GenerationServiceStub) -> None:
    log = folder.path / "selftest.log"
    with server_process(folder.config(require_selftest="true"), log=log) as process:
        wait_until_serving(process, f"127.0.0.1:{folder.port}", timeout_seconds=START_SECONDS)
        assert list(stub.Generate(request(3)))[-1].completed.usage.generated_tokens == 3
        assert stop(process, timeout_seconds=END_SECONDS) == 0
    assert "steered = reference" in log.read_text()


def test_the_selftest_of_a_config_is_json(folder: Folder) -> None:
    ended = run("selftest", str(folder.config()), "--json")

    record = json.loads(ended.stdout)
    assert ended.returncode == 0, ended.stderr
    assert record["passed"]
    assert record["saes"] == ["tiny"]
    assert {"steered = reference", "chunked = whole", "no-op"} <= {
        check["name"] for check in record["checks"]
    }


def test_a_port_in_use_is_one_line_and_a_bad_exit_status(folder: Folder) -> None:
    with socket.create_server(("127.0.0.1", folder.port)):
        ended = serve(str(folder.config()))

    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line == (f"steerd: cannot listen on 127.0.0.1:{folder.port}: Address already in use")


def test_a_missing_sae_is_one_line_and_a_bad_exit_status(folder: Folder) -> None:
    config = folder.config()
    config.write_text(config.read_text().replace('path = "sae"', 'path = "lost"'))

    ended = serve(str(config))

    assert ended.returncode == 1
    assert "lost" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_a_watched_feature_must_exist(folder: Folder) -> None:
    config = folder.config()
    watch = '[[monitoring.watch]]\nsae = "tiny"\nindex = 64\nalias = "beyond"\n'
    config.write_text(config.read_text().replace("            [server]", f"{watch}[server]"))

    ended = serve(str(config))

    assert ended.returncode == 1
    assert "monitoring.watch[0].index must be below 64, the SAE's d_sae; got 64" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "server.host must be a loopback address"),
        (["--port", "70000"], "server.port must be between 0 and 65535; got 70000"),
        (["--sae", "nameless"], "NAME=FOLDER"),
        (["lost.toml"], "cannot read lost.toml"),
    ],
)
def test_a_bad_option_is_told(arguments: list[str], message: str) -> None:
    ended = serve(*arguments)

    assert ended.returncode in (1, 2)
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `steerd serve` to an end that it should come to by itself."""
    return run("serve", *arguments)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "steerd", *arguments],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
