"""Other SAEs are served from some step on: requests keep those that they came for, the server's own readings
follow at once."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np
import pytest
import torch

from steerd.config import WatchedFeature
from steerd.engine.request import Capture, GenerationRequest
from steerd.engine.watch_list import load_watch_list
from steerd.host.host_model import HostModel
from steerd.sae.config_file import Architecture
from steerd.steering.intervention import (
    Add,
    Condition,
    FeatureRef,
    FeatureTest,
    Intervention,
    Reconstruct,
    Set,
    WholeSae,
)
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.steering import Steering
from steerd.steering.trigger import Switch, Trigger
from tests.engine.recorder import StepLog, SteppedLog, run_together, submit
from tests.engine.reference import Reference
from tests.engine.requests import LONG, SHORT, edit, greedy_request, mixed_requests
from tests.engine.serving import assert_nothing_is_left, serving, tiny_saes
from tests.engine.test_oracle import assert_same
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae

WATCH = tuple(WatchedFeature(sae="sae-0", index=index, alias=f"f{index}") for index in range(64))


@pytest.fixture(scope="module")
def plain_host() -> HostModel:
    return make_tiny_host()


def other(saes: LoadedSaes, host: HostModel, activation: Architecture = "jumprelu") -> LoadedSaes:
    """The same with another one called sae-0."""
    return saes.reloaded("sae-0", tiny_sae(host, "blocks.0.hook_resid_post", 9, activation=activation))


def of_many_kinds(suffix: str) -> list[GenerationRequest]:
    """Edits of all kinds, readings, a whole SAE, a switch whose edits nobody held before, a baseline."""
    ref = FeatureRef("sae-0", 2)
    seen = Condition(((FeatureTest(target=ref, above=-1.0, release_below=-inf),),))
    switch = Switch("more", (edit("sae-0", 33, Add(4.0)), edit("sae-1", 4, Set(2.0))))
    whole = Intervention(target=WholeSae("sae-0"), operation=Reconstruct())
    active = Condition(((FeatureTest(target=ref, above=0.3, release_below=0.1),),))
    waits = replace(edit("sae-0", 12, Add(3.0)), condition=active)
    capture = Capture(watch=(ref, FeatureRef("sae-1", 8)), top_k=5, top_k_saes=("sae-0", "sae-1"))
    requests = mixed_requests([SHORT, LONG, b"a"], ("sae-0", "sae-1"), strength=0.5, num_new=9)[1::3]
    requests += [
        replace(greedy_request("whole", SHORT, 9, whole), capture=capture),
        replace(greedy_request("waits", LONG[:20], 9, waits), capture=replace(capture, after_edit=True)),
        replace(
            greedy_request("switch", SHORT, 9), steering=Steering(triggers=(Trigger("seen", seen, switch),))
        ),
        replace(greedy_request("twin", SHORT, 9, edit("sae-0", 5, Add(3.0))), baseline=True),
    ]
    return [replace(request, id=f"{request.id}-{suffix}") for request in requests]


@pytest.mark.parametrize("activation", ["jumprelu", "topk"])
def test_each_request_is_served_by_what_it_came_for(plain_host: HostModel, activation: Architecture) -> None:
    """In the middle of prompts, of texts, and in the line: with the numbers of a server that has no other."""
    host, log = make_tiny_host(), SteppedLog()
    saes, plain = tiny_saes(host), tiny_saes(plain_host)
    before, after = of_many_kinds("before"), of_many_kinds("after")
    with serving(log, host=host, saes=saes, max_running_requests=4) as engine:
        recorders = [submit(engine, request) for request in before]
        log.step(9)
        assert engine.waiting > 0
        assert engine.running == 4
        engine.serve(other(saes, host, activation))
        recorders += [submit(engine, request) for request in after]
        log.release()
        for recorder in recorders:
            recorder.wait()
        assert_nothing_is_left(engine, log)

    for requests, served in ((before, plain), (after, other(plain, plain_host, activation))):
        for request in requests:
            reference = Reference(plain_host, served, request)
            recorder = next(r for r in recorders if r.submission.request is request)
            assert_same(recorder, request, reference)
    pairs = zip(recorders[: len(before)], recorders[len(before) :], strict=True)
    assert sum(one.logprobs != other.logprobs for one, other in pairs) > len(before) // 2


def test_prompts_of_one_do_not_feed_those_of_the_other(plain_host: HostModel) -> None:
    host = make_tiny_host()
    saes = tiny_saes(host)
    steered = greedy_request("steered", LONG, 4, edit("sae-0", 3, Add(2.0)))
    elsewhere = greedy_request("elsewhere", LONG, 4, edit("sae-1", 3, Add(2.0)))
    with serving(host=host, saes=saes, share_prefixes=True, kv_cache_gib=0.01) as engine:
        run_together(engine, [steered, elsewhere])
        engine.serve(other(saes, host))
        again = run_together(engine, [steered, elsewhere])

    assert [recorder.wait().cached_prompt_tokens > 0 for recorder in again] == [False, True]
    reference = Reference(plain_host, other(tiny_saes(plain_host), plain_host), steered)
    assert again[0].token_ids == reference.token_ids


def test_the_servers_own_readings_follow(plain_host: HostModel) -> None:
    """Of a request that keeps what it came for."""
    host, log = make_tiny_host(), SteppedLog()
    saes, plain = tiny_saes(host), tiny_saes(plain_host)
    request = greedy_request("r", SHORT, 9, capture=Capture(watch=(FeatureRef("sae-0", 2),)))
    with serving(log, host=host, saes=saes, watch=WATCH, sample_every=1) as engine:
        recorder = submit(engine, request)
        log.step(3)
        steps_before = len(log.steps)
        latter = other(saes, host)
        engine.serve(latter)
        engine.watch(load_watch_list(WATCH, latter))
        log.release()
        recorder.wait()

    assert_same(recorder, request, Reference(plain_host, plain, request))
    former_acts, latter_acts = (
        Reference(plain_host, served, request).acts["sae-0"] for served in (plain, other(plain, plain_host))
    )
    for number, step in enumerate(log.steps):
        acts = former_acts if number < steps_before else latter_acts
        positions = int(step.first_positions[0]) + np.arange(len(SHORT) if number == 0 else 1)
        rows = acts[positions] * torch.tensor(positions > 0).unsqueeze(1)
        for found in (step.watched.active, step.sampled["sae-0"].active):
            read = torch.zeros_like(rows)
            read[found.rows, found.features] = torch.from_numpy(found.values)
            torch.testing.assert_close(read, rows, atol=1e-3, rtol=0)
    assert not torch.allclose(former_acts, latter_acts, atol=0.1)


def test_what_is_served_without_requests_is_served_to_the_next() -> None:
    host = make_tiny_host()
    saes = tiny_saes(host)
    with serving(StepLog(), host=host, saes=saes) as engine:
        engine.serve(other(saes, host))
        recorder = run_together(engine, [greedy_request("r", SHORT, 5, edit("sae-0", 3, Add(9.0)))])[0]
        former = run_together(engine, [greedy_request("s", SHORT, 5)])[0]

    assert recorder.wait().receipt.interventions[0].rows > 0
    assert recorder.token_ids != former.token_ids
