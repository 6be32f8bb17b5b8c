"""Documents as 64-bit hashes of their word n-grams, by which copies and near-copies are found.

Words are runs of letters, digits and underscores, in lower case; of scripts written without spaces (Chinese,
Japanese, Thai and its neighbours) each character is a word. A conversation's words are those of its messages
in order, whoever speaks, but for system messages: many conversations share one and are no copies for that.
A document of fewer than n words has one gram, all its words; one without words has none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sae_train.corpus.documents import Document, text_of

Hashes = NDArray[np.uint64]

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_NO_WORD = np.uint64(0x632BE59BD9B4E019)  # fills up a document of fewer than n words
_REMEMBERED_WORDS = 1 << 18


class DocumentGrams(NamedTuple):
    """The grams of some documents in order, none of them zero."""

    hashes: Hashes
    """[grams]"""
    document: NDArray[np.int64]
    """[grams], which of the documents each one is from, rising."""


class WordGrams:
    """Hashes documents; the same text has the same grams in every process."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._word_hashes = _WordHashes()

    def of(self, documents: Sequence[Document]) -> DocumentGrams:
        """Return the grams of every document; equal grams have equal hashes, others but by chance (2^-64)."""
        words = [_WORD.findall(text_of(document).lower()) for document in documents]
        found = np.array([len(row) for row in words], dtype=np.int64)  # [documents]
        rows = np.where(found == 0, 0, np.maximum(found, self.length))
        ends = np.cumsum(rows)
        hashes = np.full(int(rows.sum()), _NO_WORD)  # [words], short documents filled up
        places = np.arange(found.sum()) + np.repeat(ends - rows - (np.cumsum(found) - found), found)
        hashes[places] = self._word_hashes.of(words, int(found.sum()))
        owner = np.repeat(np.arange(len(documents)), rows)
        starts = np.flatnonzero(np.arange(len(hashes)) + self.length <= ends[owner])
        return DocumentGrams(self._rolling(hashes)[starts], owner[starts])

    def _rolling(self, words: Hashes) -> Hashes:
        """The hash [words - n + 1] of each run of n words."""
        runs = max(len(words) - self.length + 1, 0)
        rolled = np.zeros(runs, dtype=np.uint64)
        for offset in range(self.length):
            rolled *= _MULTIPLIER
            rolled += words[offset : offset + runs]
        return _scattered(rolled)


class _WordHashes(dict[str, int]):
    """64 bits for each word, remembered for the words met lately."""

    def __missing__(self, word: str) -> int:
        """Hash a word that is new here."""
        hashed = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")
        self[word] = hashed
        return hashed

    def of(self, documents: list[list[str]], count: int) -> Hashes:
        """Return the hashes [count] of all words of the documents."""
        if len(self) > _REMEMBERED_WORDS:
            self.clear()
        return np.fromiter(map(self.__getitem__, chain.from_iterable(documents)), np.uint64, count)


def _scattered(hashes: Hashes) -> Hashes:
    """Spread differences in any bits over all bits, for a table that looks at the low ones; never zero."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashes ^= hashes >> np.uint64(31)
    hashes[hashes == 0] = 1
    return hashes
