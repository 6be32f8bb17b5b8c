"""Every text of a page once, so that contexts are lists of small numbers."""

from __future__ import annotations

from collections.abc import Iterable


class TokenTable:
    """Numbers texts in the order in which they first come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """Return the text's number."""
        return self._numbers.setdefault(text, len(self._numbers))

    def numbers(self, texts: Iterable[str]) -> list[int]:
        """Return the texts' numbers."""
        return [self.number(text) for text in texts]

    def known(self, texts: Iterable[str]) -> list[int]:
        """Return the numbers of those texts that came."""
        return sorted({self._numbers[text] for text in texts if text in self._numbers})

    def texts(self) -> list[str]:
        """Return the texts by number."""
        return list(self._numbers)
