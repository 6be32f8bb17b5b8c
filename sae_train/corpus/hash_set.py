"""A set of 64-bit hashes in one flat table, filled and asked by whole arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sae_train.corpus.word_grams import Hashes

_SMALLEST = 1 << 16


class HashSet:
    """Hashes other than zero, in an open table of 8 bytes a place that is at most two thirds full.

    So 12 to 24 bytes a hash, and half as much again for the moment in which the table grows.
    """

    def __init__(self) -> None:
        self._table = np.zeros(_SMALLEST, dtype=np.uint64)  # zero: a free place
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def num_bytes(self) -> int:
        """Memory of the table."""
        return self._table.nbytes

    def contains(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Say of each hash whether it is in the set."""
        found = np.zeros(len(hashes), dtype=np.bool_)
        asked = np.arange(len(hashes))
        places = self._first_places(hashes)
        while len(asked):
            held = self._table[places]
            found[asked] = held == hashes[asked]
            go_on = (held != hashes[asked]) & (held != 0)
            asked, places = asked[go_on], self._next(places[go_on])
        return found

    def add(self, hashes: Hashes) -> None:
        """Put hashes in, which may repeat or be there already."""
        hashes = _distinct(hashes)
        while 3 * (self._count + len(hashes)) > 2 * len(self._table):
            self._grow()
        self._count += self._place(hashes)

    def _place(self, hashes: Hashes) -> int:
        """Write distinct hashes to the first free places from their own on; returns how many are new."""
        new = 0
        places = self._first_places(hashes)
        while len(hashes):
            is_free = self._table[places] == 0
            self._table[places[is_free]] = hashes[is_free]
            # Of several that met at one free place the last is there now; the others go on.
            is_there = self._table[places] == hashes
            new += int((is_there & is_free).sum())
            hashes, places = hashes[~is_there], self._next(places[~is_there])
        return new

    def _grow(self) -> None:
        hashes = self._table[self._table != 0]
        self._table = np.zeros(2 * len(self._table), dtype=np.uint64)
        self._place(hashes)

    def _first_places(self, hashes: Hashes) -> NDArray[np.int64]:
        return (hashes & np.uint64(len(self._table) - 1)).astype(np.int64)

    def _next(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return (places + 1) & (len(self._table) - 1)


def _distinct(hashes: Hashes) -> Hashes:
    """Each hash once; np.unique takes several times as long for 64-bit integers."""
    hashes = np.sort(hashes)
    is_first = np.ones(len(hashes), dtype=np.bool_)
    is_first[1:] = hashes[1:] != hashes[:-1]
    return hashes[is_first]
