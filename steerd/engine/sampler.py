"""From logits to the next token of each request, whatever else is in the batch.

A sampled token is the inverse of the distribution's cumulative sum at one uniform number that depends on the
request's seed and the token's position only. So a seeded request gives the same text alone and in any batch,
on any device, at the cost of one number a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steerd.engine.request import SamplingParams

_MASK_64 = (1 << 64) - 1
_TOP_P_CANDIDATES = 1024


@dataclass(frozen=True, slots=True)
class Draw:
    """The choice of one token: how to sample, and the position the token will have."""

    sampling: SamplingParams
    position: int


def sample(logits: Tensor, draws: Sequence[Draw]) -> tuple[Tensor, Tensor]:
    """Token ids [n] (int64) and their natural-log probabilities [n] for logits [n, vocab] in float32.

    The probability is the host's own, before temperature and filters. temperature 0 takes the largest logit.
    """
    token_ids = logits.argmax(dim=-1)  # [n]
    sampled = [index for index, draw in enumerate(draws) if draw.sampling.temperature > 0]
    if sampled:
        rows = torch.tensor(sampled, device=logits.device)
        token_ids[rows] = _sample_rows(logits[rows], [draws[index] for index in sampled])
    chosen = logits.gather(1, token_ids.unsqueeze(1)).squeeze(1)
    return token_ids, chosen - logits.logsumexp(dim=-1)


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) for one token of one request: SplitMix64 of seed and position, 53 bits."""
    return (_mix(_mix(seed & _MASK_64) ^ (position & _MASK_64)) >> 11) / (1 << 53)


def _mix(state: int) -> int:
    """SplitMix64's next output (Steele, Lea and Flood, 2014)."""
    z = (state + 0x9E3779B97F4A7C15) & _MASK_64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return z ^ (z >> 31)


def _sample_rows(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    temperature = torch.tensor([[draw.sampling.temperature] for draw in draws], device=logits.device)
    # The largest becomes 0 first, so that no quotient leaves the range of float32.
    probs = torch.softmax((logits - logits.amax(dim=-1, keepdim=True)) / temperature, dim=-1)  # [n, vocab]
    for row, draw in enumerate(draws):
        _keep_top_k(probs[row], draw.sampling.top_k)
        _keep_top_p(probs[row], draw.sampling.top_p)
    # float64: a float32 sum over the vocabulary is off by more than the rarest tokens' probabilities.
    cumulative = probs.double().cumsum(dim=-1)
    uniforms = [[uniform(draw.sampling.seed, draw.position)] for draw in draws]
    targets = torch.tensor(uniforms, dtype=torch.float64, device=logits.device) * cumulative[:, -1:]
    token_ids = torch.searchsorted(cumulative, targets, right=True).squeeze(1)
    return token_ids.clamp_(max=logits.shape[-1] - 1)  # rounding may put a target on the very end


def _keep_top_k(probs: Tensor, top_k: int) -> None:
    """Zero all but the top_k largest of probs [vocab] in place; equals of the last stay, 0 keeps all."""
    if 0 < top_k < len(probs):
        least_kept = probs.topk(top_k).values[-1]
        probs[probs < least_kept] = 0.0


def _keep_top_p(probs: Tensor, top_p: float) -> None:
    """Zero all but the likeliest tokens that together reach top_p of the mass of probs [vocab], in place."""
    if top_p >= 1.0:
        return
    mass = top_p * probs.sum()
    largest = probs.topk(min(_TOP_P_CANDIDATES, len(probs))).values
    if largest.sum() < mass:
        largest = probs.sort(descending=True).values
    num_kept = int((largest.cumsum(dim=-1) < mass).sum()) + 1
    least_kept = largest[min(num_kept, len(largest)) - 1]
    probs[probs < least_kept] = 0.0
