"""Studies that are made of requests and of other studies: they run on the event loop, not in the engine."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from steerd.engine.study import DeliverStudy, Progress, StudyEnded, StudyFailed
from steerd.errors import Unavailable

R = TypeVar("R")
Part = TypeVar("Part")


class ComposedStudy(ABC, Generic[R]):
    """What it asks of the engine waits its turn there like everybody's; nothing here may take long."""

    def __init__(self) -> None:
        self._stopped = asyncio.Event()

    @abstractmethod
    async def run(self, tell: Callable[[Progress], None]) -> R:
        """Do the work and return its result; once it is stopped, at once, with what is known by then."""

    def stop(self) -> None:
        """Have it end with its result so far. On the event loop."""
        self._stopped.set()

    async def unless_stopped(self, work: Coroutine[Any, Any, Part]) -> Part | None:
        """The result of a part of the work, which is given up for None when the study is stopped."""
        task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return None if self._stopped.is_set() else await task
        finally:
            task.cancel()
            stopped.cancel()


class ComposedJob:
    """One composed study under way, and its end."""

    def __init__(self, study: ComposedStudy[Any], deliver: DeliverStudy) -> None:
        """Begin it; events are delivered as the engine does, the last of them exactly once."""
        self._study = study
        self._deliver = deliver
        self._task = asyncio.create_task(self._run())

    def stop(self, *, keep: bool) -> None:
        """End it with its result so far, or with none; nothing if it has ended."""
        if keep:
            self._study.stop()
        else:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            result = await self._study.run(self._deliver)
        except asyncio.CancelledError:
            self._deliver(StudyFailed(Unavailable("the study was given up", reason="GIVEN_UP")))
            raise
        except Exception as error:
            self._deliver(StudyFailed(error))
        else:
            self._deliver(StudyEnded(result))
