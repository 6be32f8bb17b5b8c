"""What only a GPU can tell, in one command: whether steps are right when recorded and in 16 bits, how fast.

This project had no GPU: all that it says of CUDA graphs was tried with a stand-in on the CPU. Here, on the
default host with its starter SAEs, in float32 and in bfloat16:
- the selftest, whose checks compare the engine with the plain host;
- the same requests, each steered otherwise at several layers, in an engine that records decode steps and in
  one that does not: the text of the one, scored by the other; and how many of its steps were replayed;
- what leaves an edited hook point, against float64 arithmetic rounded once.
Then, in bfloat16 and side by side, a step each in turn: recorded steps against plain ones and against
generate, and what steering and watching cost a recorded step (as `benchmarks.k_sweep`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import torch

from benchmarks.generation_systems import load_endless_host, sharing_weights
from benchmarks.k_sweep import FULL, QUICK, RANDOM_D_SAE, Bench, Sizes, measure_steering, ratio
from benchmarks.layer_saes import configurations, layer_saes
from benchmarks.paced_systems import Ask, PacedGenerate, engine_config
from benchmarks.report import Report, Row, parser_of, report_for
from steerd.config import EngineConfig
from steerd.engine.engine import Engine
from steerd.engine.events import LastEvent, StepReport
from steerd.engine.recorded_steps import CudaRecorder, Forward, Recorder
from steerd.engine.request import GenerationRequest
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.sae.sae_file import SaeBundle
from steerd.selftest.engine_client import EngineClient
from steerd.selftest.probes import Probe
from steerd.selftest.report import Status
from steerd.selftest.selftest import selftest
from steerd.selftest.texts import FIRST, SECOND, token_ids
from steerd.starters import STARTERS, sae_folder
from steerd.steering.intervention import Ablate, Add, FeatureRef, Intervention, Operation, Set
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.row_span import RowSpan
from steerd.steering.steering import Steering
from steerd.steering.step_plan import StepPlanner

NAME = "gpu_check"
REQUESTS, NEW_TOKENS = 16, 48

# Log-probabilities in nats: the largest gap in float32, the median one in 16 bits, as in the selftest.
GAP_BOUND = {torch.float32: 2e-3, torch.bfloat16: 0.1}
REPLAYED_BOUND = 0.9  # of the decode steps
ROUNDED_BOUND = 0.995  # of the numbers; float32 falls on the other side of a tie now and then


class CountingRecorder:
    """Another recorder, and how often its recordings were replayed."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.replayed = 0

    def record(self, forward: Forward) -> Forward:
        """As Recorder's."""
        replay = self._recorder.record(forward)

        def counted() -> None:
            self.replayed += 1
            replay()

        return counted


def main() -> None:
    """Check, measure, print, write; status 2 without a GPU."""
    parser = parser_of("Correctness and speed on a CUDA device.")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, f"{NAME} needs a CUDA device, and there is none here\n")
    report = report_for(NAME, options)
    starters = {int(name.partition("-")[2]): sae_folder(name) for name in STARTERS}
    for dtype in GAP_BOUND:
        host = load_endless_host(device="cuda", dtype=str(dtype).removeprefix("torch."))
        saes = layer_saes(host, RANDOM_D_SAE, starters)
        check_selftest(report, host, [saes[layer] for layer in starters])
        check_recorded(report, host, saes, lambda: CudaRecorder(torch.device("cuda")))
        check_rounding(report, host, saes[host.num_layers // 2])
    measure_speed(report, host, saes, QUICK if options.quick else FULL)
    report.finish()


def check_selftest(
    report: Report, host: HostModel, saes: Sequence[SaeBundle], config: EngineConfig | None = None
) -> None:
    """Every check of the selftest, that of recorded steps included."""
    own = sharing_weights(host)
    found = selftest(own, _loaded(own, saes), config or EngineConfig())
    report.add_rows(
        f"Selftest in {found.dtype}",
        [
            {
                "check": name,
                "result": finding.status.value,
                "worst": "" if finding.worst is None else finding.worst,
                "bound": "" if finding.bound is None else finding.bound,
                "remark": finding.remark,
            }
            for name, finding in found.findings.items()
        ],
    )
    report.at_most(f"failed_checks.{found.dtype}", len(found.failed), 0)
    is_recorded = found.findings["graph = eager"].status is Status.PASSED
    report.at_least(f"recorded_steps_checked.{found.dtype}", float(is_recorded), 1)


def check_recorded(
    report: Report, host: HostModel, saes: Sequence[SaeBundle], make_recorder: Callable[[], Recorder]
) -> None:
    """Many requests, each steered otherwise at every layer, in recorded steps, scored in plain ones."""
    dtype = str(host.dtype).removeprefix("torch.")
    layers = range(0, host.num_layers, 4)
    probes = [
        Probe(f"request-{number}", tuple(token_ids(host, (FIRST, SECOND)[number % 2], 8 + number)), (), edits)
        for number, edits in enumerate(configurations(saes, layers, REQUESTS))
    ]
    config = engine_config(host, [probe.prompt_ids for probe in probes], NEW_TOKENS)
    recorder = CountingRecorder(make_recorder())
    recorded = _engine(host, saes, replace(config, cuda_graphs="on"), recorder)
    replayed_in_trial, client = recorder.replayed, EngineClient(recorded, REQUESTS)
    generated = client.generate(probes, NEW_TOKENS)
    recorded.stop()
    replayed = (recorder.replayed - replayed_in_trial) / (NEW_TOKENS - 1)
    plain = _engine(host, saes, replace(config, cuda_graphs="off"), None)
    again = [replace(probe, continuation=got.token_ids) for probe, got in zip(probes, generated, strict=True)]
    scored = EngineClient(plain, REQUESTS).score(again)
    plain.stop()
    found, expected = (torch.cat([got.logprobs for got in answers]) for answers in (generated, scored))
    gaps = found.sub(expected).abs()
    row: dict[str, str | int | float] = {
        "dtype": dtype,
        "tokens": len(gaps),
        "largest gap": float(gaps.max()),
        "median": float(gaps.median()),
    }
    report.add_rows("Recorded steps against plain ones", [row | {"share of steps replayed": replayed}])
    gap = gaps.max() if host.dtype.itemsize > 2 else gaps.median()
    report.at_most(f"recorded_gap.{dtype}", float(gap), GAP_BOUND[host.dtype])
    report.at_least(f"replayed_share.{dtype}", replayed, REPLAYED_BOUND)


def check_rounding(report: Report, host: HostModel, sae: SaeBundle) -> None:
    """What leaves a hook point where features are edited, against float64 rounded to the host's dtype."""
    own = sharing_weights(host)
    saes, name = _loaded(own, [sae]), sae.metadata.name
    point = HookPoint.parse(sae.metadata.hook_point)
    ids = token_ids(own, FIRST, 32)
    before = own.activations(torch.tensor([ids]), None, [point])[point][0]
    strength = float(before.float().norm(dim=-1).median()) / 4
    operations: dict[int, Operation] = {1: Add(strength), 3: Set(strength), 5: Ablate()}
    edits = tuple(
        Intervention(target=FeatureRef(name, index), operation=operation)
        for index, operation in operations.items()
    )
    planner = StepPlanner(own, saes, 0)
    wishes = planner.resolve(prompt_ids=ids, steering=Steering(interventions=edits))
    planner.plan([RowSpan("a", 0, 0, ids)], {"a": wishes})
    after = own.activations(torch.tensor([ids]), None, [point])[point][0]
    planner.close()
    exact_sae = saes.get(name).sae.to(dtype=torch.float64)
    x = before.double()
    z = exact_sae.encode(x)
    amounts = torch.stack([torch.full_like(z[:, 1], strength), strength - z[:, 3], -z[:, 5]], dim=1)
    exact = x + amounts @ exact_sae.W_dec[[1, 3, 5]]
    is_special = torch.tensor([id_ in own.special_token_ids for id_ in ids], device=x.device)
    exact[is_special] = x[is_special]
    share = float((after == exact.to(after.dtype)).float().mean())
    worst = float(((after.double() - exact).norm(dim=-1) / exact.norm(dim=-1)).max())
    dtype = str(host.dtype).removeprefix("torch.")
    row: Row = {"dtype": dtype, "numbers": after.numel(), "share as rounded once": share, "worst row": worst}
    report.add_rows("Edited rows against float64 arithmetic", [row])
    if host.dtype.itemsize <= 2:
        report.at_least(f"rounded_once.{dtype}", share, ROUNDED_BOUND)


def measure_speed(report: Report, host: HostModel, saes: Sequence[SaeBundle], sizes: Sizes) -> None:
    """Recorded steps against plain ones, then what is asked of recorded ones."""
    bench = Bench(host, saes, sizes)
    systems = {
        "recorded": bench.engine(Ask()),
        "not recorded": bench.engine(Ask(), cuda_graphs="off"),
        "generate": PacedGenerate(sharing_weights(host)),
    }
    seconds = bench.run(systems)
    rows: list[Row] = [
        {
            "system": name,
            "ms a step": 1000 * median(seconds[name]),
            "recorded is faster by": ratio(seconds, "recorded", name),
        }
        for name in systems
    ]
    report.add_rows(f"Nothing steered or watched, {sizes.batch} requests", rows)
    report.at_least("recorded_over_not_recorded", ratio(seconds, "recorded", "not recorded"), 1.0)
    for count in sizes.layers:
        measure_steering(report, bench, bench.layers(count))


def _engine(
    host: HostModel, saes: Sequence[SaeBundle], config: EngineConfig, recorder: Recorder | None
) -> Engine:
    own = sharing_weights(host)
    engine = Engine(own, _loaded(own, saes), config, _Silent(), recorder=recorder)
    engine.start()
    return engine


class _Silent:
    """An observer that has nobody to tell."""

    def step_finished(self, report: StepReport) -> None: ...

    def request_finished(self, request: GenerationRequest, event: LastEvent) -> None: ...

    def first_token(self, request: GenerationRequest, seconds: float) -> None: ...


def _loaded(host: HostModel, saes: Sequence[SaeBundle]) -> LoadedSaes:
    loaded = LoadedSaes(host)
    for bundle in saes:
        loaded.add(bundle.metadata.name, bundle)
    return loaded


if __name__ == "__main__":
    main()
