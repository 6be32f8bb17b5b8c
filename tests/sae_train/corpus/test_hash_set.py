from __future__ import annotations

import numpy as np
import pytest

from sae_train.corpus.hash_set import HashSet


@pytest.mark.parametrize("highest", [2**64 - 1, 50_000])
def test_it_holds_what_a_plain_set_holds(highest: int) -> None:
    """Small numbers lie side by side in the table, so that runs of taken places are long."""
    draw = np.random.default_rng(0)
    hashes, plain = HashSet(), set[int]()

    for _ in range(40):
        added = draw.integers(1, highest, 5_000, dtype=np.uint64)
        asked = np.concatenate([draw.integers(1, highest, 5_000, dtype=np.uint64), added])
        found = hashes.contains(asked)
        assert found.tolist() == [hashed in plain for hashed in asked.tolist()]
        hashes.add(added)
        plain.update(added.tolist())
        assert len(hashes) == len(plain)

    assert bool(hashes.contains(np.fromiter(plain, np.uint64)).all())


def test_hashes_that_meet_at_one_place_are_all_kept() -> None:
    hashes = HashSet()
    meeting = np.arange(1, 1000, dtype=np.uint64) << np.uint64(40)

    hashes.add(meeting)
    hashes.add(meeting)

    assert len(hashes) == 999
    assert bool(hashes.contains(meeting).all())
    assert not hashes.contains(meeting + np.uint64(1)).any()


def test_it_takes_12_to_24_bytes_a_hash() -> None:
    draw = np.random.default_rng(0)
    hashes = HashSet()

    sizes = []
    for _ in range(50):
        hashes.add(draw.integers(1, 2**64 - 1, 10_007, dtype=np.uint64))
        sizes.append(hashes.num_bytes / len(hashes))

    assert max(sizes[10:]) < 25
    assert min(sizes) >= 12


def test_an_empty_one_holds_nothing() -> None:
    hashes = HashSet()
    hashes.add(np.zeros(0, dtype=np.uint64))

    assert len(hashes) == 0
    assert hashes.contains(np.array([5], dtype=np.uint64)).tolist() == [False]
