"""Writing to clients that may take nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from steerd.errors import Overloaded

# Messages of any RPC are written here, hence Any.
Context = grpc.aio.ServicerContext[Any, Any]


async def write_in_time(context: Context, message: Any, limit_seconds: float) -> None:
    """Write one message; raises Overloaded when the client takes none for too long."""
    try:
        async with asyncio.timeout(limit_seconds):
            await context.write(message)
    except TimeoutError:
        problem = f"the client reads too slowly: it took nothing for {limit_seconds:g} seconds"
        raise Overloaded(problem, reason="SLOW_READER") from None
