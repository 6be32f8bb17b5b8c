"""Work before the engine's: its result, its failure, and that nothing of its thread is left."""

from __future__ import annotations

import asyncio
import threading

import pytest

from steerd.passing_thread import in_passing_thread


def test_the_result_comes_when_the_thread_has_ended() -> None:
    async def scenario() -> tuple[threading.Thread, bool]:
        thread = await in_passing_thread(threading.current_thread)
        return thread, thread.is_alive()

    thread, is_alive = asyncio.run(scenario())

    assert thread is not threading.current_thread()
    assert not is_alive


def test_what_the_work_raises_is_raised() -> None:
    def work() -> None:
        raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        asyncio.run(in_passing_thread(work))


def test_a_cancelled_wait_ends_at_once() -> None:
    begun, released = threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return released.wait(60)

    async def scenario() -> None:
        waiting = asyncio.create_task(in_passing_thread(work))
        await asyncio.to_thread(begun.wait, 60)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not released.is_set()

    try:
        asyncio.run(scenario())
    finally:
        released.set()
