"""steerd serving a job's steered requests all at once: its engine in this process, and a server over gRPC."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.engine_monitor import started_monitor
from benchmarks.outcome import Outcome
from benchmarks.serving_process import START_TIMEOUT_SECONDS, STOP_TIMEOUT_SECONDS
from benchmarks.steering_peers.job import Job, SteeredRequest
from steerd.cli.server_process import free_ports, server_process, stop, wait_until_serving
from steerd.client import Client
from steerd.client_messages import GenerateCall
from steerd.config import EngineConfig, MonitoringConfig
from steerd.engine.engine import Engine
from steerd.engine.request import GenerationRequest, SamplingParams
from steerd.host.host_model import HostModel
from steerd.sae.sae_file import SaeBundle
from steerd.steering.intervention import Add, FeatureRef, Intervention
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.scope import Scope
from steerd.steering.steering import Steering

SAE_NAME = "starter"

Served = tuple[float, list[list[int]]]
"""Seconds from the first call to the last token, and the new tokens of each request."""


class EngineInProcess:
    """steerd's engine as a server runs it, without the network."""

    def __init__(self, host: HostModel, bundle: SaeBundle, job: Job) -> None:
        saes = LoadedSaes(host)
        saes.add(SAE_NAME, bundle)
        config = EngineConfig(share_prefixes=False)  # the same prompts come again every round
        self._monitor, _ = started_monitor(host.name, [SAE_NAME], config)
        self._job = job
        self._engine = Engine(host, saes, config, self._monitor, MonitoringConfig().sample_every)
        self._engine.start()

    def generate(self, numbers: Sequence[int]) -> Served:
        """Serve these requests of the job at once."""
        started = time.perf_counter()
        outcomes = [Outcome() for _ in numbers]
        for number, outcome in zip(numbers, outcomes, strict=True):
            self._engine.submit(self._request(number), outcome)
        for outcome in outcomes:
            outcome.wait()
        return time.perf_counter() - started, [outcome.token_ids for outcome in outcomes]

    def close(self) -> None:
        """Stop the engine."""
        self._engine.stop()
        self._monitor.stop()

    def _request(self, number: int) -> GenerationRequest:
        request = self._job.requests[number]
        return GenerationRequest(
            id=f"request-{number}",
            prompt_ids=tuple(request.prompt_ids),
            sampling=SamplingParams(
                max_new_tokens=self._job.num_new, temperature=0.0, top_p=1.0, top_k=0, seed=0
            ),
            steering=Steering(interventions=(_intervention(request),)),
        )


class ServerOverGrpc:
    """A `steerd serve` process; every request is a call of its own over one connection."""

    def __init__(self, client: Client, job: Job) -> None:
        self._client = client
        self._job = job

    def generate(self, numbers: Sequence[int]) -> Served:
        """Serve these requests of the job at once. A token that ends a text ends it here."""
        calls = [self._call(self._job.requests[number]) for number in numbers]
        started = time.perf_counter()
        with ThreadPoolExecutor(len(calls)) as threads:
            generations = list(threads.map(self._client.generate, calls))
        return time.perf_counter() - started, [
            [token.id for token in generation.tokens] for generation in generations
        ]

    def _call(self, request: SteeredRequest) -> GenerateCall:
        return GenerateCall(
            token_ids=tuple(request.prompt_ids),
            max_new_tokens=self._job.num_new,
            temperature=0.0,
            interventions=(_intervention(request),),
        )


@contextmanager
def serving(job: Job) -> Iterator[ServerOverGrpc]:
    """A server with the job's SAE on the default host."""
    grpc_port, metrics_port = free_ports(2)
    address = f"127.0.0.1:{grpc_port}"
    with tempfile.TemporaryDirectory(prefix="steerd-benchmark-") as folder:
        path = Path(folder) / "server.toml"
        path.write_text(
            f"[server]\nport = {grpc_port}\n[monitoring]\nport = {metrics_port}\n"
            "[engine]\nshare_prefixes = false\n"  # the same prompts come again every round
            f'[[saes]]\nname = "{SAE_NAME}"\npath = "{job.sae_folder}"\n'
        )
        with server_process(path, log=Path(folder) / "server.log") as process:
            wait_until_serving(process, address, timeout_seconds=START_TIMEOUT_SECONDS)
            with Client(address) as client:
                yield ServerOverGrpc(client, job)
            stop(process, timeout_seconds=STOP_TIMEOUT_SECONDS)


def _intervention(request: SteeredRequest) -> Intervention:
    """On every row, as the tools' hooks do it."""
    return Intervention(
        target=FeatureRef(SAE_NAME, request.feature),
        operation=Add(request.strength),
        scope=Scope(include_special_tokens=True),
    )
