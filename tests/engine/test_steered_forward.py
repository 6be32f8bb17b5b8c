"""Whole texts beside the steps: against the naive hook, against Score, and beside requests that run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from steerd.engine.steered_forward import SteeredForward, SteeredText
from steerd.engine.study import Progress
from steerd.errors import Forbidden, InvalidRequest
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.host.known_streams import KnownStreams
from steerd.sae.config_file import Architecture
from steerd.selftest.naive_hook import steered_naively
from steerd.selftest.probe_set import make_probe_set
from steerd.selftest.probes import Probe
from steerd.steering.intervention import (
    Ablate,
    Add,
    Condition,
    FeatureRef,
    FeatureTest,
    Intervention,
    Set,
)
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.receipt import TriggerReceipt
from steerd.steering.scope import Phase
from steerd.steering.steering import Steering
from steerd.steering.step_plan import StepPlanner
from steerd.steering.trigger import Flag, Stop, Trigger
from tests.engine.plain_ledger import assert_same_receipt
from tests.engine.recorder import submit
from tests.engine.requests import LONG, SHORT, edit, greedy_request
from tests.engine.serving import alone, serving, tiny_saes
from tests.engine.studies import begin
from tests.engine.tape import TapeRecorder
from tests.engine.test_scored import scoring
from tests.tiny_hosts import make_tiny_host
from tests.tiny_saes import tiny_sae

# Sums in another order, through layers whose weights are far from small.
TOLERANCE = 1e-4


@dataclass
class Rows:
    """What readers were shown, by hook point."""

    seen: dict[HookPoint, Tensor] = field(default_factory=dict)

    def at(self, *points: HookPoint):
        return {point: lambda rows, point=point: self.seen.update({point: rows.clone()}) for point in points}


def resid_posts(host: HostModel) -> list[HookPoint]:
    return [HookPoint(layer, "resid_post") for layer in range(host.num_layers)]


def served(host: HostModel, *architectures: Architecture) -> LoadedSaes:
    saes = LoadedSaes(host)
    for number, architecture in enumerate(architectures):
        point = f"blocks.{min(number, 1)}.hook_resid_post"
        saes.add(architecture, tiny_sae(host, point, seed=number, activation=architecture))
    return saes


def text_of(probe: Probe) -> SteeredText:
    return SteeredText(
        prompt_ids=probe.prompt_ids,
        continuation=probe.continuation[:-1],
        steering=Steering(interventions=probe.interventions, roles=probe.roles),
    )


def assert_naive(host: HostModel, saes: LoadedSaes, forward: SteeredForward, probe: Probe) -> float:
    """Every layer's rows are those under the naive hook; returns by how much the first probe moved them."""
    points, rows = resid_posts(host), Rows()
    (receipt,) = forward.run([text_of(probe)], after=rows.at(*points))

    ids = torch.tensor([probe.row_ids])
    with steered_naively(host, saes, probe):
        expected = host.activations(ids, None, points)
    plain = host.activations(ids, None, points)
    for point in points:
        torch.testing.assert_close(rows.seen[point], expected[point][0], rtol=TOLERANCE, atol=TOLERANCE)
    assert len(receipt.interventions) == len(probe.interventions)
    return float((expected[points[-1]] - plain[points[-1]]).abs().max())


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_every_kind_of_intervention_does_what_the_naive_hook_does(architecture: str) -> None:
    host = make_tiny_host(architecture)
    saes = served(host, "jumprelu", "topk", "standard")
    probes = [probe for probe in make_probe_set(host, saes, 8).with_references() if probe.interventions]
    planner = StepPlanner(host, saes, 0)
    forward = SteeredForward(host, planner)

    moved = [assert_naive(host, saes, forward, probe) for probe in probes]

    planner.close()
    assert len(probes) > 10
    assert min(moved) > 100 * TOLERANCE


def test_layers_before_all_edits_need_not_run_again(tiny_host: HostModel) -> None:
    saes = served(tiny_host, "jumprelu", "topk", "standard")
    planner = StepPlanner(tiny_host, saes, 0)
    forward, streams, run = SteeredForward(tiny_host, planner), KnownStreams(tiny_host), list[int]()
    for number, layer in enumerate(tiny_host.model.model.layers):
        layer.mlp.register_forward_hook(lambda *_args, number=number: run.append(number))
    early, late = edit("jumprelu", 3, Add(5.0)), edit("topk", 5, Set(4.0))
    point = resid_posts(tiny_host)[-1]

    for edits, layers in [((late,), [2]), ((early, late), [1, 2]), ((), []), ((late,), [2])]:
        texts = [
            SteeredText(prompt_ids=ids, steering=Steering(interventions=edits))
            for ids in (SHORT, SHORT[::-1])
        ]
        whole, rest = Rows(), Rows()
        receipts = forward.run(texts, after=whole.at(point))
        forward.run(texts, after=rest.at(point), streams=streams)  # what is not known yet is computed
        run.clear()

        again = forward.run(texts, after=rest.at(point), streams=streams)

        assert run == layers
        torch.testing.assert_close(rest.seen[point], whole.seen[point], rtol=TOLERANCE, atol=TOLERANCE)
        for found, expected in zip(again, receipts, strict=True):
            assert_same_receipt(found, expected)
    planner.close()


def test_texts_of_one_length_are_each_steered_alone(tiny_host: HostModel) -> None:
    saes = tiny_saes(tiny_host)
    planner = StepPlanner(tiny_host, saes, 0)
    forward = SteeredForward(tiny_host, planner)
    texts = [
        SteeredText(prompt_ids=SHORT[:5], continuation=SHORT[5:], steering=Steering(interventions=edits))
        for edits in (
            (edit("sae-0", 3, Add(5.0), Phase.GENERATED),),
            (),
            (edit("sae-1", 5, Ablate()), edit("sae-0", 3, Set(2.0))),
        )
    ]
    point = resid_posts(tiny_host)[-1]
    together, single = Rows(), [Rows() for _ in texts]

    receipts = forward.run(texts, after=together.at(point))
    for text, rows, receipt in zip(texts, single, receipts, strict=True):
        (alone_receipt,) = forward.run([text], after=rows.at(point))
        assert_same_receipt(alone_receipt, receipt)
    planner.close()

    by_text = together.seen[point].view(3, len(SHORT), -1)
    for rows, found in zip(single, by_text, strict=True):
        torch.testing.assert_close(found, rows.seen[point], rtol=TOLERANCE, atol=TOLERANCE)
    assert not torch.allclose(by_text[0, 5:], by_text[1, 5:], atol=0.01)
    torch.testing.assert_close(by_text[0, :5], by_text[1, :5], rtol=TOLERANCE, atol=TOLERANCE)
    assert [part.rows for part in receipts[0].interventions] == [len(SHORT) - 5]


def test_readers_see_rows_before_and_after_the_edits_of_their_hook_point(tiny_host: HostModel) -> None:
    saes = tiny_saes(tiny_host)
    planner = StepPlanner(tiny_host, saes, 0)
    point, before, after = HookPoint(0, "resid_post"), Rows(), Rows()
    steering = Steering(interventions=(edit("sae-0", 3, Add(5.0)),))

    SteeredForward(tiny_host, planner).run(
        [SteeredText(prompt_ids=SHORT, steering=steering)], before=before.at(point), after=after.at(point)
    )
    found = tiny_host.activations(torch.tensor([SHORT]), None, [point])[point][0]
    planner.close()

    direction = saes.get("sae-0").sae.W_dec[3]
    plain = tiny_host.activations(torch.tensor([SHORT]), None, [point])[point][0]
    assert torch.equal(found, plain), "something is left of it"
    assert torch.equal(before.seen[point], plain)
    torch.testing.assert_close(after.seen[point], plain + 5 * direction, rtol=1e-5, atol=1e-5)


@dataclass
class Steered:
    """A study of one text that keeps the rows that leave the last layer, again and again."""

    forward: SteeredForward
    text: SteeredText
    point: HookPoint
    times: int = 1
    found: list[Tensor] = field(default_factory=list)

    def run(self) -> Iterator[Progress]:
        for number in range(self.times):
            self.forward.run([self.text], after={self.point: lambda rows: self.found.append(rows.clone())})
            yield Progress(number + 1, self.times, "forwards")

    def result(self) -> list[Tensor]:
        return self.found


def test_it_gives_what_score_gives() -> None:
    host = make_tiny_host()
    steerings = [
        (),
        (edit("sae-0", 3, Add(0.7)), edit("sae-0", 2, Add(-1.0), Phase.PROMPT)),
        (edit("sae-1", 5, Set(1.5), Phase.GENERATED), edit("sae-0", 9, Ablate())),
    ]
    with serving(host=host) as engine:
        for number, interventions in enumerate(steerings):
            request = scoring(f"score-{number}", LONG[:20], LONG[20:], *interventions)
            scored = submit(engine, request)
            scored.wait()
            text = SteeredText(
                prompt_ids=LONG[:20],
                continuation=LONG[20:],
                steering=Steering(interventions=interventions),
            )
            study = Steered(engine.steered_forward(), text, resid_posts(host)[-1])
            (rows,) = begin(engine, study).wait()  # type: ignore[misc]
            with torch.inference_mode():
                logprobs = host.unembed(rows[19:-1]).log_softmax(dim=-1)

            found = logprobs.gather(1, torch.tensor(LONG[20:]).unsqueeze(1)).squeeze(1)
            torch.testing.assert_close(found, torch.tensor(scored.scores), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("recorder", [None, TapeRecorder()], ids=["plain", "recorded"])
def test_requests_that_run_beside_it_are_as_if_alone(recorder: TapeRecorder | None) -> None:
    """Between any two of their steps the tables hold other edits, of the same features among others, and of
    more rows than any step has."""
    texts = [
        greedy_request("steady", SHORT, 40, edit("sae-0", 3, Add(4.0)), edit("sae-1", 7, Ablate())),
        greedy_request("phased", LONG, 30, edit("sae-0", 3, Set(6.0), Phase.GENERATED)),
        greedy_request("plain", SHORT[:4], 30),
    ]
    expected = [alone(make_tiny_host(), request) for request in texts]
    condition = Condition(((FeatureTest(target=FeatureRef("sae-0", 3), above=0.0, release_below=0.0),),))
    waits = Intervention(target=FeatureRef("sae-1", 2), operation=Add(3.0), condition=condition)
    steering = Steering(interventions=(edit("sae-0", 3, Add(-9.0)), edit("sae-0", 8, Add(2.0)), waits))
    with serving(study_share=1.0, recorder=recorder) as engine:
        study = Steered(
            engine.steered_forward(),
            SteeredText(prompt_ids=LONG[:30], steering=steering),
            HookPoint(2, "resid_post"),
            times=100,
        )
        recorders = [submit(engine, request) for request in texts]
        begun = begin(engine, study)
        for one in recorders:
            one.wait()
        engine.stop_study(begun.job, keep=True)
        rows = begun.wait()

    assert [one.token_ids for one in recorders] == expected
    assert recorder is None or recorder.replayed > 20
    assert len(rows) > 20  # type: ignore[arg-type]
    for found in rows[1:]:  # type: ignore[index]
        torch.testing.assert_close(found, rows[0], rtol=TOLERANCE, atol=TOLERANCE)  # type: ignore[index]


def test_steering_that_the_host_cannot_bear_is_refused(tiny_host: HostModel) -> None:
    planner = StepPlanner(tiny_host, tiny_saes(tiny_host), 0)
    steering = Steering(interventions=(edit("sae-0", 3, Add(3e38)),) * 20)

    with pytest.raises(InvalidRequest, match="interventions: steered so strongly"):
        SteeredForward(tiny_host, planner).run([SteeredText(prompt_ids=SHORT, steering=steering)])
    planner.close()


def always(name: str, action: Flag | Stop) -> Trigger:
    """A policy's trigger that fires on the second token."""
    test = FeatureTest(target=FeatureRef("sae-0", 3), above=-1.0, release_below=-2.0)
    return Trigger(name=name, condition=Condition(((test,),)), action=action, source="policy:guard@1")


def test_a_text_that_a_policy_ends_is_refused_and_nothing_is_held(tiny_host: HostModel) -> None:
    planner = StepPlanner(tiny_host, tiny_saes(tiny_host), 0)
    forward = SteeredForward(tiny_host, planner)
    flagged = SteeredText(prompt_ids=SHORT, steering=Steering(triggers=(always("told", Flag()),)))
    stopped = SteeredText(prompt_ids=SHORT, steering=Steering(triggers=(always("ends", Stop()),)))

    (receipt,) = forward.run([flagged])
    with pytest.raises(Forbidden, match="trigger 'ends' of policy guard@1 ends this text") as caught:
        forward.run([stopped])

    assert receipt.fired == (TriggerReceipt("told", "flag", "policy:guard@1", times=1, first_position=1),)
    assert (caught.value.reason, caught.value.policy) == ("POLICY_STOPPED", "guard@1")
    wishes = planner.resolve(prompt_ids=SHORT, steering=Steering(interventions=(edit("sae-0", 5, Ablate()),)))
    assert wishes.slot == 0
    assert [edit.does.column for edit in wishes.edits] == [0]  # type: ignore[union-attr]
    planner.close()
