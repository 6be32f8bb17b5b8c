"""steerd's engine in this process, with its metrics: prompts in, arrival times out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.decode_rate import Arrivals
from benchmarks.engine_monitor import started_monitor
from benchmarks.generation_systems import Prompts
from benchmarks.many_wishes import SAE_NAME, server_watch_list, sixteen_interventions, watched_features
from benchmarks.outcome import Outcome
from steerd.config import EngineConfig, MonitoringConfig
from steerd.engine.engine import Engine
from steerd.engine.request import Capture, GenerationRequest, SamplingParams
from steerd.host.host_model import HostModel
from steerd.sae.sae_file import load_sae
from steerd.server.watch_keeper import WatchKeeper
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.steering import Steering


class SteerdEngine:
    """(c) idle, or (d) steered: every request has another intervention, 64 features are watched by each
    request and by the server.

    Metrics are kept as in a server with its defaults: every 16th token is encoded whole for its L0.
    """

    def __init__(self, host: HostModel, sae_folder: Path, config: EngineConfig, *, steered: bool) -> None:
        saes = LoadedSaes(host)
        d_sae = saes.add(SAE_NAME, load_sae(sae_folder, name=SAE_NAME)).sae.d_sae
        self._interventions = sixteen_interventions(d_sae) if steered else ()
        self._capture = Capture(watch=watched_features(d_sae) if steered else ())
        self._monitor, metrics = started_monitor(host.name, [SAE_NAME], config)
        self._engine = Engine(host, saes, config, self._monitor, MonitoringConfig().sample_every)
        WatchKeeper(saes, self._engine, metrics).begin(server_watch_list(d_sae) if steered else ())
        self._engine.start()

    def __call__(self, prompts: Prompts, num_new: int) -> Arrivals:
        started = time.perf_counter()
        outcomes = [Outcome() for _ in prompts]
        for row, (prompt, outcome) in enumerate(zip(prompts, outcomes, strict=True)):
            self._engine.submit(self._request(row, prompt, num_new), outcome)
        for outcome in outcomes:
            outcome.wait()
        return Arrivals(started, [outcome.times for outcome in outcomes])

    def close(self) -> None:
        """Stop the engine."""
        self._engine.stop()
        self._monitor.stop()

    def _request(self, row: int, prompt: Sequence[int], num_new: int) -> GenerationRequest:
        return GenerationRequest(
            id=f"row-{row}",
            prompt_ids=tuple(prompt),
            sampling=SamplingParams(max_new_tokens=num_new, temperature=0.0, top_p=1.0, top_k=0, seed=0),
            steering=Steering(interventions=self._interventions[row : row + 1]),
            capture=self._capture,
        )
