"""Bodies on their way between host and sandbox: a short one travels with its head, a longer one is asked for in pieces.

A piece that comes out of a sandbox is checked here: it is bytes, or nothing that anybody reads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, Final

from cloister.ipc import CapabilityError, Stub, values
from cloister.ipc.streams import RemoteStream
from cloister.ipc.stubs import Channel, RemoteMethod

from .headers import Malformed

INLINE: Final = 256 * 1024
"""Bytes of a body that travel with its head."""
CLASS: Final = "workers.class"
Body = bytes | AsyncIterator[bytes] | None
Whole = bytes | None


class Sent:
    """A message on its way into a sandbox, as the capability that it crosses as."""

    uncounted = True
    """Reading what one was given is no subrequest."""

    def __init__(self, kind: str, head: Mapping[str, Any], body: Body) -> None:
        if isinstance(body, bytes) and len(body) > INLINE:
            body = pieces(body)
        self.attributes = {CLASS: kind, **head}
        if not hasattr(body, "__aiter__"):
            self.attributes["body"] = body
        self._body = body
        self._turn = asyncio.Lock()

    async def answer(self, method: str, payload: bytes, channel: Channel) -> bytes:
        """The next piece of the body."""
        if method != "next" or not isinstance(self._body, AsyncIterator):
            raise CapabilityError(f"a body has no method {method!r:.40}; it has next()")
        async with self._turn:
            piece = await anext(self._body, None)
        return values.dumps({"done": piece is None, "value": piece})

    def dropped(self) -> None:
        """Nobody over there will read on."""
        if self._body is not None and not isinstance(self._body, bytes):
            asyncio.get_running_loop().create_task(close(self._body))


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    """A body in pieces that fit into a frame."""
    for start in range(0, len(body), INLINE):
        yield body[start : start + INLINE]


def opened(value: object, kind: str) -> tuple[Mapping[str, Any], Body]:
    """The attributes of what crossed as a capability, and its body. `Malformed`."""
    if not isinstance(value, Stub) or value._attributes.get(CLASS) != kind:
        raise Malformed(f"a {kind} was expected, not {type(value).__name__}")
    whole = value._attributes.get("body", ...)
    if whole is None or (isinstance(whole, bytes) and len(whole) <= INLINE):
        return value._attributes, whole
    if whole is not ...:
        size = f"{len(whole):,} bytes" if isinstance(whole, bytes) else type(whole).__name__
        raise Malformed(f"a body of {size}")
    return value._attributes, _asked_for(value.dup())


async def read(source: object) -> AsyncGenerator[bytes]:
    """What a sandbox gave to be read: a stream, a body, or a message with one. `Malformed`."""
    if isinstance(source, RemoteStream):
        async with source:
            async for piece in source:
                yield _piece(piece)
    elif isinstance(source, Stub):
        whole = source._attributes.get("body", ...)
        if whole is not ...:
            yield _piece(whole or b"")
        else:
            async for piece in _asked_for(source.dup()):
                yield piece
    else:
        raise Malformed(f"{type(source).__name__} is no stream of bytes")


async def read_whole(source: object, most: int, more: Callable[[int], None], idle_s: float) -> bytes:
    """All of it, if that is no more than so many bytes. `more` hears of each piece as it is kept. `Malformed`, and
    `TimeoutError` where the next piece does not come within `idle_s` seconds."""
    data = bytearray()
    async with contextlib.aclosing(read(source)) as reading:
        while True:
            async with asyncio.timeout(idle_s):
                piece = await anext(reading, None)
            if piece is None:
                return bytes(data)
            more(len(piece))
            data += piece
            if len(data) > most:
                raise Malformed(f"it has more than {most:,} bytes")


async def close(body: AsyncIterator[bytes]) -> None:
    """Nobody reads on."""
    if (end := getattr(body, "aclose", None)) is not None:
        with contextlib.suppress(RuntimeError):  # it is being read, by whoever closes it
            await end()


def _piece(piece: object) -> bytes:
    if isinstance(piece, str):
        return piece.encode("utf-8", "replace")
    if not isinstance(piece, bytes):
        raise Malformed(f"a piece of a body that is {type(piece).__name__}")
    return piece


async def _asked_for(stub: Stub) -> AsyncIterator[bytes]:
    with stub:
        while True:
            match await RemoteMethod(stub, "next")():  # whatever attribute it has of that name
                case {"done": True}:
                    return
                case {"done": False, "value": bytes(piece)}:
                    yield piece
                case other:
                    raise Malformed(f"a piece of a body that is {other!r:.80}")
