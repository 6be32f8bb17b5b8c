"""Sixteen requests at once, each steered by another feature: steerd against what people use now.

The same prompts, features and strengths for everybody, greedily; only over gRPC does a token end a text.
- transformers with a forward hook, TransformerLens's bridge, SAELens's HookedSAETransformer and nnsight each
  serve a request at a time, as their interventions are the model's, not a request's;
- nnsight with an invoke for each request in one trace batches them, once all are known;
- outside of the target, a batch is padded and hooked by hand.
Rounds are interleaved. In each, steerd and whatever batches serve all requests; a tool that serves them one
by one serves its next share, so that over all rounds it has served each request once, and its share counts
as often as there are rounds. Everybody's tokens are compared with those of transformers and its hook.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Protocol

import torch

from benchmarks.generation_systems import load_endless_host
from benchmarks.line_process import LineProcess, line_process
from benchmarks.report import Report, parser_of, report_for
from benchmarks.steerd_serving import EngineInProcess, Served, serving
from benchmarks.steered_requests import steered_job
from benchmarks.steering_peers.job import Job
from steerd.host.default_host import default_host_folder
from steerd.sae.sae_file import load_sae
from steerd.starters import sae_folder

NAME = "peers"
BOUND = 5.0
ROUNDS = 4
ENGINE, SERVER, REFERENCE, EXPERT = "steerd", "steerd over gRPC", "transformers + hook", "batched by hand"

_PACKAGE = "benchmarks.steering_peers"


@dataclass(frozen=True, slots=True)
class Tool:
    """A script of the peers, and the option that names the Python of its environment; "": this one."""

    script: str
    option: str
    batches: bool = False


TOOLS = {
    REFERENCE: Tool("transformers_hook", ""),
    "TransformerLens": Tool("transformer_lens_bridge", "peer_python"),
    "HookedSAETransformer": Tool("saelens_hooked", "peer_python"),
    "nnsight": Tool("nnsight_one", "nnsight_python"),
    "nnsight, invokes": Tool("nnsight_invokes", "nnsight_python", batches=True),
    EXPERT: Tool("hand_batched", "", batches=True),
}


class Serving(Protocol):
    """Somebody who serves requests of the job, by their numbers."""

    def generate(self, numbers: Sequence[int]) -> Served:
        """Serve these; the seconds that it took, and the new tokens."""


class ToolProcess:
    """A tool in its environment."""

    def __init__(self, process: LineProcess, job: Job) -> None:
        self.versions: dict[str, str] = process.ask({"job": asdict(job)})["versions"]
        self._ask = process.ask

    def generate(self, numbers: Sequence[int]) -> Served:
        """Serve these requests."""
        answer = self._ask({"generate": list(numbers)})
        return float(answer["seconds"]), answer["token_ids"]


@dataclass(slots=True)
class Outcomes:
    """What came of one system: by round the seconds that all requests take, and every request's tokens."""

    seconds: list[float] = field(default_factory=list)
    token_ids: dict[int, list[int]] = field(default_factory=dict)


def main() -> None:
    """Measure, print, write."""
    options = _options()
    report = report_for(NAME, options)
    host, bundle = load_endless_host(), load_sae(options.sae)
    job = steered_job(
        host,
        default_host_folder(),
        bundle,
        options.sae,
        num_new=4 if options.quick else 32,
        threads=torch.get_num_threads(),
    )
    if options.quick:
        job = replace(job, requests=job.requests[:4])
    with ExitStack() as stack:
        engine = EngineInProcess(host, bundle, job)
        stack.callback(engine.close)
        systems: dict[str, Serving] = {ENGINE: engine, SERVER: stack.enter_context(serving(job))}
        tools = start_tools(stack, job, options)
        add_versions(report, tools)
        outcomes = measure({**systems, **tools}, len(job.requests), options.rounds)
    add_results(report, outcomes, host.tokenizer.eos_token_id)
    report.finish()


def start_tools(stack: ExitStack, job: Job, options: argparse.Namespace) -> dict[str, ToolProcess]:
    """A process for each tool whose environment was given."""
    tools = {}
    for name, tool in TOOLS.items():
        python = getattr(options, tool.option) if tool.option else Path(sys.executable)
        if python is None:
            print(f"{name} is left out: --{tool.option.replace('_', '-')} was not given")
            continue
        command = [str(python), "-m", f"{_PACKAGE}.{tool.script}"]
        tools[name] = ToolProcess(stack.enter_context(line_process(command, threads=job.threads)), job)
    return tools


def add_versions(report: Report, tools: Mapping[str, ToolProcess]) -> None:
    """One row a tool and package, as their environments differ."""
    for name, tool in tools.items():
        for package, version in tool.versions.items():
            report.add_rows("Versions", [{"tool": name, "package": package, "version": version}])


def measure(systems: Mapping[str, Serving], num_requests: int, rounds: int) -> dict[str, Outcomes]:
    """All systems in turn, every round beginning with another one."""
    outcomes = {name: Outcomes() for name in systems}
    names = list(systems)
    everybody = range(num_requests)
    for system in systems.values():
        system.generate([0])  # the first call of a process allocates
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            one_by_one = name in TOOLS and not TOOLS[name].batches
            numbers = everybody[number::rounds] if one_by_one else everybody
            seconds, token_ids = systems[name].generate(numbers)
            outcomes[name].seconds.append(seconds * num_requests / len(numbers))
            outcomes[name].token_ids.update(zip(numbers, token_ids, strict=True))
    return outcomes


def add_results(report: Report, outcomes: Mapping[str, Outcomes], end_of_text: int) -> None:
    """One row a system, and the targets; over gRPC the id ends a text."""
    expected = outcomes[REFERENCE].token_ids
    ended = {number: until(end_of_text, token_ids) for number, token_ids in expected.items()}
    agreements = {
        name: agreement(outcome.token_ids, ended if name == SERVER else expected)
        for name, outcome in outcomes.items()
    }
    for name, outcome in outcomes.items():
        equal, difference = agreements[name]
        row = {
            "system": name,
            "served": "all at once" if name not in TOOLS or TOOLS[name].batches else "one by one",
            "seconds": median(outcome.seconds),
            "lowest": min(outcome.seconds),
            "highest": max(outcome.seconds),
            "over steerd's": _ratio(outcome, outcomes[ENGINE]),
            "equal outputs": f"{equal} of {len(expected)}",
            "first difference": difference,
        }
        report.add_rows(f"{len(expected)} steered requests", [row])
    tools = [name for name in TOOLS if name in outcomes and name != EXPERT]
    one_by_one = [name for name in tools if not TOOLS[name].batches]
    for target, names in (("best_one_by_one", one_by_one), ("best_tool", tools)):
        least = min(_ratio(outcomes[name], outcomes[ENGINE]) for name in names)
        report.at_least(f"times_as_fast_as.{target}", least, BOUND)
    for name in (ENGINE, SERVER):
        report.at_least(f"equal_outputs.{name.replace(' ', '_')}", agreements[name][0], len(expected))


def until(end: int, token_ids: Sequence[int]) -> list[int]:
    """The ids up to and with the first that ends them."""
    return list(token_ids[: token_ids.index(end) + 1] if end in token_ids else token_ids)


def agreement(found: Mapping[int, list[int]], expected: Mapping[int, list[int]]) -> tuple[int, str]:
    """How many requests got equal tokens, and where the first that did not went another way."""
    differing = [number for number in sorted(expected) if found[number] != expected[number]]
    if not differing:
        return len(expected), ""
    ours, theirs = found[differing[0]], expected[differing[0]]
    common = [one == other for one, other in zip(ours, theirs, strict=False)]
    place = common.index(False) if False in common else len(common)
    return len(expected) - len(differing), f"request {differing[0]}, new token {place}"


def _ratio(outcome: Outcomes, ours: Outcomes) -> float:
    """How many times as long it took: the median over the rounds."""
    return median(their / our for their, our in zip(outcome.seconds, ours.seconds, strict=True))


def _options() -> argparse.Namespace:
    parser = parser_of("Sixteen differently steered requests in steerd and in the tools people use.")
    add = parser.add_argument
    add("--sae", type=Path, default=sae_folder("starter-14"), help="SAE folder (default: starter-14)")
    add("--peer-python", type=Path, help="Python of an environment that has sae-lens and transformer-lens")
    add("--nnsight-python", type=Path, help="Python of an environment that has nnsight")
    add("--rounds", type=int, default=ROUNDS, help="how often all is measured (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
