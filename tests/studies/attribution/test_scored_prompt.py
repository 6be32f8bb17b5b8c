"""A metric of padded, copied and edited texts is that of each text alone."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from steerd.host.hook_point import HookPoint
from steerd.studies.attribution.metric import AnswerLogit, AnswerLogprob, Metric, TokenLogit
from steerd.studies.attribution.scored_prompt import ScoredPrompt
from tests.studies.attribution.tiny_prompts import naive_logits, random_ids
from tests.tiny_hosts import ARCHITECTURES, make_tiny_host


def naive_logprob(host, prompt, answer, edits=None) -> float:
    logits = naive_logits(host, (*prompt, *answer), edits).log_softmax(dim=-1)
    return sum(float(logits[len(prompt) - 1 + place, token]) for place, token in enumerate(answer))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_of_a_token_and_their_difference(architecture):
    host, ids = make_tiny_host(architecture), random_ids(1)
    last = naive_logits(host, ids)[-1]

    one = ScoredPrompt(host, ids, TokenLogit(65)).values(2, {})
    both = ScoredPrompt(host, ids, TokenLogit(65, 66)).values(1, {})

    assert one.tolist() == pytest.approx([float(last[65])] * 2, abs=1e-4)
    assert both.tolist() == pytest.approx([float(last[65] - last[66])], abs=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_of_unequal_length_are_scored_as_if_alone(architecture):
    host, ids = make_tiny_host(architecture), random_ids(2)
    right, wrong = random_ids(3, length=4), random_ids(4, length=2)

    one = ScoredPrompt(host, ids, AnswerLogprob(right)).values(1, {})
    both = ScoredPrompt(host, ids, AnswerLogprob(right, wrong)).values(2, {})

    expected = naive_logprob(host, ids, right)
    assert one.tolist() == pytest.approx([expected], abs=1e-3)
    assert both.tolist() == pytest.approx([expected - naive_logprob(host, ids, wrong)] * 2, abs=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_of_an_answer_are_counted_from_the_mean(architecture):
    host, ids, answer = make_tiny_host(architecture), random_ids(7), random_ids(8, length=3)
    logits = naive_logits(host, (*ids, *answer))[len(ids) - 1 :]

    found = ScoredPrompt(host, ids, AnswerLogit(answer)).values(2, {})

    expected = sum(float(logits[place, token] - logits[place].mean()) for place, token in enumerate(answer))
    assert found.tolist() == pytest.approx([expected] * 2, abs=1e-3)


@pytest.mark.parametrize("metric", [TokenLogit(65, 66), AnswerLogprob((65, 67, 68), (66,))])
def test_each_copy_has_its_own_edits_of_the_prompts_rows(metric: Metric):
    host, ids = make_tiny_host("llama"), random_ids(5)
    push = torch.randn(32, generator=torch.Generator().manual_seed(0))
    where = random.Random(0).sample(range(len(ids)), 3)

    def edit(rows: Tensor) -> Tensor:
        edited = rows.clone()
        for copy, position in enumerate(where):
            edited[copy, :, position] += push
        return edited

    def naive(position: int):
        def add(rows: Tensor) -> Tensor:
            edited = rows.clone()
            edited[position] += push
            return edited

        point = {"blocks.1.hook_resid_post": add}
        if isinstance(metric, TokenLogit):
            logits = naive_logits(host, ids, point)[-1]
            return float(logits[65] - logits[66])
        return naive_logprob(host, ids, (65, 67, 68), point) - naive_logprob(host, ids, (66,), point)

    values = ScoredPrompt(host, ids, metric).values(3, {HookPoint(1, "resid_post"): edit})

    assert values.tolist() == pytest.approx([naive(position) for position in where], abs=1e-3)
    assert len({round(value, 3) for value in values.tolist()}) == 3


def test_the_probability_is_that_of_the_first_token():
    host, ids = make_tiny_host("llama"), random_ids(6)
    prompt = ScoredPrompt(host, ids, AnswerLogprob((70, 71), (72,)))

    found = prompt.probability(prompt.logits(1, {}))

    assert found == pytest.approx(float(naive_logits(host, ids)[-1].softmax(dim=-1)[70]), rel=1e-4)
