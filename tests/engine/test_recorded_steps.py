"""Engines whose decode steps are recorded and replayed: as without, or not at all and then saying why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from steerd.config import EngineConfig
from steerd.engine.engine import Engine
from steerd.engine.request import GenerationRequest
from steerd.errors import ConfigError
from steerd.host.hook_point import HookPoint
from steerd.steering.intervention import Add, Reconstruct, WholeSae
from steerd.steering.steering import Steering
from tests.engine.random_requests import RandomRequests
from tests.engine.recorder import StepLog, run_together, submit
from tests.engine.reference import Reference
from tests.engine.requests import SHORT, edit, greedy_request
from tests.engine.serving import serving, tiny_saes
from tests.engine.tape import TapeRecorder
from tests.engine.test_oracle import LOGPROB_TOLERANCE, assert_same
from tests.engine.test_scored import scoring
from tests.tiny_hosts import make_tiny_host

ROOMY = {"max_batch_tokens": 96, "max_running_requests": 7, "share_prefixes": False, "kv_cache_gib": 0.004}
"""Prompts run at once, so that most steps have one row a request, of 7 with room for 8."""


def steered(request_id: str, strength: float = 3.0, num_new: int = 8) -> GenerationRequest:
    steering = Steering(interventions=(edit("sae-0", 3, Add(strength)),))
    return replace(greedy_request(request_id, SHORT, num_new), steering=steering)


def reconstructed(request_id: str, num_new: int) -> GenerationRequest:
    whole = replace(edit("sae-0", 3, Add(1.0)), target=WholeSae("sae-0"), operation=Reconstruct())
    return replace(greedy_request(request_id, SHORT, num_new), steering=Steering(interventions=(whole,)))


@pytest.mark.parametrize("seed", [1, 2])
def test_random_requests_in_recorded_steps_are_the_reference(seed: int) -> None:
    """Tokens, readings, firings and receipts; the second time with the tables that the first needed."""
    plain_host = make_tiny_host()
    texts = ["Hello there", "a", "The sea, the sea! ", "<|im_start|>user\nHi<|im_end|>\n"]
    prompts = [plain_host.tokenizer(text)["input_ids"] for text in texts]
    points = {f"sae-{layer}": HookPoint(layer, "resid_post") for layer in (0, 1)}
    wanted = RandomRequests(seed, points, d_sae=64, d_model=plain_host.d_model, strength=0.5)
    requests = [wanted.make(f"random-{number}", prompts[number % 4], 10) for number in range(14)]
    requests = [request for request in requests if not any(map(is_whole, request.steering.numbered))]
    saes, tape = tiny_saes(plain_host), TapeRecorder()
    references = [Reference(plain_host, saes, request) for request in requests]

    with serving(recorder=tape, sample_every=5, **ROOMY) as engine:
        tape.replayed = 0  # in the trial
        for first in (0, 1):
            asked = requests[first:]
            for recorder, request, reference in zip(
                run_together(engine, asked), asked, references[first:], strict=True
            ):
                assert_same(recorder, request, reference)
        assert engine.why_no_graphs == ""

    assert tape.replayed > 10


def is_whole(intervention: object) -> bool:
    return isinstance(getattr(intervention, "target", None), WholeSae)


def test_steps_that_a_recording_cannot_hold_run_between_those_that_it_can() -> None:
    """While one request is reconstructed no step is replayed; before and after they are."""
    host = make_tiny_host()
    requests = [steered("long", num_new=14), reconstructed("short", 4), steered("other", -2.0, num_new=14)]
    references = [Reference(host, tiny_saes(host), request) for request in requests]
    tape, log = TapeRecorder(), StepLog()

    with serving(log, recorder=tape, **ROOMY) as engine:
        tape.recorded = tape.replayed = 0  # in the trial
        recorders = run_together(engine, requests)
        along_directions = [step for step in log.steps if "short" not in step.request_ids]

    for recorder, request, reference in zip(recorders, requests, references, strict=True):
        assert_same(recorder, request, reference)
    assert tape.recorded + tape.replayed == len(along_directions) == 10
    assert tape.replayed > 5


def test_scores_and_baselines_come_from_recorded_steps_too() -> None:
    """A continuation whose last token has a step of its own, beside a pair of twins."""
    score = replace(scoring("score", SHORT, list(b"abcdefgh")), steering=steered("x").steering)
    pair = replace(steered("pair"), baseline=True)
    asked = [pair, score]
    with serving(max_batch_tokens=len(SHORT)) as engine:
        expected = run_together(engine, asked)
    tape = TapeRecorder()
    with serving(recorder=tape, max_batch_tokens=len(SHORT), max_running_requests=5) as engine:
        got = run_together(engine, asked)

    assert tape.replayed > 3
    assert got[0].token_ids == expected[0].token_ids
    before, after = (each[0].wait().baseline for each in (expected, got))
    assert before is not None
    assert after is not None
    assert after.first_diverging_position == before.first_diverging_position
    assert after.mean_kl == pytest.approx(before.mean_kl, abs=1e-4)
    torch.testing.assert_close(
        torch.tensor(got[1].scores), torch.tensor(expected[1].scores), atol=LOGPROB_TOLERANCE, rtol=0
    )


class Moody(TapeRecorder):
    """As a test wishes: `deaf`, its recordings do nothing; `tired`, it refuses to record."""

    def __init__(self) -> None:
        super().__init__()
        self.deaf = self.tired = False

    def record(self, forward: Callable[[], None]) -> Callable[[], None]:
        if self.tired:
            raise RuntimeError("tired")
        replay = super().record(forward)
        return (lambda: None) if self.deaf else replay


def test_a_step_whose_hooks_did_not_run_is_an_error_and_no_unsteered_text() -> None:
    tape = Moody()
    with serving(recorder=tape, **ROOMY) as engine:
        tape.deaf = True
        recorder = submit(engine, steered("deaf"))

        with pytest.raises(RuntimeError, match=r"the hook at blocks\.0\.hook_resid_post did not run"):
            recorder.wait()
    assert len(recorder.tokens) == 2  # of the prompt's step and of the one that was recorded


def test_a_recording_that_fails_later_leaves_steps_as_they_are() -> None:
    host, tape = make_tiny_host(), Moody()
    reference = Reference(host, tiny_saes(host), steered("a"))
    with serving(recorder=tape, **ROOMY) as engine:
        assert engine.why_no_graphs == ""
        tape.tired = True
        assert_same(run_together(engine, [steered("a")])[0], steered("a"), reference)
        assert engine.why_no_graphs == "recording a step failed: tired"
        assert_same(run_together(engine, [steered("a")])[0], steered("a"), reference)


@pytest.mark.parametrize(
    ("setting", "architecture", "refuses", "why_not"),
    [
        ("off", "llama", False, "engine.cuda_graphs is off"),
        ("auto", "gemma2", False, "sliding-window layers"),
        ("on", "gemma2", False, "sliding-window layers"),
        ("auto", "llama", True, "recording a step failed: no tape"),
        ("on", "llama", True, "recording a step failed: no tape"),
    ],
)
def test_where_steps_are_not_recorded_the_reason_is_told(
    setting: str, architecture: str, refuses: bool, why_not: str
) -> None:
    host, tape = make_tiny_host(architecture), TapeRecorder(refuses=refuses)
    config = EngineConfig(kv_cache_gib=0.002, cuda_graphs=setting)
    if setting == "on":
        with pytest.raises(ConfigError, match=f"engine.cuda_graphs is on, but .*{why_not}"):
            Engine(host, tiny_saes(host), config, StepLog(), recorder=tape)
        return

    with serving(host=host, recorder=tape, cuda_graphs=setting) as engine:
        assert why_not in engine.why_no_graphs
        assert len(run_together(engine, [steered("a")])[0].token_ids) == 8
    assert (tape.recorded, tape.replayed) == (0, 0)


def test_on_a_cpu_nothing_is_recorded() -> None:
    with serving() as engine:
        assert engine.why_no_graphs == "the host is on cpu, and only CUDA devices record steps"
    host = make_tiny_host()
    with pytest.raises(ConfigError, match="the host is on cpu"):
        Engine(host, tiny_saes(host), EngineConfig(cuda_graphs="on"), StepLog())
