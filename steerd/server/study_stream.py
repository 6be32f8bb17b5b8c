"""From the engine's thread to one study's coroutine. Of progress only the latest is kept."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from steerd.engine.study import Progress, StudyEnded, StudyEvent, StudyFailed


@dataclass(frozen=True, slots=True)
class Heard:
    """What came since the last time: parts of the result in order, how far it is, and how it ended."""

    parts: tuple[Any, ...]
    progress: Progress | None
    end: StudyEnded | StudyFailed | None


class StudyStream:
    """The events of one study. Made on the event loop that reads it.

    What it holds is bounded by the study's own size, which is what the limits of studies are for.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._parts: list[Any] = []
        self._progress: Progress | None = None
        self._end: StudyEnded | StudyFailed | None = None

    def deliver(self, event: StudyEvent) -> None:
        """Hand over one event, from any thread; returns at once."""
        with suppress(RuntimeError):  # the loop has been closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._take, event)

    async def next(self) -> Heard:
        """Wait for an event, then take all that are there."""
        await self._arrived.wait()
        self._arrived.clear()
        heard = Heard(tuple(self._parts), self._progress, self._end)
        self._parts, self._progress = [], None
        return heard

    def _take(self, event: StudyEvent) -> None:
        if isinstance(event, Progress):
            self._progress = event
            if event.part is not None:
                self._parts.append(event.part)
        else:
            self._end = event
        self._arrived.set()
