"""Prompt pages whose keys and values are still in memory, found by what made them.

The keys and values of a page depend on the tokens up to its end and on all that was done to their rows, and
on nothing else. Both are in its hash, so a request finds the pages of an equally steered beginning and never
those of another; a page is known by the edits themselves and not by how a request words or scopes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from steerd.engine.request import Capture, GenerationRequest
from steerd.steering.coverage import Floats
from steerd.steering.plan_hash import Identities, edit_bytes
from steerd.steering.request_wishes import RequestWishes


@dataclass(frozen=True, slots=True)
class PromptEdit:
    """One edit of a prompt: bytes that say what it does to a row, and how strong it is on each, [rows]."""

    content: bytes
    factors: Floats


@dataclass(frozen=True, slots=True)
class PromptPages:
    """The hashes of a prompt's full pages, and how many of its tokens may be taken over from others."""

    hashes: tuple[bytes, ...]
    takeable: int


NO_PAGES = PromptPages(hashes=(), takeable=0)


def prompt_pages(
    request: GenerationRequest, wishes: RequestWishes, known: Identities, page_size: int
) -> PromptPages:
    """The pages of a request's prompt; `wishes` is what became of its steering.

    The last row always runs, as the first token comes from it. All rows do where something that is read of
    them is told, and where conditions, triggers or counts of edited rows carry a state from row to row.
    """
    edits = [
        PromptEdit(edit_bytes(intervention, known), edit.coverage.prompt)
        for intervention, edit in zip(request.steering.interventions, wishes.edits, strict=True)
    ]
    needs_all = _tells_of_prompt(request.capture, bool(request.continuation)) or wishes.tests or wishes.lanes
    takeable = 0 if needs_all else len(request.prompt_ids) - 1
    return PromptPages(page_hashes(request.prompt_ids, edits, page_size), takeable)


def _tells_of_prompt(capture: Capture, is_scored: bool) -> bool:
    """Whether the prompt's rows are read: for themselves, or for the summary, which no scored text has."""
    return capture.include_prompt or (capture != Capture() and not is_scored)


def page_hashes(prompt_ids: Sequence[int], edits: Sequence[PromptEdit], page_size: int) -> tuple[bytes, ...]:
    """A hash for each full page of a prompt, of all that its keys and values depend on.

    An edit that is for no row of a page has no part in it.
    """
    hashes: list[bytes] = []
    ids = np.asarray(prompt_ids, dtype="<i8")
    for end in range(page_size, len(ids) + 1, page_size):
        rows = slice(end - page_size, end)
        page = hashlib.blake2b(hashes[-1] if hashes else b"", digest_size=32)
        page.update(ids[rows].tobytes())
        for edit in edits:
            factors = edit.factors[rows].astype("<f4")
            if factors.any():
                page.update(len(edit.content).to_bytes(8, "little") + edit.content + factors.tobytes())
        hashes.append(page.digest())
    return tuple(hashes)


class PrefixPages:
    """Which blocks of the memory hold which page, from when it is complete until the block is given away."""

    def __init__(self) -> None:
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        self._used_at: dict[int, int] = {}  # by block, a number that grows with each use
        self._clock = count(1)

    def __len__(self) -> int:
        return len(self._hash_of)

    def find(self, hashes: Sequence[bytes]) -> list[int]:
        """The blocks of the longest beginning of these pages that is there."""
        blocks: list[int] = []
        for page_hash in hashes:
            block = self._block_of.get(page_hash)
            if block is None:
                break
            blocks.append(block)
        self._use(blocks)
        return blocks

    def keep(self, blocks: Sequence[int], hashes: Sequence[bytes]) -> None:
        """These blocks hold these pages from now on."""
        for block, page_hash in zip(blocks, hashes, strict=True):
            self._hash_of[block] = page_hash
            self._block_of[page_hash] = block
        self._use(blocks)

    def forget(self, blocks: Iterable[int]) -> None:
        """What these blocks hold is about to be overwritten."""
        for block in blocks:
            page_hash = self._hash_of.pop(block, None)
            self._used_at.pop(block, None)
            if page_hash is not None and self._block_of.get(page_hash) == block:
                del self._block_of[page_hash]

    def used_at(self, blocks: Sequence[int]) -> list[int]:
        """When the page in each block was last of use, as a growing number; 0 for a block that holds none."""
        return [self._used_at.get(block, 0) for block in blocks]

    def _use(self, blocks: Iterable[int]) -> None:
        now = next(self._clock)
        self._used_at.update((block, now) for block in blocks)
