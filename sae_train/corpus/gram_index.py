"""Which documents share a word n-gram with others, asked of many documents at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from sae_train.corpus.documents import Document
from sae_train.corpus.hash_set import HashSet
from sae_train.corpus.word_grams import DocumentGrams, WordGrams


class GramIndex:
    """The grams of the documents put in so far."""

    def __init__(self, length: int) -> None:
        self._grams = WordGrams(length)
        self._seen = HashSet()

    @property
    def seen(self) -> HashSet:
        """The hashes of the grams."""
        return self._seen

    def add(self, documents: Sequence[Document]) -> None:
        """Put in the grams of all these documents."""
        self._seen.add(self._grams.of(documents).hashes)

    def overlaps(self, documents: Sequence[Document]) -> NDArray[np.bool_]:
        """Say of each document whether it shares a gram with those put in."""
        return self._overlaps(self._grams.of(documents), len(documents))

    def admit(self, documents: Sequence[Document]) -> NDArray[np.bool_]:
        """Take the documents in order; say of each whether it is kept, and put in the grams of those."""
        grams = self._grams.of(documents)
        is_dropped = self._overlaps(grams, len(documents))
        _drop_later_ones(grams, is_dropped)
        self._seen.add(grams.hashes[~is_dropped[grams.document]])
        return ~is_dropped

    def _overlaps(self, grams: DocumentGrams, documents: int) -> NDArray[np.bool_]:
        overlapping = np.zeros(documents, dtype=np.bool_)
        overlapping[grams.document[self._seen.contains(grams.hashes)]] = True
        return overlapping


def _drop_later_ones(grams: DocumentGrams, is_dropped: NDArray[np.bool_]) -> None:
    """Mark the documents that share a gram with an earlier one of the same group that is not marked."""
    is_open = ~is_dropped[grams.document]
    hashes, owners = grams.hashes[is_open], grams.document[is_open]
    order = np.argsort(hashes, kind="stable")
    met, owner = hashes[order], owners[order]
    is_shared = (met[1:] == met[:-1]) & (owner[1:] != owner[:-1])
    shared = np.isin(hashes, met[1:][is_shared])
    held: set[int] = set()
    # Few grams are shared, so this walk over the documents is short.
    pairs = zip(owners[shared].tolist(), hashes[shared].tolist(), strict=True)
    for document, group in groupby(pairs, key=itemgetter(0)):
        found = [gram for _, gram in group]
        if held.isdisjoint(found):
            held.update(found)
        else:
            is_dropped[document] = True
