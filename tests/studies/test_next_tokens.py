"""Next tokens under steering, against a plain forward with a hook that adds the direction."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from torch import Tensor

from steerd.engine.engine import Engine
from steerd.host.hook_point import HookPoint
from steerd.host.host_model import HostModel
from steerd.steering.intervention import Add, FeatureRef
from steerd.steering.loaded_saes import LoadedSaes
from steerd.steering.steering import Steering
from steerd.studies.dose_curve import NextTokenEffect
from steerd.studies.next_token_reader import NextTokenReader
from steerd.studies.next_tokens import NextTokens, NextTokenStudy, NextTokenWish
from tests.engine.requests import edit
from tests.engine.serving import serving, tiny_saes
from tests.engine.studies import begin
from tests.tiny_hosts import make_tiny_host

FEATURE = FeatureRef("sae-1", 5)
PROMPTS = (tuple(b"Hello there"), (257, *b"user\nHi", 258), tuple(b"Once"))
CONTROLS = (tuple(b"The sun rises."), (257, *b"abc", 258, *b"def"))
NEUTRAL = tuple(b"From my experience,")
STRENGTHS = (0.5, 3.0, 8.0)
SPECIAL = (256, 257, 258)


@pytest.fixture(scope="module")
def plain() -> HostModel:
    return make_tiny_host()


def reader(host: HostModel, engine: Engine) -> NextTokenReader:
    saes = tiny_saes(host)
    loaded = saes.get(FEATURE.sae)
    forward = engine.steered_forward(saes)
    return NextTokenReader(host, loaded, FEATURE.index, forward, NEUTRAL, Steering())


@pytest.fixture(scope="module")
def found() -> NextTokens:
    host = make_tiny_host()
    texts = len(PROMPTS) + len(CONTROLS)
    ways = tuple(
        (Steering(interventions=(edit("sae-1", 5, Add(strength)),)),) * texts for strength in STRENGTHS
    )
    wish = NextTokenWish(PROMPTS, CONTROLS, ways)
    with serving(host=host) as engine:
        result = begin(engine, NextTokenStudy(reader(host, engine), wish, slice_tokens=30)).wait()
    assert isinstance(result, NextTokens)
    return result


def probabilities(host: HostModel, saes: LoadedSaes, text: tuple[int, ...], push: Tensor) -> Tensor:
    """[tokens, vocab], with the feature's direction times push [tokens] added."""
    loaded = saes.get("sae-1")
    change = push.unsqueeze(1) * loaded.sae.W_dec[FEATURE.index]
    handle = host.attach(loaded.hook_point, lambda rows: rows + change)
    try:
        return host.logits(torch.tensor([text]), None)[0].softmax(dim=-1)
    finally:
        handle.remove()


def ordinary(text: tuple[int, ...]) -> Tensor:
    return torch.tensor([float(token not in SPECIAL) for token in text])


def kl(steered: Tensor, plain: Tensor) -> float:
    return float((steered * (steered.log() - plain.log())).sum())


@torch.no_grad()
def expected_effect(host: HostModel, strength: float, promoted: tuple[int, ...]) -> NextTokenEffect:
    saes = tiny_saes(host)
    at_end, side = [], []
    for text in PROMPTS:
        steered = probabilities(host, saes, text, strength * ordinary(text))[-1]
        unsteered = probabilities(host, saes, text, 0 * ordinary(text))[-1]
        best = max(float(steered[token]) for token in promoted)
        rank = sum(float(each) > best for each in steered)
        gain = sum(float(steered[token] - unsteered[token]) for token in promoted)
        changed = float(steered.argmax() != unsteered.argmax())
        at_end.append((kl(steered, unsteered), changed, gain, best * (1 - rank / len(steered))))
    for text in CONTROLS:
        steered = probabilities(host, saes, text, strength * ordinary(text))
        unsteered = probabilities(host, saes, text, 0 * ordinary(text))
        rows = [row for row, token in enumerate(text) if row and token not in SPECIAL]
        kls = [kl(steered[row], unsteered[row]) for row in rows]
        changes = [float(steered[row].argmax() != unsteered[row].argmax()) for row in rows]
        side.append((sum(kls) / len(rows), sum(changes) / len(rows)))
    means = [torch.tensor(rows).mean(dim=0).tolist() for rows in (at_end, side)]
    return NextTokenEffect(*means[0], *means[1])


def test_every_measure_is_that_of_plain_forwards(plain: HostModel, found: NextTokens) -> None:
    assert found.complete
    for strength, effect in zip(STRENGTHS, found.effects, strict=True):
        expected = asdict(expected_effect(plain, strength, found.promoted))
        assert asdict(effect) == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert found.effects[2].kl > found.effects[0].kl > 0


@torch.no_grad()
def test_promoted_tokens_and_output_score(plain: HostModel, found: NextTokens) -> None:
    saes = tiny_saes(plain)
    loaded = saes.get("sae-1")
    model = plain.model
    promoted = model.lm_head(model.model.norm(loaded.sae.W_dec[FEATURE.index])).topk(20).indices
    assert list(found.promoted) == promoted.tolist()

    row = plain.activations(torch.tensor([NEUTRAL]), None, [loaded.hook_point])[loaded.hook_point][0, -1]
    push = torch.zeros(len(NEUTRAL))
    push[-1] = 10 * float(loaded.sae.encode(row).max())
    steered = probabilities(plain, saes, NEUTRAL, push)[-1]
    ranks = steered.argsort(descending=True).tolist()
    best = min(ranks.index(token) for token in found.promoted)
    score = float(steered[promoted].max()) * (1 - best / len(steered))
    assert found.output_score == pytest.approx(score, rel=1e-3)


def test_a_part_has_no_effects() -> None:
    host = make_tiny_host()
    ways = ((Steering(),) * 2,)
    wish = NextTokenWish(PROMPTS[:1], CONTROLS[:1], ways)
    with serving(host=host) as engine:
        part = NextTokenStudy(reader(host, engine), wish, slice_tokens=30).result()

    assert (part.complete, part.effects) == (False, ())


def test_what_is_the_same_for_all_strengths_runs_once() -> None:
    host = make_tiny_host()
    texts = (*PROMPTS, *CONTROLS)
    wish = NextTokenWish(PROMPTS, CONTROLS, ((Steering(interventions=(edit("sae-1", 5, Add(3.0)),)),) * 5,))
    forwards: list[int] = []
    with serving(host=host) as engine:
        shared = reader(host, engine)
        first = begin(engine, NextTokenStudy(shared, wish, slice_tokens=30)).wait()
        host.attach(HookPoint(0, "resid_post"), lambda rows: forwards.append(len(rows)))
        second = begin(engine, NextTokenStudy(shared, wish, slice_tokens=30)).wait()

    assert second == first
    assert forwards == [len(text) for text in texts], "the steered ones alone"
