"""A body that streams, read twice: what one half has read is kept until the other has.

Kept with the standard library, for those who ask.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Self

from .bodies import Stream


class _Half:
    def __init__(self, source: Stream, turn: asyncio.Lock) -> None:
        self._source, self._turn = source, turn
        self._kept: deque[bytes] = deque()
        self._left = False
        self.other: _Half

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        async with self._turn:
            if not self._kept:
                piece = await anext(self._source)
                self._kept.append(piece)
                if not self.other._left:
                    self.other._kept.append(piece)
        return self._kept.popleft()

    async def aclose(self) -> None:
        """Nobody reads on; if that holds for both, nobody reads the source."""
        self._left = True
        self._kept.clear()
        if self.other._left:
            await self._source.aclose()


def tee(source: Stream) -> tuple[Stream, Stream]:
    """Two of one."""
    turn = asyncio.Lock()
    one, other = _Half(source, turn), _Half(source, turn)
    one.other, other.other = other, one
    return Stream(one), Stream(other)
