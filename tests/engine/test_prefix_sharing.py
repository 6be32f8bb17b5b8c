"""Prompts that take over the pages of others: equal steering shares, any other never does, in both orders."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from steerd.engine.engine import Engine
from steerd.engine.request import Capture, GenerationRequest
from steerd.steering.intervention import (
    Ablate,
    Add,
    Condition,
    FeatureRef,
    FeatureTest,
    Intervention,
    Set,
    unit_direction,
)
from steerd.steering.scope import Phase, PositionRange, RoleSpan, Schedule, Scope
from steerd.steering.steering import Steering
from tests.engine.recorder import StepLog, SteppedLog, submit
from tests.engine.requests import LONG, edit, greedy_request
from tests.engine.serving import alone, serving
from tests.tiny_hosts import make_tiny_host

PAGE = 8
SHARED = (len(LONG) - 1) // PAGE * PAGE
"""The most that a request for LONG can take over."""


@pytest.fixture
def engine() -> Iterator[Engine]:
    with serving(share_prefixes=True) as engine:
        yield engine


def add(strength: float = 4.0, scope: Scope | None = None, **options: Any) -> Intervention:
    return replace(edit("sae-0", 3, Add(strength)), scope=scope or Scope(), **options)


def steered(*interventions: Intervention, prompt: Sequence[int] = LONG, **options: Any) -> GenerationRequest:
    return replace(greedy_request("request", prompt, 8, *interventions), **options)


def run(engine: Engine, request: GenerationRequest) -> tuple[list[int], int]:
    """The tokens, and how many of the prompt's were not run."""
    recorder = submit(engine, request)
    cached = recorder.wait().cached_prompt_tokens
    return recorder.token_ids, cached


def cached_after(engine: Engine, first: GenerationRequest, second: GenerationRequest) -> int:
    """How much the second takes over from the first; its text is right whatever that is."""
    run(engine, first)
    token_ids, cached = run(engine, second)
    assert token_ids == alone(make_tiny_host(), second)
    return cached


# All of them do something else to the prompt's first page.
DIFFERENT: list[tuple[Intervention, ...]] = [
    (),
    (add(),),
    (add(4.5),),
    (add(-4.0),),
    (edit("sae-0", 4, Add(4.0)),),
    (edit("sae-1", 3, Add(4.0)),),
    (edit("sae-0", 3, Set(4.0)),),
    (edit("sae-0", 3, Set(4.0, only_if_active=True)),),
    (Intervention(target=unit_direction("blocks.0.hook_resid_post", [1.0] * 32), operation=Ablate()),),
    (Intervention(target=unit_direction("blocks.1.hook_resid_pre", [1.0] * 32), operation=Ablate()),),
    (add(preserve_norm=True),),
    (add(source="policy:careful@1"),),
    (add(2.0), add(2.0)),
    (add(scope=Scope(positions=(PositionRange(2, 5),))),),
    (add(schedule=Schedule(ramp=6)),),
    (add(scope=Scope(positions=(PositionRange(0, 3),))),),
]


def fires(above: float) -> Condition:
    return Condition(((FeatureTest(target=FeatureRef("sae-0", 5), above=above, release_below=above),),))


# These too, and rows have to run for it: a state goes from one to the next.
STATEFUL: list[tuple[Intervention, ...]] = [
    (add(schedule=Schedule(at_most=3)),),
    (add(schedule=Schedule(at_most=4)),),
    (add(condition=fires(0.01)),),
    (add(condition=fires(0.1)),),
    (add(condition=fires(0.01), schedule=Schedule(at_most=3)),),
]


@pytest.mark.parametrize("seed", range(2))
def test_other_steering_never_poisons(seed: int) -> None:
    """In random order, twice: each is right after all the others, and takes over only what it left itself."""
    chance = random.Random(seed)
    every = [*DIFFERENT, *STATEFUL]
    expected = [alone(make_tiny_host(), steered(*each)) for each in every]
    assert len(set(map(tuple, expected))) > len(every) // 2
    with serving(share_prefixes=True, kv_cache_gib=0.01) as engine:
        for taken_over in (0, SHARED):
            for number in chance.sample(range(len(every)), len(every)):
                may_take = every[number] in DIFFERENT
                found = run(engine, steered(*every[number]))
                assert found == (expected[number], taken_over if may_take else 0), every[number]


def test_what_a_stateful_steering_leaves_is_for_its_equals_only(engine: Engine) -> None:
    """Others take its pages over only as far as it had no part in them."""
    late = Scope(positions=(PositionRange(20),))

    assert cached_after(engine, steered(add(condition=fires(0.01), scope=late)), steered()) == 16
    assert cached_after(engine, steered(add(schedule=Schedule(at_most=3))), steered(add())) == 0


def test_other_steering_never_poisons_side_by_side() -> None:
    log = SteppedLog()
    with serving(log, share_prefixes=True, max_running_requests=4, kv_cache_gib=0.01) as engine:
        first = submit(engine, replace(steered(add()), id="first"))
        log.step()  # in the middle of its prompt
        rest = [(), (add(),), (add(4.5),)]
        others = [submit(engine, replace(steered(*each), id=f"{i}")) for i, each in enumerate(rest)]
        log.release()
        cached = [recorder.wait().cached_prompt_tokens for recorder in (first, *others)]

        assert cached == [0, 0, 32, 0]
        for recorder, each in zip((first, *others), ((add(),), *rest), strict=True):
            assert recorder.token_ids == alone(make_tiny_host(), steered(*each))


@pytest.mark.parametrize(
    "scope",
    [
        Scope(include_special_tokens=True),
        Scope(positions=(PositionRange(0),)),
        Scope(positions=(PositionRange(0, 20), PositionRange(10, 500))),
        Scope(phase=Phase.PROMPT),
        Scope(phase=Phase.PROMPT, first_n=500),
        Scope(token_ids=frozenset(LONG)),
        Scope(excluded_token_ids=frozenset({1})),
        Scope(roles=("user",)),
    ],
)
def test_equal_steering_of_the_prompt_shares_however_it_is_worded(engine: Engine, scope: Scope) -> None:
    roles = (RoleSpan("user", 0, len(LONG)),)
    everywhere = steered(add())
    worded = steered(steering=Steering(interventions=(add(scope=scope),), roles=roles))

    assert cached_after(engine, everywhere, worded) == SHARED
    assert cached_after(engine, worded, everywhere) == SHARED


def test_steering_of_generated_tokens_shares_with_none(engine: Engine) -> None:
    generated = steered(add(scope=Scope(phase=Phase.GENERATED)))

    assert cached_after(engine, steered(), generated) == SHARED
    assert cached_after(engine, generated, steered()) == SHARED


@pytest.mark.parametrize("start", [0, 7, 8, 15, 16, 30, len(LONG)])
def test_pages_before_the_first_difference_are_shared(engine: Engine, start: int) -> None:
    late = steered(add(scope=Scope(positions=(PositionRange(start),))))

    assert cached_after(engine, steered(), late) == min(start // PAGE * PAGE, SHARED)


def test_prompts_share_what_they_begin_with(engine: Engine) -> None:
    other = [*LONG[:29], *reversed(LONG)]

    assert cached_after(engine, steered(), steered(prompt=other)) == 24
    assert cached_after(engine, steered(), steered(prompt=LONG[1:])) == 0


@pytest.mark.parametrize("length", [1, PAGE, PAGE + 1, 2 * PAGE])
def test_the_last_token_of_a_prompt_always_runs(engine: Engine, length: int) -> None:
    prompt = LONG[:length]

    assert cached_after(engine, steered(prompt=prompt), steered(prompt=prompt)) == (length - 1) // PAGE * PAGE


WATCHED = (FeatureRef("sae-0", 3),)


@pytest.mark.parametrize(
    "capture", [Capture(watch=WATCHED), Capture(top_k=2, top_k_saes=("sae-1",)), Capture(include_prompt=True)]
)
def test_a_request_that_reads_runs_all_of_its_prompt_and_leaves_it_to_others(
    engine: Engine, capture: Capture
) -> None:
    reading = steered(add(), capture=capture)

    assert cached_after(engine, steered(add()), reading) == 0
    assert cached_after(engine, reading, steered(add())) == SHARED


def test_a_scored_text_takes_over_its_prompt_and_offers_nothing_of_its_continuation(engine: Engine) -> None:
    prompt, continuation = LONG[:20], LONG[20:45]
    generated = add(scope=Scope(phase=Phase.GENERATED))
    scoring = steered(generated, prompt=prompt, continuation=continuation)
    fresh = submit(engine, scoring)
    assert fresh.wait().cached_prompt_tokens == 0
    again = submit(engine, scoring)
    assert again.wait().cached_prompt_tokens == 16

    assert again.scores == pytest.approx(fresh.scores, abs=1e-4)
    assert len(again.scores) == len(continuation)
    assert cached_after(engine, scoring, steered(generated)) == 16


def test_what_is_read_of_a_scored_text_hinders_sharing_only_where_it_is_the_prompt(engine: Engine) -> None:
    reading = steered(add(), prompt=LONG[:20], continuation=LONG[20:45], capture=Capture(watch=WATCHED))
    fresh = submit(engine, reading)
    assert fresh.wait().cached_prompt_tokens == 0
    again = submit(engine, reading)
    assert again.wait().cached_prompt_tokens == 16

    assert [each.position for each in again.readings] == [each.position for each in fresh.readings]
    values = [each.values[0] for each in again.readings]
    assert values == pytest.approx([each.values[0] for each in fresh.readings], abs=1e-4)
    assert max(values) > 0
    with_prompt = replace(reading, capture=Capture(watch=WATCHED, include_prompt=True))
    assert submit(engine, with_prompt).wait().cached_prompt_tokens == 0


def test_a_baseline_takes_over_what_unsteered_requests_left(engine: Engine) -> None:
    run(engine, steered())
    recorder = submit(engine, steered(add(), baseline=True))
    finished = recorder.wait()

    assert finished.cached_prompt_tokens == 0
    assert finished.baseline is not None
    assert finished.baseline.cached_prompt_tokens == SHARED
    assert recorder.token_ids == alone(make_tiny_host(), steered(add()))


def test_rows_that_are_taken_over_do_not_run_and_leave_no_summary() -> None:
    log = StepLog()
    with serving(log, share_prefixes=True) as engine:
        run(engine, steered(add()))
        before = sum(step.prompt_tokens for step in log.steps)
        recorder = submit(engine, steered(add()))
        finished = recorder.wait()
        engine.drain(60)

    assert sum(step.prompt_tokens for step in log.steps) - before == len(LONG) - SHARED
    assert finished.prompt_tokens == len(LONG)
    assert finished.features[0].steered_tokens == len(LONG) - SHARED + finished.generated_tokens - 1


def test_nothing_is_shared_when_it_is_switched_off() -> None:
    with serving(share_prefixes=False) as engine:
        assert engine.why_no_sharing == "engine.share_prefixes is off"
        assert cached_after(engine, steered(), steered()) == 0


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3", "mistral"])
def test_hosts_with_windows_share_nothing_and_say_so(architecture: str) -> None:
    host = make_tiny_host(architecture)
    with serving(host=host, share_prefixes=True) as engine:
        assert engine.why_no_sharing == "sliding-window layers"
        assert run(engine, steered())[1] == run(engine, steered())[1] == 0


def test_a_host_of_full_attention_shares(engine: Engine) -> None:
    assert engine.why_no_sharing == ""
