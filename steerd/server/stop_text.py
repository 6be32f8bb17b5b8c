"""Holds text back while it may be the start of a stop string, so that none is ever sent."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Lets the text of one generation through up to the first stop string, and nothing after it."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self._stopped = False

    def push(self, text: str) -> str:
        """Take new text; return what is certain to be before any stop string."""
        if self._stopped:
            return ""
        self._held += text
        found = [start for start in map(self._held.find, self._stop) if start >= 0]
        self._stopped = bool(found)
        return self._release(min(found)) if found else self._release(len(self._held) - self._possible_start())

    def flush(self) -> str:
        """The rest, when no text will follow; empty after a stop string."""
        return "" if self._stopped else self._release(len(self._held))

    def _possible_start(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0

    def _release(self, length: int) -> str:
        released, self._held = self._held[:length], self._held[length:]
        return released
