"""Triggers: when they fire, what ends, what goes on, and in which order it is told."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from torch import Tensor

from steerd.engine.events import BaselineEvent, DivergenceEvent, FiredEvent, Firing, TokenEvent
from steerd.engine.request import Capture, FinishReason, GenerationRequest
from steerd.errors import InvalidRequest
from steerd.host.host_model import HostModel
from steerd.steering.intervention import Add, Condition, FeatureRef, FeatureTest
from steerd.steering.receipt import SwitchReceipt, TriggerReceipt
from steerd.steering.scope import Phase, Schedule
from steerd.steering.steering import Steering
from steerd.steering.trigger import Flag, Stop, Switch, Trigger
from tests.engine.recorder import Recorder, StepLog, run_together, submit
from tests.engine.reference import Reference
from tests.engine.requests import SHORT, edit, greedy_request
from tests.engine.serving import assert_nothing_is_left, serving, tiny_saes
from tests.tiny_hosts import make_tiny_host

LENGTH = len(SHORT)
NUM_NEW = 9
FEATURE = FeatureRef("sae-1", 58)


@pytest.fixture(scope="module")
def plain_host() -> HostModel:
    return make_tiny_host()


@pytest.fixture(scope="module")
def acts(plain_host: HostModel) -> Tensor:
    """What the feature is on each row of the unsteered text."""
    reference = Reference(plain_host, tiny_saes(plain_host), greedy_request("plain", SHORT, NUM_NEW))
    found: Tensor = reference.acts["sae-1"][:, FEATURE.index]
    return found


def above(threshold: float, feature: FeatureRef = FEATURE, release_below: float | None = None) -> Condition:
    release = threshold if release_below is None else release_below
    return Condition(((FeatureTest(target=feature, above=threshold, release_below=release),),))


def first_on(acts: Tensor, positions: range) -> tuple[float, int]:
    """A threshold that some of these positions pass, and no ordinary one before; the first that does."""
    before = float(acts[1 : positions.start].max()) if positions.start > 1 else 0.0
    passing = [position for position in positions if acts[position] > before + 1e-3]
    assert passing, "the text has no such position"
    return before + 5e-4, passing[0]


def asking(*triggers: Trigger, **options: object) -> GenerationRequest:
    request = greedy_request("request", SHORT, NUM_NEW, capture=Capture(watch=(FEATURE,)))
    return replace(request, steering=Steering(triggers=triggers), **options)  # type: ignore[arg-type]


def test_a_stop_ends_the_text_with_the_token_it_fired_on(acts: Tensor) -> None:
    log = StepLog()
    threshold, position = first_on(acts, range(LENGTH, LENGTH + NUM_NEW - 2))
    with serving(log) as engine:
        plain, stopped = run_together(
            engine,
            [
                greedy_request("plain", SHORT, NUM_NEW),
                asking(Trigger("end", above(threshold), Stop()), Trigger("late", above(inf), Flag())),
            ],
        )
        assert_nothing_is_left(engine, log)

    kept = position - LENGTH + 1
    assert stopped.token_ids == plain.token_ids[:kept]
    assert stopped.fired == [Firing("end", position)]
    finished = stopped.wait()
    assert (finished.reason, finished.generated_tokens) == (FinishReason.FEATURE, kept)
    made = sum(step.generated_tokens for step in log.steps)
    assert made == NUM_NEW + kept + 3, "of the two and the last request"


@pytest.mark.parametrize("max_batch_tokens", [3, 5, 64])
def test_a_stop_in_the_prompt_makes_no_token(acts: Tensor, max_batch_tokens: int) -> None:
    threshold, position = first_on(acts, range(1, LENGTH))
    triggers = [Trigger("end", above(threshold), Stop()), Trigger("too", above(threshold), Flag())]
    with serving(max_batch_tokens=max_batch_tokens, max_running_requests=3) as engine:
        recorder = run_together(engine, [asking(*triggers)])[0]

    assert recorder.tokens == []
    assert recorder.fired == [Firing("end", position), Firing("too", position)]
    assert recorder.wait().reason is FinishReason.FEATURE


def test_a_flag_is_told_between_its_token_and_the_next(acts: Tensor) -> None:
    threshold = float(acts[LENGTH:].median())
    with serving() as engine:
        plain, flagged = run_together(
            engine,
            [greedy_request("plain", SHORT, NUM_NEW), asking(Trigger("seen", above(threshold), Flag()))],
        )

    assert flagged.token_ids == plain.token_ids
    assert flagged.wait().reason is plain.wait().reason
    rows = range(1, len(acts))
    expected = [p for p in rows if acts[p] > threshold and (p == 1 or acts[p - 1] <= threshold)]
    assert [event.position for event in flagged.fired] == expected
    told = [event for event in flagged.events if isinstance(event, TokenEvent | FiredEvent)]
    for index, event in enumerate(told):
        if isinstance(event, FiredEvent) and (position := event.firings[0].position) >= LENGTH:
            before, after = told[index - 1], told[index + 1]
            assert isinstance(before, TokenEvent)
            assert isinstance(after, TokenEvent)
            assert (before.position, after.position) == (position, position + 1)
    assert any(event.position >= LENGTH for event in flagged.fired)
    assert flagged.wait().receipt.fired == (TriggerReceipt("seen", "flag", "", len(expected), expected[0]),)
    assert plain.wait().receipt.fired == ()


@pytest.mark.parametrize("max_batch_tokens", [4, 64])
@pytest.mark.parametrize("where", [range(1, LENGTH), range(LENGTH, LENGTH + NUM_NEW - 3)], ids=str)
def test_a_switch_begins_with_the_next_generated_token(
    plain_host: HostModel, acts: Tensor, where: range, max_batch_tokens: int
) -> None:
    """Once: what it fires on later changes nothing, and its schedule begins where it did."""
    threshold, position = first_on(acts, where)
    brought = (
        replace(edit("sae-0", 3, Add(4.0)), schedule=Schedule(ramp=3, at_most=2)),
        replace(edit("sae-1", 9, Add(2.0)), condition=above(0.0, FeatureRef("sae-0", 2), -inf)),
    )
    own = edit("sae-0", 3, Add(0.5), Phase.PROMPT)
    triggers = (
        Trigger("switch", above(threshold), Switch("more", brought)),
        Trigger("again", above(threshold), Switch("none")),
    )
    steering = Steering(interventions=(own,), triggers=triggers)
    request = replace(asking(), steering=steering)
    reference = Reference(plain_host, tiny_saes(plain_host), request)
    alike = replace(request, id="alike", steering=replace(steering, triggers=()))
    with serving(max_batch_tokens=max_batch_tokens, max_running_requests=3) as engine:
        recorder, unswitched = run_together(engine, [request, alike])

    assert recorder.token_ids == reference.token_ids
    assert recorder.logprobs == pytest.approx(reference.logprobs, abs=2e-4)
    assert [(event.trigger, event.position) for event in recorder.fired] == reference.fired
    first_changed = max(position + 1, LENGTH) - LENGTH + 1  # the row after it yields the first other token
    assert recorder.token_ids[:first_changed] == unswitched.token_ids[:first_changed]
    assert recorder.logprobs[first_changed] != pytest.approx(unswitched.logprobs[first_changed], abs=1e-3)
    receipt = recorder.wait().receipt
    assert receipt.switched == SwitchReceipt("more", max(position + 1, LENGTH))
    assert [(part.name, part.action) for part in receipt.fired] == [("switch", "switch"), ("again", "switch")]
    assert unswitched.wait().receipt.switched is None


def test_a_switch_beyond_the_finite_is_the_fault_of_the_request(acts: Tensor) -> None:
    threshold, _ = first_on(acts, range(1, LENGTH))
    overflow = tuple(edit("sae-0", 3, Add(3e38)) for _ in range(8))
    with serving() as engine:
        recorder = submit(engine, asking(Trigger("switch", above(threshold), Switch("x", overflow))))
        with pytest.raises(InvalidRequest, match="no longer finite"):
            recorder.wait()

    assert len(recorder.tokens) == 1


def twin_events(recorder: Recorder) -> tuple[list[int], list[int]]:
    baseline = [event.token.token_id for event in recorder.events if isinstance(event, BaselineEvent)]
    return baseline, [event.position for event in recorder.events if isinstance(event, DivergenceEvent)]


def test_the_baseline_of_a_stopped_request_goes_on(acts: Tensor) -> None:
    threshold, position = first_on(acts, range(LENGTH, LENGTH + NUM_NEW - 2))
    stop = Trigger("end", above(threshold), Stop())
    with serving() as engine:
        plain, both = run_together(
            engine, [greedy_request("plain", SHORT, NUM_NEW), asking(stop, baseline=True)]
        )

    baseline, compared = twin_events(both)
    kept = position - LENGTH + 1
    assert both.token_ids == plain.token_ids[:kept]
    assert baseline == plain.token_ids
    assert compared == list(range(LENGTH, LENGTH + kept)), "positions for which both chose a token"
    finished = both.wait()
    assert finished.reason is FinishReason.FEATURE
    assert finished.baseline is not None
    assert finished.baseline.reason is plain.wait().reason
    assert finished.baseline.generated_tokens == len(plain.token_ids)
