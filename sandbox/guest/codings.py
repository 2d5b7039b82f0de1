"""Bodies that travel compressed: what a response says of itself in `Content-Encoding` is done to its body when it
leaves, and undone where it is read. So it is the tenant's time that compresses, and its memory that a bomb bursts in.

What arrived and is passed on as it is takes neither. A piece that a body has made is sent whatever comes after it.
Not imported by the guest itself: it is kept with the standard library, for those who ask.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator
from typing import Final, Self

from .bodies import INLINE, Stream

_GZIP: Final = zlib.MAX_WBITS | 16
_NO_BROTLI: Final = "there is no brotli in a sandbox"


def encoded(body: Stream, coding: str) -> Stream:
    """The body as it leaves. `TypeError` for a coding that there is no library for."""
    if isinstance(body, Coded) and body.coding == coding:
        body.used = True
        return body.arrived()
    if coding != "gzip":
        raise TypeError(f"{_NO_BROTLI}: send gzip, or what is compressed already with encodeBody 'manual'")
    if body.short:
        return Stream(zlib.compress(body.take(), wbits=_GZIP))
    body.used = True
    return Stream(_Through(body, _compressed(body)))


class Coded(Stream):
    """A body that arrived compressed. Whoever reads it has what was compressed."""

    __module__ = "workers"

    def __init__(self, source: Stream, coding: str) -> None:
        super().__init__(_Through(source, _plain(source, coding)))
        self._source, self.coding = source, coding

    def arrived(self) -> Stream:
        """The bytes that came."""
        return self._source

    def clone(self) -> Stream:
        """Another one of the same."""
        return Coded(self._source.clone(), self.coding) if not self.used else super().clone()


class _Through:
    """What is made of a body as that is read. Nobody reads on in either if nobody does here."""

    def __init__(self, source: Stream, pieces: AsyncGenerator[bytes]) -> None:
        self._source, self._pieces = source, pieces

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        try:
            await self._pieces.aclose()
        finally:
            await self._source.aclose()


async def _compressed(source: Stream) -> AsyncGenerator[bytes]:
    machine = zlib.compressobj(wbits=_GZIP)
    async for piece in source:
        yield machine.compress(piece) + machine.flush(zlib.Z_SYNC_FLUSH)
    yield machine.flush()


async def _plain(source: Stream, coding: str) -> AsyncGenerator[bytes]:
    if coding != "gzip":
        raise OSError(f"the body is compressed by {coding}, and {_NO_BROTLI}: ask with `Accept-Encoding: gzip`")
    machine, over = zlib.decompressobj(wbits=_GZIP), True
    async for left in source:
        more = True
        while left or more:
            try:
                piece = machine.decompress(left, INLINE)
            except zlib.error as error:
                raise OSError(f"the body is not gzip, as its content-encoding says: {error}") from None
            left, over = machine.unconsumed_tail or machine.unused_data, machine.eof
            more = not over and len(piece) == INLINE  # there may be some that took all of the input
            if over:
                machine = zlib.decompressobj(wbits=_GZIP)  # another member may follow
            if piece:
                yield piece
    if not over:
        raise OSError("the body ended early: it is gzip, as its content-encoding says, and not whole")
