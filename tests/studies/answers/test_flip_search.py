from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from itertools import combinations

import pytest

from steerd.studies.answers.flip_search import FlipSearch, Set

Margin = Callable[[Set], float]


def search(
    margin: Margin, moves: int, *, max_moves: int = 6, clashes: frozenset[Set] = frozenset()
) -> FlipSearch:
    tried: list[Set] = []

    def try_sets(sets: Sequence[Set]) -> Generator[None, None, list[float]]:
        yield
        tried.extend(sets)
        return [margin(each) for each in sets]

    def may_make(chosen: Set) -> bool:
        return not any(clash <= chosen for clash in clashes)

    found = FlipSearch(moves, margin(frozenset()), max_moves=max_moves, may_make=may_make)
    for _ in found.run(try_sets):
        pass
    assert len(tried) == len(set(tried)) == len(found.leads) - 1
    assert all(not clash <= each for clash in clashes for each in tried)
    return found


def is_minimal(margin: Margin, chosen: Set) -> bool:
    smaller = (frozenset(part) for part in combinations(chosen, len(chosen) - 1))
    return margin(chosen) > 0 and all(margin(part) <= 0 for part in smaller)


@pytest.mark.parametrize("seed", range(20))
def test_of_moves_that_add_up_the_fewest_are_found(seed: int) -> None:
    chance = random.Random(seed)
    gains = [chance.gauss(0.2, 1.0) for _ in range(8)]
    start = -chance.uniform(0.5, 3.0)

    def margin(chosen: Set) -> float:
        return start + sum(gains[move] for move in chosen)

    sizes = [
        len(part)
        for size in range(1, 9)
        for part in combinations(range(8), size)
        if margin(frozenset(part)) > 0
    ]
    found = search(margin, 8, max_moves=8)

    if not sizes:
        assert found.smallest is None
        return
    assert found.smallest is not None
    assert len(found.smallest) == min(sizes)
    assert found.is_minimal(found.smallest)
    assert is_minimal(margin, found.smallest)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_moves_do_together_the_set_is_minimal(seed: int) -> None:
    chance = random.Random(seed)
    margins = {
        frozenset(part): chance.gauss(-1.0, 1.0) for size in range(7) for part in combinations(range(6), size)
    }
    margins[frozenset()] = -1.0
    found = search(margins.__getitem__, 6)

    if any(margins[frozenset({move})] > 0 for move in range(6)):
        assert found.smallest is not None
        assert len(found.smallest) == 1
    if found.smallest is not None:
        assert found.is_minimal(found.smallest)
        assert is_minimal(margins.__getitem__, found.smallest)


def test_moves_that_only_work_together_are_found() -> None:
    """Neither helps while the other stands in for it."""

    def margin(chosen: Set) -> float:
        return 1.0 if {2, 5} <= chosen else -1.0

    found = search(margin, 9)

    assert found.smallest == frozenset({2, 5})
    assert found.is_minimal(frozenset({2, 5}))


def test_of_sets_of_one_size_the_one_that_leads_most_comes_first() -> None:
    gains = [0.5, 3.0, 1.5, 2.0]
    found = search(lambda chosen: sum(gains[move] for move in chosen) - 1.0, 4)

    assert found.flips == [frozenset({move}) for move in (1, 3, 2)]


def test_a_set_is_not_grown_for_ever() -> None:
    """Step by step up to three moves; then the first ones together, more and more of them."""
    found = search(lambda chosen: 0.1 * len(chosen) - 9.0, 30, max_moves=3)

    assert found.smallest is None
    assert {len(each) for each in found.leads} == {0, 1, 2, 3, 4, 8, 16, 30}


def test_many_moves_together_are_cut_down() -> None:
    found = search(lambda chosen: 0.1 * len(chosen) - 1.05, 20, max_moves=2)

    assert found.smallest is not None
    assert len(found.smallest) == 11
    assert found.is_minimal(found.smallest)


def test_moves_that_clash_are_never_made_together() -> None:
    clashes = frozenset({frozenset({0, 1}), frozenset({2, 3})})
    found = search(lambda chosen: len(chosen) - 2.5, 5, clashes=clashes)

    assert found.smallest is not None
    assert len(found.smallest) == 3


def test_nothing_that_flips_is_told_as_nothing() -> None:
    found = search(lambda _chosen: -1.0, 4)

    assert found.smallest is None
    assert found.flips == []


def test_without_moves_nothing_is_tried() -> None:
    assert search(lambda _chosen: -1.0, 0).smallest is None
