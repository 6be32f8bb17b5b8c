"""Who is being served: everybody while open, nobody new while draining."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from steerd.errors import Unavailable


class Admission:
    """Counts the requests in flight. Belongs to one event loop."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold a place for a request; raises Unavailable while draining."""
        if self._draining:
            raise Unavailable("the server is shutting down", reason="DRAINING")
        self._in_flight += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._empty.set()

    async def drain(self, timeout_seconds: float) -> bool:
        """Admit nobody from now on and wait for those in flight; False when time ran out first."""
        self._draining = True
        try:
            await asyncio.wait_for(self._empty.wait(), timeout_seconds)
        except TimeoutError:
            return False
        return True
