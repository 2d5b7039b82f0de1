"""Results that are streams of bytes: cut into pieces of one size on the way in, and read anew on the way out.

What a source yields is the author's; what is recorded are pieces of `MAX_CHUNK` bytes and a last one of what is left.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from .errors import PayloadTooLarge, StreamError
from .rules import MAX_CHUNK

if TYPE_CHECKING:
    from .protocol import Journal

MAX_YIELD = 16 * 1024 * 1024
"""Bytes that a source may yield at once."""


def is_stream(result: object) -> bool:
    """Whether what a body returned is to be read to its end: an asynchronous iterator, or a generator."""
    return hasattr(result, "__aiter__") or inspect.isgenerator(result)


async def pieces(source: Any, name: str) -> AsyncIterator[bytes]:
    """What it yields, in pieces of one size. `StreamError` if that is anything but bytes."""
    kept = bytearray()
    async for part in _parts(source):
        if not isinstance(part, bytes | bytearray | memoryview):
            raise StreamError(f"the stream of step {name!r} yields {type(part).__name__}; it may yield bytes")
        part = memoryview(part).cast("B")
        if len(part) > MAX_YIELD:
            raise PayloadTooLarge(f"the stream of step {name!r} yields {len(part):,} bytes at once, over {MAX_YIELD:,}")
        kept += part
        while len(kept) >= MAX_CHUNK:
            yield bytes(kept[:MAX_CHUNK])
            del kept[:MAX_CHUNK]
    if kept:
        yield bytes(kept)


async def record(journal: Journal, source: Any, name: str, count: int, attempt: int) -> int:
    """Read a source to its end and record it, piece by piece. How many bytes that were."""
    size = number = 0
    async for piece in pieces(source, name):
        await journal.put_chunk(name, count, attempt, number, piece)
        number += 1
        size += len(piece)
    return size


class ByteStream:
    """A recorded result: `async for chunk in stream`, as often as wanted, or all of it with `await stream.read()`."""

    def __init__(self, journal: Journal, name: str, count: int, size: int) -> None:
        self.size = size
        self._journal, self._name, self._count = journal, name, count

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for number in range(-(-self.size // MAX_CHUNK)):
            piece = await self._journal.chunk(self._name, self._count, number)
            if piece is None:
                raise StreamError(f"piece {number} of the result of step {self._name!r} is missing")
            yield piece

    async def read(self) -> bytes:
        """All of it in one piece."""
        return b"".join([piece async for piece in self])

    def __repr__(self) -> str:
        return f"<ByteStream of {self.size:,} bytes>"


async def _parts(source: Any) -> AsyncIterator[Any]:
    if hasattr(source, "__aiter__"):
        async for part in source:
            yield part
    else:
        for part in source:
            yield part
