"""A server whose engine follows a script, on the event loop of the test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from steerd.config import Config, LimitsConfig, ServerConfig, SteeringConfig
from steerd.engine.events import FinishedEvent, PromptEvent, StreamEvent, Timings, TokenEvent, TokenReading
from steerd.engine.request import FinishReason, GenerationRequest
from steerd.engine.steered_forward import SteeredForward
from steerd.engine.study import DeliverStudy, Study
from steerd.engine.study_line import StudyJob, StudyLine
from steerd.engine.study_pace import StudyPace
from steerd.engine.waiting_line import Submission
from steerd.engine.watch_list import WatchList
from steerd.monitoring.activity import Activity
from steerd.monitoring.top_features import TopFeatures
from steerd.server.catalog_service import CatalogService
from steerd.server.edge_observer import Rpc
from steerd.server.feature_answers import feature_answers
from steerd.server.feature_service import FeatureService
from steerd.server.generation_service import GenerationService
from steerd.server.grpc_server import GrpcServer
from steerd.server.monitor_service import MonitorService
from steerd.server.parse import RequestParser
from steerd.server.parse_steering import SteeringParser
from steerd.server.policy import Policies
from steerd.server.preset_book import Preset, PresetBook
from steerd.server.served import Served, Serving
from steerd.server.studying import Studying
from steerd.steering.intervention import Ablate, FeatureRef, Intervention
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.steering import NamedVersion
from steerd.steering.step_plan import StepPlanner
from tests.server.running_server import tiny_parts


@dataclass
class ScriptedEngine:
    """Answers every request with the same events or refusal, and remembers what was cancelled."""

    events: Sequence[StreamEvent] = ()
    refusal: Exception | None = None
    forward: SteeredForward = field(init=False)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: list[Submission] = field(default_factory=list)
    studies: StudyLine = field(
        default_factory=lambda: StudyLine(
            max_studies=2,
            share=1.0,
            pace=StudyPace(small=256, large=256),
            is_wanted=lambda: False,
            wake=lambda: None,
        )
    )

    def submit(
        self,
        request: GenerationRequest,
        deliver: Callable[[StreamEvent], None],
        saes: LoadedSaes | None = None,
    ) -> Submission:
        assert request.prompt_ids
        if self.refusal is not None:
            raise self.refusal
        for event in self.events:
            deliver(event)
        self.arrived.set()
        return Submission(request, deliver, saes)

    def submit_all(
        self,
        requests: Sequence[tuple[GenerationRequest, Callable[[StreamEvent], None]]],
        saes: LoadedSaes | None = None,
    ) -> list[Submission]:
        return [self.submit(request, deliver, saes) for request, deliver in requests]

    def steered_forward(self, saes: LoadedSaes | None = None) -> SteeredForward:
        del saes  # there is one set
        return self.forward

    def watch(self, watch: WatchList) -> None:
        """Nothing is read."""

    def serve(self, saes: LoadedSaes) -> None:
        """Nothing is read."""

    def cancel(self, submission: Submission) -> None:
        self.cancelled.append(submission)

    def study(self, study: Study[Any], deliver: DeliverStudy) -> StudyJob:
        """Nothing runs but what the test runs, by `studies.turn`."""
        job = self.studies.join(study, deliver)
        self.arrived.set()
        return job

    def stop_study(self, job: StudyJob, *, keep: bool) -> None:
        self.studies.stop(job, keep=keep)


@dataclass
class Counts:
    """An observer that keeps everything."""

    served: list[Rpc] = field(default_factory=list)
    started: list[Rpc] = field(default_factory=list)
    finished: list[tuple[str, str, str]] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    messages: int = 0
    coalesced: int = 0

    def rpc_served(self, rpc: Rpc) -> None:
        self.served.append(rpc)

    def rpc_started(self, rpc: Rpc) -> None:
        self.started.append(rpc)

    def rpc_finished(self, rpc: Rpc, *, code: str, outcome: str, seconds: float, request_id: str) -> None:
        assert isinstance(request_id, str)
        assert 0 <= seconds <= time.monotonic()
        self.finished.append((rpc.method, code, outcome))

    def request_rejected(self, reason: str) -> None:
        self.rejected.append(reason)

    def messages_sent(self, messages: int, coalesced_tokens: int) -> None:
        self.messages += messages
        self.coalesced += coalesced_tokens


@dataclass
class ScriptedServer:
    """A channel to the server, and what the test may look at."""

    address: str
    channel: grpc.aio.Channel
    engine: ScriptedEngine
    counts: Counts


@asynccontextmanager
async def scripted_server(
    *events: StreamEvent, refusal: Exception | None = None, **server: float
) -> AsyncIterator[ScriptedServer]:
    """Serve inside the block; `server` is the section of that name."""
    config = ServerConfig(port=0, admin="off", **server)  # type: ignore[arg-type]
    engine, counts = ScriptedEngine(events, refusal), Counts()
    host, saes = tiny_parts()
    calm = Intervention(target=FeatureRef("late", 5), operation=Ablate(), source="preset:calm@1")
    limits, presets = LimitsConfig(), PresetBook([Preset(NamedVersion("calm", "1"), "", (calm,))])
    policies = Policies((), saes)
    steering = SteeringParser(host, saes, limits, SteeringConfig(), presets, policies)
    grpc_server = GrpcServer(config, counts)
    requests = RequestParser(host, saes, limits, steering)
    serving = Serving(Served(saes, presets, policies, requests))
    generation = GenerationService(
        engine,
        serving,
        config=config,
        admission=grpc_server.admission,
        observer=counts,
    )
    catalog = CatalogService(host, serving, Config(), "", lambda: "scripted", tuple)
    monitor = MonitorService(Activity(), TopFeatures(), watch=WatchList, snapshots_lost=print)
    studying = Studying(engine, config, grpc_server.admission, counts)
    engine.forward = SteeredForward(host, StepPlanner(host, saes, 0))
    whole = Config(server=config)
    feature = FeatureService(
        studying, serving, lambda served: feature_answers(served, engine, studying, whole)
    )
    await grpc_server.start(generation, catalog, feature=feature, monitor=monitor, is_healthy=lambda: True)
    address = f"127.0.0.1:{grpc_server.port}"
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield ScriptedServer(address, channel, engine, counts)
    finally:
        await grpc_server.stop()


def token(position: int, token_id: int = ord("x")) -> TokenEvent:
    """One generated token without readings."""
    return TokenEvent(token_id=token_id, position=position, logprob=-1.0, readings=())


def readings(num_values: int) -> PromptEvent:
    """One reading of so many activations."""
    values = [1.5] * num_values
    return PromptEvent(
        (TokenReading(position=0, sae="late", features=list(range(num_values)), values=values),)
    )


def finished(reason: FinishReason = FinishReason.LENGTH, generated_tokens: int = 0) -> FinishedEvent:
    """The last event."""
    return FinishedEvent(
        reason=reason,
        prompt_tokens=1,
        generated_tokens=generated_tokens,
        timings=Timings(0.1, 0.2, 0.3),
        features=(),
    )
