"""Results of steps that are streams of bytes: sent to the host in pieces, and asked for in pieces.

Not imported by the guest itself: it is kept with the standard library, for those who ask.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from .attempts import StreamError

if TYPE_CHECKING:
    from .journal import Journal
    from .steps import Context

_PIECE: Final = 256 * 1024
_MOST_AT_ONCE: Final = 16 * 1024 * 1024


async def record(context: Context, source: Any) -> int:
    """Read a source to its end and have it recorded. How many bytes that were."""
    journal, step = context.__dict__["journal"], context["step"]
    size = number = 0
    async for piece in _pieces(source, step["name"]):
        await journal.ask("put_chunk", step["name"], step["count"], context["attempt"], number, piece)
        number += 1
        size += len(piece)
    return size


class ByteStream:
    """A recorded result: `async for chunk in stream`, as often as wanted, or all of it with `await stream.read()`."""

    __module__ = "workers"

    def __init__(self, journal: Journal, name: str, count: int, size: int) -> None:
        self.size = size
        self._journal, self._step = journal, (name, count)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for number in range(-(-self.size // _PIECE)):
            self._journal.run.busy += 1
            try:
                piece = await self._journal.ask("chunk", *self._step, number)
            finally:
                self._journal.run.busy -= 1
            yield piece

    async def read(self) -> bytes:
        """All of it in one piece."""
        return b"".join([piece async for piece in self])

    def __repr__(self) -> str:
        return f"<ByteStream of {self.size:,} bytes>"


async def _pieces(source: Any, name: str) -> AsyncIterator[bytes]:
    kept = bytearray()
    async for part in _parts(source):
        if not isinstance(part, bytes | bytearray | memoryview):
            raise StreamError(f"the stream of step {name!r} yields {type(part).__name__}; it may yield bytes")
        part = memoryview(part).cast("B")
        if len(part) > _MOST_AT_ONCE:
            raise StreamError(f"the stream of step {name!r} yields {len(part):,} bytes at once, over {_MOST_AT_ONCE:,}")
        kept += part
        while len(kept) >= _PIECE:
            yield bytes(kept[:_PIECE])
            del kept[:_PIECE]
    if kept:
        yield bytes(kept)


async def _parts(source: Any) -> AsyncIterator[Any]:
    if inspect.isgenerator(source):
        for part in source:
            yield part
    else:
        async for part in source:
            yield part
