"""A thread for what computes beside the engine's own, at the start or when an SAE is reloaded, and then ends.

OpenMP, by which torch computes on a CPU, keeps a team of threads for each thread that has computed. Where all
teams together are more than the cores, they sleep between two operations instead of waiting awake, and to be
woken hundreds of times a step costs the engine a tenth of its speed and more. A team ends with its thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def in_passing_thread(work: Callable[[], T]) -> T:
    """What `work` returns or raises, once its thread has ended; one that is cancelled is not waited for."""
    result: Future[T] = Future()
    result.set_running_or_notify_cancel()  # so that a cancelled wait leaves the thread its place for a result

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=run, name="steerd-passing", daemon=True)
    thread.start()
    try:
        return await asyncio.wrap_future(result)
    finally:
        if result.done():
            thread.join()
