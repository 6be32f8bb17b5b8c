"""Where the keys of a decode step are, and attention by nothing but that, against plain attention."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from steerd.engine.decode_keys import DecodeKeys
from steerd.engine.paged_attention import attend_decoding
from tests.engine.test_paged_attention import CPU, HEAD_DIM, HEADS, TOLERANCE, plain_attention

PAGE = 4
BLOCKS = 60
ZEROS, NOBODY = 0, 1


class Cache:
    """Requests with blocks anywhere. What nobody is to see is NaN: all but own blocks and that of zeros."""

    def __init__(self, num_keys: list[int], kv_heads: int, seed: int) -> None:
        generator, chance = torch.Generator().manual_seed(seed), random.Random(seed)
        free = chance.sample(range(2, BLOCKS), BLOCKS - 2)
        self.num_keys = num_keys
        self.blocks = [
            [free.pop() for _ in range(-(-keys // PAGE) + chance.randint(0, 1))] for keys in num_keys
        ]
        self.k, self.v = (torch.full((BLOCKS * PAGE, kv_heads, HEAD_DIM), float("nan")) for _ in "kv")
        for cache in (self.k, self.v):
            cache[: PAGE * (ZEROS + 1)] = 0
            cache[NOBODY * PAGE] = torch.randn(kv_heads, HEAD_DIM, generator=generator)
            for row, keys in enumerate(num_keys):
                own = self.places(row, len(self.blocks[row]) * PAGE)
                cache[own] = 0
                cache[own[:keys]] = torch.randn(keys, kv_heads, HEAD_DIM, generator=generator)

    def places(self, row: int, count: int) -> Tensor:
        own = [block * PAGE + offset for block in self.blocks[row] for offset in range(PAGE)]
        return torch.tensor(own[:count])


def decode_keys() -> DecodeKeys:
    return DecodeKeys(page=PAGE, zeros=ZEROS, nobody=NOBODY, dtype=torch.float32, device=CPU)


@pytest.mark.parametrize(("heads", "kv_heads"), HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_rows_of_any_blocks_are_plain_attention(heads: int, kv_heads: int, softcap: float | None) -> None:
    """Steps one after the other in the same tensors, with and without rows of nobody."""
    keys = decode_keys()
    for seed, num_rows in enumerate((4, 4, 8, 3, 4)):
        chance = random.Random(seed)
        cache = Cache([chance.randint(1, 17) for _ in range(3)], kv_heads, seed)
        keys.plan(cache.blocks, cache.num_keys, num_rows)
        query = torch.randn(num_rows, heads, HEAD_DIM, generator=torch.Generator().manual_seed(seed))

        got = attend_decoding(keys, query, cache.k, cache.v, scaling=0.7, softcap=softcap)

        assert keys.width == 64
        assert got.isfinite().all()
        for row, count in enumerate(cache.num_keys):
            own = cache.places(row, count)
            expected = plain_attention(query[[row]], cache.k[own], cache.v[own], scaling=0.7, softcap=softcap)
            torch.testing.assert_close(got[[row]].double(), expected, atol=TOLERANCE, rtol=0)


def test_new_keys_are_written_to_the_last_place_of_their_request_and_others_to_nobody() -> None:
    keys = decode_keys()
    keys.plan([[7, 3], [9]], [PAGE + 1, PAGE], 4)
    assert keys.write.tolist() == [3 * PAGE, 9 * PAGE + PAGE - 1, NOBODY * PAGE, NOBODY * PAGE]
    keys.plan([[7, 3], [9, 2]], [PAGE + 2, PAGE + 1], 4)
    assert keys.write.tolist()[:2] == [3 * PAGE + 1, 2 * PAGE]


def test_tensors_move_only_when_a_step_is_larger_than_all_before() -> None:
    keys = decode_keys()
    keys.plan([[2] * 40] * 8, [100] * 8, 8)  # 128 keys
    version, places = keys.version, keys.places.data_ptr()
    for blocks, num_keys, num_rows in (
        ([[5]] * 3, [2] * 3, 4),
        ([[2] * 40], [120], 1),
        ([[2]] * 8, [1] * 8, 8),
    ):
        keys.plan(blocks, num_keys, num_rows)
        assert (keys.version, keys.places.data_ptr()) == (version, places)
    assert keys.places.shape == (8, 64)

    keys.plan([[2] * 40] * 8, [129] * 8, 8)

    assert keys.version == version + 1
    assert keys.width == 256
