"""A body read as programs do that are written after JavaScript: `reader = body.getReader()`, `await reader.read()`.

Kept with the standard library, for those who ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .values import JsDict

if TYPE_CHECKING:
    from .bodies import Stream


class Piece(bytes):
    """Bytes that can be asked for their bytes."""

    __module__ = "workers"

    def to_bytes(self) -> bytes:
        """The same."""
        return bytes(self)

    to_py = tobytes = to_bytes

    def to_memoryview(self) -> memoryview:
        """The same, without copying it."""
        return memoryview(self)

    @property
    def byteLength(self) -> int:  # noqa: N802 - the names of the SDK
        """How many there are."""
        return len(self)

    length = nbytes = byteLength

    @property
    def buffer(self) -> Piece:
        """The bytes that they are in: the same."""
        return self

    def getBuffer(self, *_: Any) -> Piece:  # noqa: N802 - the names of Pyodide
        """What a proxy of it gives: the same, to be let go of."""
        return self

    @property
    def data(self) -> Piece:
        """What is in that."""
        return self

    def release(self) -> None:
        """It is let go of by itself."""

    destroy = release


class Reader:
    """Reads one body."""

    __module__ = "workers"

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def read(self) -> Any:
        """`{done, value}`."""
        piece = await anext(self._stream, None)
        return JsDict(done=piece is None, value=None if piece is None else Piece(piece))

    async def cancel(self, reason: Any = None) -> None:
        """Nobody reads on."""
        await self._stream.aclose()

    def releaseLock(self) -> None:  # noqa: N802 - the name of the SDK
        """There is no lock."""
