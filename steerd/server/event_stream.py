"""From the engine's thread to one request's coroutine: a bounded queue that never blocks the engine."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from steerd.engine.events import StreamEvent
from steerd.errors import Overloaded


class EventStream:
    """The events of one request, in order. Made on the event loop that reads it."""

    def __init__(self, capacity: int) -> None:
        """Hold at most `capacity` events that the reader has not taken yet."""
        self._capacity = capacity
        self._loop = asyncio.get_running_loop()
        self._events: list[StreamEvent] = []
        self._arrived = asyncio.Event()
        self._overflowed = False

    def deliver(self, event: StreamEvent) -> None:
        """Hand over one event, from any thread; returns at once."""
        with suppress(RuntimeError):  # the loop has been closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._append, event)

    async def next_events(self) -> list[StreamEvent]:
        """Wait for an event, then take all that are there. Raises Overloaded when some did not fit."""
        await self._arrived.wait()
        if self._overflowed:
            waiting = f"{self._capacity} events were waiting for it"
            raise Overloaded(f"the client reads too slowly: {waiting}", reason="SLOW_READER")
        self._arrived.clear()
        events, self._events = self._events, []
        return events

    def _append(self, event: StreamEvent) -> None:
        self._overflowed = self._overflowed or len(self._events) >= self._capacity
        if not self._overflowed:
            self._events.append(event)
        self._arrived.set()
