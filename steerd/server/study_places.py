"""How many requests of a study may be in the engine at a time: more while nobody else's are there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_SHARE_BESIDE_OTHERS = 1 / 2
_SHARE_ALONE = 7 / 8  # some are left for a request that comes: it waits for none of the study's to end


class StudyPlaces:
    """Of `most` requests that may run at once. Who comes first is served first. On the event loop."""

    def __init__(self, most: int, in_engine: Callable[[], int]) -> None:
        """`in_engine` tells how many requests run and wait, whose ever they are."""
        self._beside_others = max(int(most * _SHARE_BESIDE_OTHERS), 1)
        self._alone = max(int(most * _SHARE_ALONE), 1)
        self._in_engine = in_engine
        self._taken = 0
        self._left = asyncio.Condition()

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for a place and hold it as long as the block lasts."""
        async with self._left:
            await self._left.wait_for(self._is_free)
            self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
            async with self._left:
                self._left.notify_all()  # there may be room for more than one, or for none yet

    def _is_free(self) -> bool:
        """Where others are, those of the study that are too many leave in their time."""
        is_alone = self._in_engine() <= self._taken
        return self._taken < (self._alone if is_alone else self._beside_others)
