"""A steerd process on a tiny host, and a script of requests that moves every series of its metrics."""

from __future__ import annotations

import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from steerd.cli.server_process import free_ports, server_process, wait_until_serving
from steerd.client import Client
from steerd.client_channel import RemoteError
from steerd.client_messages import GenerateCall, ScoreCall
from steerd.sae.feature_label import LabelScore
from steerd.sae.sae_file import SaeBundle, save_sae
from steerd.steering.intervention import Ablate, Add, FeatureRef, Intervention, Scale, Set
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae

START_SECONDS = 300.0
SAE = "tiny"
WATCHED = {"first": 3, "second": 5}
CALLS = 16
SCORE = ScoreCall(prompt="xyz", continuations=("abc", "def"))

_CONFIG = """
[model]
name = "{folder}/host"
[[saes]]
name = "{sae}"
path = "sae"
[engine]
kv_cache_gib = 0.1
max_running_requests = 2
max_waiting_requests = 1
[limits]
max_new_tokens = 100000
[server]
port = {grpc}
[monitoring]
port = {metrics}
sample_every = 1
"""
_WATCH = """
[[monitoring.watch]]
sae = "{sae}"
index = {index}
alias = "{alias}"
hot = true
"""


@dataclass(frozen=True, slots=True)
class LoadedServer:
    """A running server: HOST:PORT of gRPC and of its metrics."""

    process: subprocess.Popen[bytes]
    address: str
    metrics: str

    def page(self) -> str:
        """What /metrics says now."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=60) as reply:
            return str(reply.read().decode())


@contextmanager
def loaded_server(folder: Path, monitoring: str = "") -> Iterator[LoadedServer]:
    """Serve a tiny host from a folder, with more keys for [monitoring]."""
    grpc, metrics = free_ports(2)
    host = make_tiny_host("llama", max_position_embeddings=100_000)
    host.model.save_pretrained(folder / "host")
    host.tokenizer.save_pretrained(folder / "host")
    save_sae(folder / "sae", _with_scores(tiny_sae(host, "blocks.1.hook_resid_post")))
    config = folder / "steerd.toml"
    text = _CONFIG.format(folder=folder, sae=SAE, grpc=grpc, metrics=metrics) + monitoring
    watch = (_WATCH.format(sae=SAE, index=index, alias=alias) for alias, index in WATCHED.items())
    config.write_text(text + "".join(watch))
    with server_process(config, log=folder / "log") as process:
        wait_until_serving(process, f"127.0.0.1:{grpc}", timeout_seconds=START_SECONDS)
        yield LoadedServer(process, f"127.0.0.1:{grpc}", f"127.0.0.1:{metrics}")


def _with_scores(bundle: SaeBundle) -> SaeBundle:
    """The SAE with labels that were tested."""
    score = LabelScore("tokens", value=0.75, contexts=9)
    return replace(bundle, notes=[replace(note, scores=(score,)) for note in bundle.notes or ()])


def run_script(address: str) -> None:
    """CALLS calls of all outcomes: plain, steered, scored, cancelled, rejected, too late, invalid."""
    with Client(address) as client:
        _generate_well(client)
        client.score(SCORE)
        _fill_the_line(client)
        with pytest.raises(RemoteError, match="prompt"):
            client.generate(GenerateCall(prompt=""))
    with Client(address, timeout_seconds=0.2) as hurried, pytest.raises(RemoteError):
        hurried.generate(_endless())


def _generate_well(client: Client) -> None:
    operations = (Add(1.0), Set(1.0), Scale(2.0), Ablate())
    feature = FeatureRef(SAE, 3)
    edits = [(), *((Intervention(target=feature, operation=operation),) for operation in operations)]
    for edit in edits:
        for _ in range(2):
            client.generate(GenerateCall(prompt="the cat sat", max_new_tokens=8, interventions=edit))


def _fill_the_line(client: Client) -> None:
    """Two run and leave room for one: two continuations join the line both or, as here, not at all."""
    streams = [client.stream(_endless()) for _ in range(2)]
    for stream in streams:
        assert next(stream) is not None
    with pytest.raises(RemoteError, match="no room for 2 more"):
        client.score(SCORE)
    for stream in streams:
        stream.close()


def _endless() -> GenerateCall:
    """Greedily, the tiny host goes on from this prompt for thousands of tokens."""
    return GenerateCall(prompt="xyz", max_new_tokens=50_000)
