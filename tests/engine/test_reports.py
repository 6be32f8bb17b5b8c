"""What the engine tells of a run, in streams and in reports, against a plain computation of all of it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import replace
from math import ceil

import numpy as np
import pytest
import torch
from torch import Tensor

from steerd.config import WatchedFeature
from steerd.engine.events import FinishedEvent, PromptEvent, StepReport, TokenEvent
from steerd.engine.request import Capture, GenerationRequest
from steerd.steering.intervention import (
    Ablate,
    Add,
    FeatureRef,
    Intervention,
    unit_direction,
)
from steerd.steering.scope import Phase
from tests.engine.recorder import Recorder, StepLog, SteppedLog, run_together, submit
from tests.engine.reference import Reference
from tests.engine.requests import SHORT, edit, greedy_request, mixed_requests
from tests.engine.serving import serving, tiny_saes
from tests.tiny_hosts import make_tiny_host

# float32 against float32, rows summed in another order.
TOLERANCE = 1e-4

WATCH = (
    WatchedFeature(sae="sae-1", index=6, alias="six", threshold=0.4),
    WatchedFeature(sae="sae-0", index=3, alias="three", threshold=0.0),
    WatchedFeature(sae="sae-1", index=40, alias="forty", threshold=1.0),
)


class Run:
    """Ten requests together in small chunks, watched and sampled, and each of them alone by `generate`."""

    def __init__(self) -> None:
        self.host = make_tiny_host()
        texts = ["Hello there", "a", "The sea, the sea! " * 3, "<|im_start|>user\nHi<|im_end|>\n"]
        prompts = [self.host.tokenizer(text)["input_ids"] for text in texts]
        self.requests = mixed_requests(prompts, ("sae-0", "sae-1"), strength=0.5, num_new=10)
        saes = tiny_saes(self.host)
        self.references = [Reference(self.host, saes, request) for request in self.requests]
        self.log = StepLog()
        with serving(self.log, watch=WATCH, sample_every=1) as engine:
            self.recorders = run_together(engine, self.requests)

    def rows(self, number: int) -> list[int]:
        """The ids of the rows that a request ran: all its tokens but the last, which is never fed back."""
        return [*self.requests[number].prompt_ids, *self.references[number].token_ids[:-1]]

    def ordinary(self, number: int) -> list[int]:
        """The positions of its rows that are neither special tokens nor the first of all."""
        return [position for position in self.unspecial(number) if position > 0]

    def unspecial(self, number: int) -> list[int]:
        """The positions of its rows that are no special tokens."""
        special = self.host.special_token_ids
        return [position for position, token_id in enumerate(self.rows(number)) if token_id not in special]

    def all_acts(self, sae: str) -> Tensor:
        """Activations of all ordinary rows of all requests [rows, d_sae]."""
        return torch.cat(
            [reference.acts[sae][self.ordinary(n)] for n, reference in enumerate(self.references)]
        )

    def covered(self, number: int, intervention: Intervention) -> set[int]:
        """The positions that an intervention of a request edits."""
        scope, prompt_length = intervention.scope, len(self.requests[number].prompt_ids)
        positions = range(len(self.rows(number)))
        if not scope.include_special_tokens:
            positions = self.unspecial(number)
        if scope.phase is Phase.PROMPT:
            return {position for position in positions if position < prompt_length}
        if scope.phase is Phase.GENERATED:
            return {position for position in positions if position >= prompt_length}
        return set(positions)


@pytest.fixture(scope="module")
def run() -> Run:
    return Run()


def active_features(step: StepReport, sae: str) -> list[int]:
    return step.sampled[sae].active_features.tolist() if sae in step.sampled else []


def total(log: StepLog, name: str) -> int:
    return sum(getattr(step, name) for step in log.steps)


def test_tokens_are_those_of_the_requests(run: Run) -> None:
    assert [recorder.token_ids for recorder in run.recorders] == [r.token_ids for r in run.references]
    assert total(run.log, "prompt_tokens") == sum(len(request.prompt_ids) for request in run.requests)
    assert total(run.log, "generated_tokens") == sum(len(recorder.tokens) for recorder in run.recorders)
    for request, recorder in zip(run.requests, run.recorders, strict=True):
        finished = recorder.wait()
        assert finished.prompt_tokens == len(request.prompt_ids)
        assert finished.generated_tokens == len(recorder.tokens)


def test_each_step_is_plausible(run: Run) -> None:
    chunks = ceil(sum(len(request.prompt_ids) for request in run.requests) / 16)
    assert len(run.log.steps) >= chunks
    for step in run.log.steps:
        assert step.duration_seconds >= 0
        assert 1 <= step.batch_size <= 10
        assert step.prompt_tokens <= 16
        assert step.generated_tokens <= step.batch_size
        assert step.running + step.waiting <= 10
        assert 0 <= step.kv_used_bytes <= step.kv_total_bytes
        assert (step.kv_used_bytes == 0) == (step.running == 0)
    assert run.log.steps[-1].running == run.log.steps[-1].kv_used_bytes == 0


def test_every_ordinary_row_is_monitored(run: Run) -> None:
    ordinary = sum(len(run.ordinary(number)) for number in range(len(run.requests)))
    for sae in ("sae-0", "sae-1"):
        assert sum(step.monitored_tokens[sae] for step in run.log.steps) == ordinary


def test_sampled_rows_have_the_number_of_active_features(run: Run) -> None:
    """With every row sampled: the same numbers, in whatever order the rows were run."""
    for sae in ("sae-0", "sae-1"):
        counts = Counter(count for step in run.log.steps for count in active_features(step, sae))
        expected = Counter((run.all_acts(sae) > 0).sum(dim=-1).tolist())
        # A pre-activation on the very edge of its threshold may fall on the other side.
        assert (counts - expected).total() <= 2
        assert counts.total() == expected.total()


def test_sampled_rows_have_the_variance_that_is_left(run: Run) -> None:
    """Against the mean of the rows so far the order of rows matters; far away from it hardly."""
    for sae in ("sae-0", "sae-1"):
        shares = [float(share) for step in run.log.steps for share in step.sampled[sae].unexplained]
        assert len(shares) == sum(len(run.ordinary(number)) for number in range(len(run.requests)))
        assert all(0 < share < 1e3 for share in shares)


def test_rows_belong_to_the_requests_that_are_named(run: Run) -> None:
    for step in run.log.steps:
        assert len(step.request_ids) == len(step.first_rows) == step.batch_size
        assert step.first_rows.tolist() == sorted(set(step.first_rows.tolist()))
        assert 0 < step.steering_seconds < step.duration_seconds
    assert {name for step in run.log.steps for name in step.request_ids} == {r.id for r in run.requests}


def test_new_tokens_are_told_by_request(run: Run) -> None:
    for request, reference in zip(run.requests, run.references, strict=True):
        told = [step.new_tokens[request.id] for step in run.log.steps if request.id in step.new_tokens]
        assert told == reference.token_ids


def test_rows_lie_at_the_positions_that_are_told(run: Run) -> None:
    """Prompts in chunks and generated tokens: each reading is that of its request and position."""
    numbers = {request.id: number for number, request in enumerate(run.requests)}
    positions = Counter[int]()
    for step in run.log.steps:
        active = step.watched.active
        assert (np.diff(active.rows) >= 0).all()
        for row, feature, value in zip(active.rows, active.features, active.values, strict=True):
            owner = bisect_right(step.first_rows.tolist(), row) - 1
            position = int(step.first_positions[owner] + row - step.first_rows[owner])
            watched = step.watched.watch.features[feature]
            acts = run.references[numbers[step.request_ids[owner]]].acts[watched.sae]
            assert float(value) == pytest.approx(float(acts[position, watched.index]), abs=TOLERANCE)
            positions[position] += 1
    assert len(positions) > 20


def test_watched_features_are_counted_on_every_ordinary_row(run: Run) -> None:
    for watched in WATCH:
        acts = run.all_acts(watched.sae)[:, watched.index]
        values = [
            float(value)
            for step in run.log.steps
            for feature, value in zip(step.watched.active.features, step.watched.active.values, strict=True)
            if step.watched.watch.features[feature] == watched
        ]
        assert len(values) == int((acts > 0).sum()) > 0
        assert sorted(values) == pytest.approx(sorted(acts[acts > 0].tolist()), abs=TOLERANCE)
    forty = run.all_acts("sae-1")[:, 40]
    assert 0 < (forty > 1.0).sum() < (forty > 0).sum(), "the threshold is put to the test"


def test_receipts_are_of_the_rows_in_scope(run: Run) -> None:
    for number, (request, recorder) in enumerate(zip(run.requests, run.recorders, strict=True)):
        interventions, receipt = request.steering.interventions, recorder.wait().receipt
        rows = [len(run.covered(number, intervention)) for intervention in interventions]
        assert [part.rows for part in receipt.interventions] == rows


def test_feature_use_is_that_of_all_rows_run(run: Run) -> None:
    checked = 0
    for number, (request, recorder) in enumerate(zip(run.requests, run.recorders, strict=True)):
        wanted = list(request.capture.watch)
        wanted += [i.target for i in request.steering.interventions if i.target not in wanted]
        uses = {use.feature: use for use in recorder.wait().features}
        assert uses.keys() == set(wanted)
        for feature, use in uses.items():
            acts = run.references[number].acts[feature.sae][run.ordinary(number), feature.index]
            covered = [run.covered(number, i) for i in request.steering.interventions if i.target == feature]
            assert use.max_activation == pytest.approx(float(acts.max()), abs=TOLERANCE)
            assert use.mean_activation == pytest.approx(float(acts.mean()), abs=TOLERANCE)
            assert use.active_tokens == int((acts > 0).sum())
            assert use.steered_tokens == len(set().union(*covered))
            checked += 1
    assert checked > 20


def test_readings_are_complete_and_in_order(run: Run) -> None:
    """Of the SAEs asked for: each prompt row if wanted, then the row of each token with the token."""
    for request, recorder in zip(run.requests, run.recorders, strict=True):
        prompt_length = len(request.prompt_ids)
        saes = sorted({ref.sae for ref in request.capture.watch} | set(request.capture.top_k_saes))
        prompt = [event for event in recorder.events if isinstance(event, PromptEvent)]
        first_token = next(n for n, event in enumerate(recorder.events) if isinstance(event, TokenEvent))
        assert all(recorder.events.index(event) < first_token for event in prompt)
        wanted = [(position, sae) for position in range(prompt_length - 1) for sae in saes]
        got = [(reading.position, reading.sae) for event in prompt for reading in event.readings]
        assert got == (wanted if request.capture.include_prompt else [])
        for token in recorder.tokens:
            assert [(r.position, r.sae) for r in token.readings] == [
                (token.position - 1, sae) for sae in saes
            ]


def test_readings_are_the_watched_features_then_the_strongest_others(run: Run) -> None:
    checked = 0
    for request, recorder, reference in zip(run.requests, run.recorders, run.references, strict=True):
        capture = request.capture
        for reading in recorder.readings:
            acts = reference.acts[reading.sae][reading.position]
            watched = [ref.index for ref in capture.watch if ref.sae == reading.sae]
            found = list(reading.features)
            torch.testing.assert_close(
                torch.tensor(list(reading.values)), acts[found], atol=TOLERANCE, rtol=TOLERANCE
            )
            assert found[: len(watched)] == watched
            assert len(set(found)) == len(found)
            if reading.sae in capture.top_k_saes:
                strongest = acts.topk(capture.top_k)
                active = [int(f) for f, z in zip(strongest.indices, strongest.values, strict=True) if z > 0]
                # Neighbours in the order may be as good as equal.
                assert (
                    set(found) == {*watched, *active}
                    or acts.topk(capture.top_k + 1).values.diff()[-1] > -1e-3
                )
            else:
                assert found == watched
            checked += 1
    assert checked > 100


def test_each_request_is_observed_once(run: Run) -> None:
    assert sorted(request.id for request, _ in run.log.ended) == sorted(r.id for r in run.requests)
    events = {request.id: event for request, event in run.log.ended}
    for request, recorder in zip(run.requests, run.recorders, strict=True):
        assert events[request.id] is recorder.events[-1]
    assert len(run.log.first_tokens) == len(run.requests)
    for recorder, seconds in zip(run.recorders, run.log.first_tokens, strict=True):
        assert seconds >= 0
        timings = recorder.wait().timings
        assert min(timings.queue_seconds, timings.prefill_seconds, timings.decode_seconds) >= 0


def test_a_cancelled_request_balances_too() -> None:
    log = SteppedLog()
    capture = Capture(watch=(FeatureRef("sae-0", 3),), include_prompt=True)
    cancelled = greedy_request("cancelled", SHORT * 4, 9, edit("sae-0", 3, Add(1.0)), capture=capture)
    with serving(log, watch=WATCH) as engine:
        first = submit(engine, greedy_request("first", SHORT, 12))
        log.wait_for_step()
        recorder = submit(engine, cancelled)
        log.step(2)
        engine.cancel(recorder.submission)
        log.release()
        first.wait()
        finished = recorder.wait()

    run_of_it = total(log, "prompt_tokens") - len(SHORT)
    assert 0 < run_of_it < len(SHORT) * 4
    assert [reading.position for reading in recorder.readings] == list(range(run_of_it))
    assert finished.features[0].steered_tokens == run_of_it
    assert finished.receipt.interventions[0].rows == run_of_it
    assert sum(step.monitored_tokens["sae-0"] for step in log.steps) == run_of_it + len(SHORT) + 11 - 2


def chunk_lengths(recorder: Recorder) -> list[int]:
    return [len(event.readings) for event in recorder.events if isinstance(event, PromptEvent)]


def test_the_readings_of_a_prompt_come_with_its_chunks() -> None:
    capture = Capture(watch=(FeatureRef("sae-0", 3),), include_prompt=True)
    with serving(max_batch_tokens=5) as engine:
        recorder = run_together(engine, [greedy_request("request", SHORT, 2, capture=capture)])[0]

    # Eleven rows in chunks of five; the last row's reading comes with the token that it yields.
    assert chunk_lengths(recorder) == [5, 5]
    assert [reading.position for token in recorder.tokens for reading in token.readings] == [10, 11]


@pytest.mark.parametrize("sample_every", [0, 7])
def test_sampling_is_as_rare_as_asked(sample_every: int) -> None:
    log = StepLog()
    with serving(log, sample_every=sample_every) as engine:
        run_together(engine, [greedy_request(f"request-{n}", SHORT, 6) for n in range(5)])
    # Of each, the first row and the last token, which has none, do not count.
    rows = total(log, "prompt_tokens") + total(log, "generated_tokens") - 5 - 5

    samples = sum(len(active_features(step, "sae-0")) for step in log.steps)

    assert samples == (ceil(rows / sample_every) if sample_every else 0)


def test_an_engine_that_reads_nothing_reports_nothing() -> None:
    log = StepLog()
    with serving(log) as engine:
        recorder = run_together(engine, [greedy_request("request", SHORT, 3)])[0]

    last: StepReport = log.steps[-1]
    assert (last.monitored_tokens, last.sampled, len(last.watched.active.rows)) == ({}, {}, 0)
    assert recorder.readings == []
    assert recorder.wait().features == ()


def test_logprobs_do_not_depend_on_temperature_or_filters() -> None:
    """The same token costs the same whatever the sampler did with the distribution."""
    greedy: GenerationRequest = greedy_request("greedy", SHORT, 1)
    hot = replace(greedy, id="hot", sampling=replace(greedy.sampling, temperature=5.0, top_k=1, seed=4))
    with serving() as engine:
        recorders = run_together(engine, [greedy, hot])

    assert recorders[0].token_ids == recorders[1].token_ids
    assert recorders[0].logprobs == pytest.approx(recorders[1].logprobs, abs=1e-5)
    finished: FinishedEvent = recorders[0].wait()
    assert finished.generated_tokens == 1
    assert recorders[0].logprobs[0] < 0


def test_an_edit_of_a_direction_is_no_feature() -> None:
    along = Intervention(target=unit_direction("blocks.2.hook_resid_post", [1.0] * 32), operation=Ablate())
    with serving() as engine:
        recorder = run_together(engine, [greedy_request("request", SHORT, 3, along)])[0]

    finished = recorder.wait()
    assert finished.features == ()
    (receipt,) = finished.receipt.interventions
    assert receipt.rows == receipt.rows_changed == len(SHORT) + 2
    assert abs(receipt.mean_before) > 1e-3
    assert abs(receipt.mean_after) < 1e-6
