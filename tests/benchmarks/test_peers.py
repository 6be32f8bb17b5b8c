"""Who serves what in the comparison with other tools, and that all serve the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.generation_systems import sharing_weights
from benchmarks.peers import EXPERT, REFERENCE, TOOLS, agreement, measure, until
from benchmarks.steerd_serving import EngineInProcess, Served
from benchmarks.steered_requests import LONGEST, NUM_REQUESTS, SHORTEST, steered_job
from benchmarks.steering_peers.hand_batched import HandBatched
from benchmarks.steering_peers.job import Job, SteeredRequest, read_job
from benchmarks.steering_peers.transformers_hook import TransformersHook
from steerd.host.host_model import HostModel
from steerd.sae.sae_file import load_sae, save_sae
from steerd.starters import sae_folder
from tests.tiny_saes import tiny_sae

REQUESTS = [
    SteeredRequest(prompt_ids=list(range(40, 45)), feature=3, strength=4.0),
    SteeredRequest(prompt_ids=list(range(60, 69)), feature=9, strength=-3.0),
    SteeredRequest(prompt_ids=list(range(60, 69)), feature=9, strength=5.0),
]


@pytest.fixture
def job(tiny_host: HostModel, tmp_path: Path) -> Job:
    tiny_host.model.save_pretrained(tmp_path / "host")
    tiny_host.tokenizer.save_pretrained(tmp_path / "host")
    save_sae(tmp_path / "sae", tiny_sae(tiny_host, "blocks.1.hook_resid_post"))
    return Job(
        host_folder=str(tmp_path / "host"),
        sae_folder=str(tmp_path / "sae"),
        layer=1,
        num_new=6,
        threads=1,
        requests=REQUESTS,
    )


def test_a_job_survives_the_way_to_a_tool(job: Job) -> None:
    assert read_job(json.loads(json.dumps(asdict(job)))) == job


def test_the_engine_a_hook_and_a_batch_by_hand_give_the_same_tokens(tiny_host: HostModel, job: Job) -> None:
    engine = EngineInProcess(sharing_weights(tiny_host), load_sae(Path(job.sae_folder)), job)
    _, ours = engine.generate([0, 1, 2])
    engine.close()

    by_hook = TransformersHook(job).generate([0, 1, 2])

    assert ours == by_hook
    assert HandBatched(job).generate([2, 0]) == [by_hook[2], by_hook[0]]
    assert by_hook[1] != by_hook[2]  # the same prompt, steered otherwise


class Fixed:
    """Takes a second for each request, and notes whom it served."""

    def __init__(self) -> None:
        self.served: list[list[int]] = []

    def generate(self, numbers: Sequence[int]) -> Served:
        self.served.append(list(numbers))
        return float(len(numbers)), [[number] for number in numbers]


def test_a_tool_that_serves_one_by_one_serves_each_request_once() -> None:
    systems = {name: Fixed() for name in ("steerd", REFERENCE, EXPERT)}

    outcomes = measure(systems, num_requests=6, rounds=3)

    assert systems[REFERENCE].served[1:] == [[0, 3], [1, 4], [2, 5]]  # after a first call of one
    assert systems[EXPERT].served[1:] == systems["steerd"].served[1:] == [list(range(6))] * 3
    assert all(outcome.seconds == [6.0] * 3 for outcome in outcomes.values())
    assert all(sorted(outcome.token_ids) == list(range(6)) for outcome in outcomes.values())


def test_texts_end_with_the_token_that_ends_them() -> None:
    assert until(2, [5, 2, 6, 2]) == [5, 2]
    assert until(2, [5, 6]) == [5, 6]


def test_agreement_names_the_first_difference() -> None:
    expected = {0: [1, 2, 3], 1: [4, 5, 6], 2: [7, 8, 9]}

    assert agreement(expected, expected) == (3, "")
    assert agreement(expected | {1: [4, 0, 6], 2: [0, 8, 9]}, expected) == (1, "request 1, new token 1")
    assert agreement(expected | {2: [7, 8]}, expected) == (2, "request 2, new token 2")


def test_every_tool_has_a_script() -> None:
    folder = Path(__file__).parents[2] / "benchmarks" / "steering_peers"

    assert all((folder / f"{tool.script}.py").is_file() for tool in TOOLS.values())


@pytest.mark.real_host
def test_sixteen_different_requests_of_the_sizes_promised(real_host: HostModel) -> None:
    folder = sae_folder("starter-14")
    job = steered_job(real_host, folder, load_sae(folder), folder, num_new=1, threads=1)

    assert len(job.requests) == NUM_REQUESTS
    assert len({request.feature for request in job.requests}) == NUM_REQUESTS
    assert len({tuple(request.prompt_ids) for request in job.requests}) == NUM_REQUESTS
    assert all(SHORTEST <= len(request.prompt_ids) <= LONGEST for request in job.requests)
    assert all(request.strength > 0 for request in job.requests)
    assert job.layer == 14
