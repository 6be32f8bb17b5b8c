"""What is in the hash of a page, and which blocks hold which."""

from __future__ import annotations

import random

import numpy as np
import pytest

from steerd.engine.prefix_pages import PrefixPages, PromptEdit, page_hashes

PAGE = 4
PROMPT = list(range(100, 111))  # two pages and three tokens


def edit(content: bytes = b"edit", **factors: float) -> PromptEdit:
    """An edit with these factors: row_3=0.5, say; 0 elsewhere."""
    found = np.zeros(len(PROMPT), dtype=np.float32)
    for row, factor in factors.items():
        found[int(row.removeprefix("row_"))] = factor
    return PromptEdit(content, found)


def hashes(*edits: PromptEdit, prompt: list[int] = PROMPT) -> tuple[bytes, ...]:
    return page_hashes(prompt, edits, PAGE)


def test_only_full_pages_have_a_hash() -> None:
    assert [len(page_hashes(PROMPT[:length], [], PAGE)) for length in (1, 3, 4, 7, 8, 11)] == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    assert hashes(prompt=PROMPT[:8]) == hashes()


def test_a_page_depends_on_every_token_up_to_its_end_and_on_none_after() -> None:
    for position in range(len(PROMPT)):
        changed = [*PROMPT[:position], 7, *PROMPT[position + 1 :]]
        same = [a == b for a, b in zip(hashes(prompt=changed), hashes(), strict=True)]
        assert same == [position >= PAGE, position >= 2 * PAGE]


def test_a_page_depends_on_every_edit_up_to_its_end_and_on_none_after() -> None:
    for position in range(len(PROMPT)):
        steered = hashes(edit(**{f"row_{position}": 1.0}))
        same = [a == b for a, b in zip(steered, hashes(), strict=True)]
        assert same == [position >= PAGE, position >= 2 * PAGE]


@pytest.mark.parametrize(
    "other",
    [
        [edit(b"edit", row_1=0.5)],
        [edit(b"edit", row_2=1.0)],
        [edit(b"other", row_1=1.0)],
        [edit(b"edit", row_1=1.0, row_2=1.0)],
        [edit(b"edit", row_1=1.0), edit(b"edit", row_1=1.0)],
        [edit(b"edit", row_1=1.0), edit(b"other", row_3=1.0)],
        [],
    ],
)
def test_other_edits_are_other_pages(other: list[PromptEdit]) -> None:
    assert hashes(edit(row_1=1.0)) != hashes(*other)


def test_the_order_of_edits_and_where_one_ends_are_in_the_hash() -> None:
    a, b = edit(b"a", row_0=1.0), edit(b"b", row_0=1.0)
    zeros = np.zeros(PAGE, dtype=np.float32).tobytes()
    assert hashes(a, b) != hashes(b, a)
    assert hashes(edit(b"a" + zeros, row_0=1.0)) != hashes(edit(b"a", row_0=1.0))


def test_an_edit_of_no_row_of_the_prompt_changes_nothing() -> None:
    assert hashes(edit(), edit(row_10=1.0)) == hashes()


def test_blocks_are_found_as_far_as_the_beginning_is_there() -> None:
    pages = PrefixPages()
    pages.keep([5, 9], [b"a", b"b"])
    assert pages.find([b"a", b"b", b"c"]) == [5, 9]
    assert pages.find([b"b"]) == [9]
    assert pages.find([b"c", b"a"]) == []
    pages.forget([5])
    assert pages.find([b"a", b"b"]) == []


def test_the_last_used_block_is_the_newest() -> None:
    pages = PrefixPages()
    pages.keep([1, 2], [b"a", b"b"])
    pages.keep([3], [b"c"])
    pages.find([b"a"])
    first, second, third, none = pages.used_at([1, 2, 3, 4])
    assert none == 0 < second < third < first


def test_random_walk_never_finds_what_a_block_no_longer_holds() -> None:
    chance, pages = random.Random(0), PrefixPages()
    held: dict[int, bytes] = {}
    found = 0
    for _ in range(3000):
        blocks = chance.sample(range(12), chance.randint(1, 4))
        if chance.random() < 0.4:
            pages.forget(blocks)
            for block in blocks:
                held.pop(block, None)
        else:
            chain = [bytes([chance.randrange(3), depth]) for depth in range(len(blocks))]
            for block in pages.find(chain):
                found += 1
                assert held[block] == chain[0]
                chain.pop(0)
            pages.forget(blocks)
            chain = [bytes([chance.randrange(3), depth]) for depth in range(len(blocks))]
            pages.keep(blocks, chain)
            held |= dict(zip(blocks, chain, strict=True))
        assert len(pages) == len(held)
        if not held:
            assert not pages.find([bytes([number, 0]) for number in range(3)])
    assert found > 100
