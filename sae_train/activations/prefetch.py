"""An iterator that works one item ahead, in a thread of its own."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(items: Iterator[T]) -> Generator[T, None, None]:
    """Yield the same items; while one is used, the next is made.

    What making it raises is raised here. The thread ends with this iterator.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as thread:
        coming = thread.submit(_next_or_none, items)
        while (item := coming.result()) is not None:
            coming = thread.submit(_next_or_none, items)
            yield item[0]


def _next_or_none(items: Iterator[T]) -> tuple[T] | None:
    for item in items:
        return (item,)
    return None
