"""The sampler against the distribution that temperature, top_k and top_p define."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from steerd.engine.request import SamplingParams
from steerd.engine.sampler import Draw, sample, uniform
from tests.engine.requests import sampling

VOCAB = 40


def random_logits(rows: int = 1, seed: int = 0, scale: float = 2.0, vocab: int = VOCAB) -> Tensor:
    return scale * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def draw_many(logits: Tensor, params: SamplingParams, count: int) -> Tensor:
    """Token ids at `count` positions of one request whose logits never change."""
    draws = [Draw(params, position) for position in range(count)]
    return sample(logits.expand(count, -1), draws)[0]


def defined_probabilities(logits: Tensor, temperature: float, top_p: float, top_k: int) -> Tensor:
    """The definition, token by token, for logits [vocab] without ties."""
    probs = torch.softmax(logits.double() / temperature, dim=-1)
    order = probs.argsort(descending=True).tolist()
    kept = order[:top_k] if top_k else order
    mass, nucleus = float(probs[kept].sum()), []
    for token in kept:
        nucleus.append(token)
        if float(probs[nucleus].sum()) >= top_p * mass:
            break
    if top_p == 1.0:
        nucleus = kept
    filtered = torch.zeros_like(probs)
    filtered[nucleus] = probs[nucleus]
    return filtered / filtered.sum()


def test_greedy_takes_the_largest_logit_and_nothing_else_matters() -> None:
    logits = random_logits(rows=64)
    draws = [Draw(sampling(top_p=0.1, top_k=1, seed=row), row) for row in range(64)]

    token_ids, logprobs = sample(logits, draws)

    assert torch.equal(token_ids, logits.argmax(dim=-1))
    torch.testing.assert_close(logprobs, logits.log_softmax(dim=-1).max(dim=-1).values)


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [
        (1.0, 1.0, 0),
        (0.5, 1.0, 0),
        (2.5, 1.0, 0),
        (1.0, 1.0, 5),
        (1.0, 0.8, 0),
        (1.3, 0.7, 12),
        (1.0, 0.05, 0),
        (1.0, 1.0, VOCAB),
        (1.0, 0.9, 10 * VOCAB),
    ],
)
def test_frequencies_are_those_of_the_definition(temperature: float, top_p: float, top_k: int) -> None:
    count, logits = 6_000, random_logits(seed=3)
    params = sampling(temperature=temperature, top_p=top_p, top_k=top_k, seed=5)
    expected = count * defined_probabilities(logits[0], temperature, top_p, top_k)

    counts = draw_many(logits, params, count).bincount(minlength=VOCAB)

    assert (counts[expected == 0] == 0).all(), "a token that the filters exclude was drawn"
    likely = expected >= 5
    chi_square = float(((counts - expected)[likely] ** 2 / expected[likely]).sum())
    freedom = max(int(likely.sum()) - 1, 1)
    # Its mean is `freedom` and its standard deviation sqrt(2 * freedom): five of them never come by chance.
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5
    assert counts[~likely].sum() <= expected[~likely].sum() + 5 * (float(expected[~likely].sum()) + 1) ** 0.5


def test_top_p_looks_past_its_first_candidates_on_a_flat_distribution() -> None:
    vocab, count = 4096, 3000
    logits = torch.linspace(0, 0.01, vocab).unsqueeze(0)

    token_ids = draw_many(logits, sampling(temperature=1.0, top_p=0.9, seed=1), count)

    last_kept = int(vocab * 0.1)
    assert token_ids.min() >= last_kept - 20  # the slope makes the share of the flat top a little larger
    assert token_ids.float().mean() == pytest.approx((vocab + last_kept) / 2, rel=0.03)


@pytest.mark.parametrize("top_p", [1e-6, 0.01])
def test_top_p_keeps_the_likeliest_token_even_when_it_alone_is_more_than_enough(top_p: float) -> None:
    logits = random_logits(seed=8)

    token_ids = draw_many(logits, sampling(temperature=1.0, top_p=top_p, seed=2), 50)

    assert set(token_ids.tolist()) == {int(logits.argmax())}


def test_tokens_as_likely_as_the_last_kept_stay() -> None:
    logits = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]])

    for params in (sampling(temperature=1.0, top_k=2, seed=3), sampling(temperature=1.0, top_p=0.75, seed=3)):
        assert set(draw_many(logits, params, 400).tolist()) == {0, 1, 2, 3}


def test_equal_logits_are_equally_likely() -> None:
    counts = draw_many(torch.zeros(1, 8), sampling(temperature=1.0, seed=4), 8000).bincount(minlength=8)

    assert ((counts - 1000).abs() < 150).all()


@pytest.mark.parametrize("temperature", [0.01, 0.3, 1.0, 100.0])
@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4, 1e30, 3e38, -3e38])
def test_huge_logits_are_no_matter(shift: float, temperature: float) -> None:
    """The last two tokens are far above all others, which no temperature below infinity makes up for."""
    logits = torch.full((1, VOCAB), shift) - 1e6 * (1 + abs(shift))
    logits[0, -2:] = shift

    token_ids = draw_many(logits, sampling(temperature=temperature, seed=6), 200)

    assert set(token_ids.tolist()) == {VOCAB - 2, VOCAB - 1}


@pytest.mark.parametrize("top_k", [0, 3, 10])
@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_tokens_at_minus_infinity_are_never_drawn(top_k: int, top_p: float) -> None:
    logits = torch.full((1, VOCAB), float("-inf"))
    logits[0, [4, 17, VOCAB - 2]] = torch.tensor([0.0, 0.1, 0.2])

    token_ids = draw_many(logits, sampling(temperature=1.0, top_k=top_k, top_p=top_p, seed=7), 300)

    assert set(token_ids.tolist()) <= {4, 17, VOCAB - 2}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_not_finite_has_no_logprob_and_leaves_the_others_alone(
    bad: float, temperature: float
) -> None:
    logits = random_logits(rows=3)
    params = sampling(temperature=temperature, top_p=0.9, top_k=5, seed=9)
    draws = [Draw(params, position) for position in range(3)]
    token_ids, logprobs = sample(logits, draws)
    broken = logits.clone()
    broken[1, 6] = bad

    got_ids, got_logprobs = sample(broken, draws)

    assert 0 <= got_ids[1] < VOCAB
    assert not got_logprobs[1].isfinite()
    for row in (0, 2):
        assert (got_ids[row], got_logprobs[row]) == (token_ids[row], logprobs[row])


def mixed_draws(count: int) -> list[Draw]:
    kinds = [
        sampling(seed=1),
        sampling(temperature=1.0, seed=2),
        sampling(temperature=0.7, top_p=0.6, seed=3),
        sampling(temperature=1.8, top_k=4, seed=4),
        sampling(temperature=1.0, top_p=0.9, top_k=7, seed=5),
    ]
    return [Draw(kinds[row % len(kinds)], 3 * row) for row in range(count)]


def test_a_row_gets_the_same_token_alone_and_in_any_batch() -> None:
    logits, draws = random_logits(rows=25, seed=11), mixed_draws(25)
    alone = [sample(logits[row : row + 1], draws[row : row + 1]) for row in range(25)]
    orders: Sequence[Sequence[int]] = (range(25), range(24, -1, -1), [7, 3, 21, 4], [*range(1, 25, 2)])

    for order in orders:
        token_ids, logprobs = sample(logits[list(order)], [draws[row] for row in order])

        assert token_ids.tolist() == [int(alone[row][0]) for row in order]
        torch.testing.assert_close(logprobs, torch.cat([alone[row][1] for row in order]))


def test_logprob_is_of_the_distribution_before_temperature_and_filters() -> None:
    logits, draws = random_logits(rows=25, seed=12), mixed_draws(25)

    token_ids, logprobs = sample(logits, draws)

    expected = logits.log_softmax(dim=-1).gather(1, token_ids.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(logprobs, expected)


def test_seed_and_position_each_change_the_draw() -> None:
    logits = random_logits(scale=0.1)
    first = draw_many(logits, sampling(temperature=1.0, seed=1), 200)

    assert torch.equal(first, draw_many(logits, sampling(temperature=1.0, seed=1), 200))
    for seed in (0, 2, -1, 2**63, 2**64 - 1):
        other = draw_many(logits, sampling(temperature=1.0, seed=seed), 200)
        assert (first == other).float().mean() < 0.2, seed


@pytest.mark.parametrize("seeds", [[0], range(1000)], ids=["positions of one seed", "seeds of one position"])
def test_uniform_numbers_are_uniform_and_unrelated(seeds: Sequence[int]) -> None:
    positions = range(1000) if len(seeds) == 1 else [5]
    numbers = torch.tensor(
        [uniform(seed, position) for seed in seeds for position in positions], dtype=torch.float64
    )

    assert ((numbers >= 0) & (numbers < 1)).all()
    counts = (numbers * 10).long().bincount(minlength=10)
    assert ((counts - 100).abs() < 50).all()
    assert torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1].abs() < 0.12


def test_the_logits_are_left_as_they_were() -> None:
    logits = random_logits(rows=5)
    before = logits.clone()

    sample(logits, mixed_draws(5))

    assert torch.equal(logits, before)
