"""A response on its way to a client: neither the tenant nor the client may hold it up for ever, and it has no more
bytes than it may have.

It refuses to know by which protocol it goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final

from .asked import HttpLimits
from .messages import Response

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_NO_BODY: Final = frozenset({204, 205, 304})


class Overrun(Exception):
    """An answer that was begun, and cannot be finished."""


def announced(response: Response) -> int | None:
    """How many bytes are said to follow, None where that is not said."""
    return None if response.status in _NO_BODY else response.length


async def pass_on(response: Response, limits: HttpLimits, send: Send, kind: str) -> None:
    """The body, piece by piece, each as an event of this kind. `TimeoutError`, `Overrun`."""
    if response.status in _NO_BODY:
        return
    sent = 0
    async for piece in _in_time(response, limits.idle_s):
        sent += len(piece)
        if response.length is not None and sent > response.length:
            raise Overrun(f"the response is longer than the {response.length:,} bytes that it has")
        if limits.response_bytes is not None and sent > limits.response_bytes:
            raise Overrun(f"the response is longer than {limits.response_bytes:,} bytes")
        try:
            async with asyncio.timeout(limits.idle_s):
                await send({"type": kind, "body": piece, "more_body": True})
        except TimeoutError:
            raise Overrun(f"the client took nothing of the response for {limits.idle_s:g} s") from None
    if response.length is not None and sent < response.length:
        raise Overrun(f"the response ended after {sent:,} bytes of {response.length:,}")


async def _in_time(response: Response, seconds: float) -> AsyncIterator[bytes]:
    reading = aiter(response)
    while True:
        async with asyncio.timeout(seconds):
            piece = await anext(reading, None)
        if piece is None:
            return
        yield piece
