"""What a client sends: its request's body, and then that it went away.

It reads one piece ahead of whoever reads, and no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Refused(Exception):
    """What is answered without asking the tenant, or instead of what it said."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class Gone(Exception):
    """The client went away."""


class Inbox:
    """What a client sends: the body, one piece ahead of whoever reads it, and then that it went away."""

    def __init__(self, receive: Receive, most: int | None) -> None:
        self._receive, self._most = receive, most
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._gone = asyncio.Event()
        self.refused: Refused | None = None
        self._reader = asyncio.ensure_future(self._read())

    async def unless_gone(self, work: Awaitable[None]) -> None:
        """Do something, and stop doing it when the client goes. `Gone`."""
        doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(self._gone.wait())
        try:
            await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return doing.result()
            raise Gone
        finally:
            gone.cancel()
            doing.cancel()
            await asyncio.wait({doing})
            if not doing.cancelled():
                doing.exception()

    async def body(self) -> AsyncIterator[bytes]:
        """The body. `Refused` when there is more of it than may be."""
        while (piece := await self._pieces.get()) is not None:
            yield piece
        if self.refused is not None:
            raise self.refused

    async def close(self) -> None:
        """Nobody reads any longer."""
        self._reader.cancel()
        await asyncio.wait({self._reader})
        if not self._reader.cancelled():
            self._reader.exception()

    async def _read(self) -> None:
        taken, more = 0, True
        try:
            while True:
                event = await self._receive()
                if event["type"] == "http.disconnect":
                    return
                piece = event.get("body", b"")
                taken += len(piece)
                if more and self._most is not None and taken > self._most:
                    self.refused = Refused(413, f"The body is longer than {self._most:,} bytes.")
                    more = False
                    await self._pieces.put(None)
                if more and piece:
                    await self._pieces.put(piece)
                if more and not event.get("more_body", False):
                    more = False
                    await self._pieces.put(None)
        finally:
            self._gone.set()
