"""Attention of packed steps against plain softmax attention, request by request, in float64."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from steerd.engine.paged_attention import AttentionPlan, Segment, attend, attend_one, plan_attention

HEAD_DIM = 8
CPU = torch.device("cpu")
# float32 against float64: inputs are near 1 and sums are short.
TOLERANCE = 2e-6

HEADS = {"multi-head": (4, 4), "grouped": (6, 2), "multi-query": (5, 1)}


def plain_attention(
    query: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scaling: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Row by row and head by head: query [rows, heads, dim] over k, v [keys, kv_heads, dim]."""
    query, k, v = query.double(), k.double(), v.double()
    shared_by = query.shape[1] // k.shape[1]
    out = torch.empty_like(query)
    for row in range(len(query)):
        seen = len(k) - len(query) + row + 1
        first = 0 if window is None else max(seen - window, 0)
        for head in range(query.shape[1]):
            keys, values = k[first:seen, head // shared_by], v[first:seen, head // shared_by]
            scores = keys @ query[row, head] * (HEAD_DIM**-0.5 if scaling is None else scaling)
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            out[row, head] = torch.softmax(scores, dim=0) @ values
    return out


@dataclass
class Step:
    """A cache with requests in it, and the rows of a step that attend to them."""

    segments: list[Segment]
    query: Tensor
    k_cache: Tensor
    v_cache: Tensor

    def plan(self) -> AttentionPlan:
        return plan_attention(self.segments, self.query.dtype, CPU)

    def attend(self, scaling: float | None = None, softcap: float | None = None) -> Tensor:
        return attend(self.plan(), self.query, self.k_cache, self.v_cache, scaling=scaling, softcap=softcap)

    def plain(self, scaling: float | None = None, softcap: float | None = None) -> Tensor:
        parts = [
            plain_attention(
                self.query[s.first_row : s.first_row + s.num_rows],
                self.k_cache[s.keys],
                self.v_cache[s.keys],
                scaling=scaling,
                softcap=softcap,
            )
            for s in self.segments
        ]
        return torch.cat(parts)


def make_step(
    lengths: Sequence[tuple[int, int]],
    *,
    reserved: Sequence[int] | None = None,
    scattered: Sequence[int] = (),
    heads: int = 4,
    kv_heads: int = 2,
    seed: int = 0,
) -> Step:
    """Requests with (rows, keys) in this step, one after the other in the cache.

    Each has `reserved` tokens, all of them zero past its keys; the keys of the `scattered` ones lie in any
    order. Whatever is nobody's is NaN.
    """
    generator = torch.Generator().manual_seed(seed)
    reserved = reserved or [keys for _, keys in lengths]
    k_cache, v_cache = (torch.full((sum(reserved) + 3, kv_heads, HEAD_DIM), float("nan")) for _ in "kv")
    segments, row, start = [], 0, 2
    for number, ((num_rows, num_keys), room) in enumerate(zip(lengths, reserved, strict=True)):
        own = torch.arange(start, start + room)
        index = own[torch.randperm(room, generator=generator)][:num_keys] if number in scattered else None
        for cache in (k_cache, v_cache):
            cache[own] = 0
            keys = own[:num_keys] if index is None else index
            cache[keys] = torch.randn(num_keys, kv_heads, HEAD_DIM, generator=generator)
        segments.append(Segment(row, num_rows, num_keys, start if index is None else None, room, index))
        row, start = row + num_rows, start + room
    return Step(segments, torch.randn(row, heads, HEAD_DIM, generator=generator), k_cache, v_cache)


def assert_plain(step: Step, scaling: float | None = None, softcap: float | None = None) -> None:
    got = step.attend(scaling=scaling, softcap=softcap)

    assert got.shape == step.query.shape
    torch.testing.assert_close(got.double(), step.plain(scaling, softcap), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_mixed_step_is_plain_attention(
    heads: int, kv_heads: int, scaling: float | None, softcap: float | None
) -> None:
    """Decoding requests, a whole prompt, a later chunk of a prompt, one that is not in one piece."""
    step = make_step(
        [(1, 7), (5, 5), (1, 1), (3, 9), (1, 6), (4, 8), (1, 12)],
        reserved=[16, 8, 8, 16, 8, 16, 16],
        scattered=[4, 5],
        heads=heads,
        kv_heads=kv_heads,
    )

    assert_plain(step, scaling, softcap)


def test_equally_spaced_decoding_requests_of_unequal_lengths_are_one_group() -> None:
    step = make_step([(1, 3), (1, 16), (1, 1), (1, 9)], reserved=[16] * 4)
    plan = step.plan()

    assert [group.rows.tolist() for group in plan.groups] == [[0, 1, 2, 3]]
    assert plan.in_order
    assert plan.singles == ()
    assert_plain(step)


def test_equal_lengths_need_no_mask() -> None:
    step = make_step([(1, 5)] * 3, reserved=[8] * 3)

    assert [group.mask for group in step.plan().groups] == [None]
    assert_plain(step)


def test_groups_never_reach_into_another_request() -> None:
    """The first has more keys than the second has room."""
    step = make_step([(1, 9), (1, 3), (1, 4)], reserved=[16, 4, 4])

    assert [group.rows.tolist() for group in step.plan().groups] == [[0], [1, 2]]
    assert not step.plan().in_order
    assert_plain(step)


def test_group_order_is_that_of_the_cache_not_of_the_step() -> None:
    step = make_step([(1, 3), (1, 8), (1, 5)], reserved=[8] * 3)
    first, second, third = step.segments
    step.segments = [  # rows in the opposite order of the cache
        Segment(0, 1, third.num_keys, third.start, 8, None),
        Segment(1, 1, first.num_keys, first.start, 8, None),
        Segment(2, 1, second.num_keys, second.start, 8, None),
    ]

    assert [group.rows.tolist() for group in step.plan().groups] == [[1, 2, 0]]
    assert not step.plan().in_order
    assert_plain(step)


@pytest.mark.parametrize("seed", range(40))
def test_random_steps_are_plain_attention(seed: int) -> None:
    chance = random.Random(seed)
    lengths, reserved = [], []
    for _ in range(chance.randint(1, 9)):
        num_keys = chance.randint(1, 24)
        lengths.append((1 if chance.random() < 0.6 else chance.randint(1, num_keys), num_keys))
        reserved.append(chance.choice([num_keys, 24, 24, 32]))
    heads, kv_heads = chance.choice(list(HEADS.values()))
    scattered = [number for number in range(len(lengths)) if chance.random() < 0.2]
    step = make_step(
        lengths, reserved=reserved, scattered=scattered, heads=heads, kv_heads=kv_heads, seed=seed
    )

    assert_plain(step, softcap=chance.choice([None, None, 2.0]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_keys_that_are_not_finite_stay_within_their_request(bad: float, softcap: float | None) -> None:
    """Every request in turn is broken, rows of others being in the same group, before and after it."""
    step = make_step([(1, 5), (1, 8), (1, 2), (3, 6), (1, 4)], reserved=[8, 8, 8, 8, 8], scattered=[4])
    clean = step.attend(softcap=softcap)
    for broken in step.segments:
        k_cache, v_cache, query = step.k_cache.clone(), step.v_cache.clone(), step.query.clone()
        k_cache[broken.keys] = bad
        v_cache[broken.keys] = bad
        own = range(broken.first_row, broken.first_row + broken.num_rows)
        query[own] = bad
        others = [row for row in range(len(query)) if row not in own]

        got = Step(step.segments, query, k_cache, v_cache).attend(softcap=softcap)

        assert torch.equal(got[others], clean[others])
        assert not got[own].isfinite().any()


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 1, 3, 7, 20])
@pytest.mark.parametrize(("num_rows", "num_keys"), [(1, 1), (1, 12), (12, 12), (5, 12), (12, 20), (1, 7)])
def test_window_and_chunks_are_plain_attention(
    num_rows: int, num_keys: int, window: int | None, softcap: float | None, heads: int, kv_heads: int
) -> None:
    generator = torch.Generator().manual_seed(num_rows * num_keys)
    query = torch.randn(num_rows, heads, HEAD_DIM, generator=generator)
    k, v = torch.randn(2, num_keys, kv_heads, HEAD_DIM, generator=generator)

    got = attend_one(query, k, v, scaling=0.4, window=window, softcap=softcap)

    expected = plain_attention(query, k, v, scaling=0.4, window=window, softcap=softcap)
    torch.testing.assert_close(got.double(), expected, atol=TOLERANCE, rtol=0)


def test_bfloat16_is_as_close_as_it_can_be() -> None:
    step = make_step([(1, 7), (1, 16), (6, 6), (2, 9)], reserved=[16] * 4)
    expected = step.plain()
    low = Step(
        step.segments, *(x.to(torch.bfloat16) for x in (step.query, step.k_cache, step.v_cache))
    ).attend()

    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.double(), expected, atol=0.03, rtol=0)
