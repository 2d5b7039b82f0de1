"""Bodies: read once, here or by whoever they are sent to, and never faster than they are asked for.

A piece is asked for with one plain call, and not as a stream that runs ahead, so that it can also be had while the
loop is held up. Not imported by the guest itself: it is kept with the standard library, for those who ask.
"""

from __future__ import annotations

import contextlib
import copy
import json
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Self

from cloister.ipc.capabilities import RpcTarget
from cloister.ipc.stubs import Stub

from . import scope
from .values import JsDict

INLINE: Final = 256 * 1024
"""Bytes of a body that travel with its head, and of one piece of a longer body."""


class Stream(RpcTarget):
    """A body: an asynchronous iterator of bytes that can be read once, here or by whoever it is sent to."""

    __module__ = "workers"

    def __init__(self, source: bytes | AsyncIterator[Any]) -> None:
        self._whole = source if isinstance(source, bytes) else b""
        self._rest = None if isinstance(source, bytes) else source
        self.used = False

    @classmethod
    def _of(cls, whole: bytes, rest: AsyncIterator[Any]) -> Self:
        stream = cls(rest)
        stream._whole = whole
        return stream

    @property
    def short(self) -> bool:
        """Whether it is all here, and little enough to go with the head."""
        return self._rest is None and len(self._whole) <= INLINE

    @property
    def length(self) -> int | None:
        """How many bytes it has, if all of it is here."""
        return len(self._whole) if self._rest is None else None

    def clone(self) -> Stream:
        """Another one of the same."""
        if self._rest is None:
            return Stream(self._whole)
        from . import tees

        mine, other = tees.tee(Stream._of(self._whole, self._rest))
        self._whole, self._rest = b"", mine
        return other

    async def next(self) -> dict[str, Any]:
        """The next piece, for the other side."""
        piece = await anext(self, None)
        return {"done": piece is None, "value": piece}

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self.used = True
        while not self._whole:
            if self._rest is None:
                raise StopAsyncIteration
            self._whole = _bytes(await anext(self._rest))
        piece, self._whole = self._whole[:INLINE], self._whole[INLINE:]
        if "js" in sys.modules:  # whose programs ask more of a piece
            from . import readers

            return readers.Piece(piece)
        return piece

    def getReader(self) -> Any:  # noqa: N802 - the name of the SDK
        """What programs read it with that are written after JavaScript."""
        from . import readers

        return readers.Reader(self)

    async def aclose(self) -> None:
        """Nobody reads on."""
        rest, self._rest, self._whole = self._rest, None, b""
        if (close := getattr(rest, "aclose", None)) is not None:
            with contextlib.suppress(RuntimeError):  # it is being read, and told so
                await close()

    def arrived(self) -> Stream:
        """The same as it came here, if that was compressed."""
        return self

    def take(self) -> bytes:
        """All of a short one at once."""
        self.used = True
        return self._whole


class Bodied(RpcTarget):
    """What has a body: how that is read, and how it is sent."""

    body: Stream | None = None
    _going: Stream | None = None
    """What is sent for the body, where that is not the body itself."""

    @property
    def body_used(self) -> bool:
        """Whether the body was read, or sent, or begun to be."""
        return self.body is not None and self.body.used

    bodyUsed = body_used  # noqa: N815 - the names of the SDK

    def _open(self) -> Stream:
        if self.body_used:
            raise OSError("Body already used")
        return self.body if self.body is not None else Stream(b"")

    async def bytes(self) -> bytes:
        """The body. Programs that speak to JavaScript ask more of it than of bytes."""
        whole = b"".join([piece async for piece in self._open()])
        if "js" not in sys.modules:
            return whole
        from . import readers

        return readers.Piece(whole)

    async def text(self) -> str:
        """The body as text."""
        return (await self.bytes()).decode("utf-8", "replace")

    async def buffer(self) -> Any:
        """The body as bytes that can also be asked what programs ask of JavaScript's buffers."""
        from . import readers

        return readers.Piece(await self.bytes())

    arrayBuffer = buffer  # noqa: N815

    async def memoryview(self) -> memoryview:
        """The body, without copying it once more."""
        return memoryview(await self.bytes())

    async def _json(self, **options: Any) -> Any:
        try:
            found = json.loads(await self.text(), **{"object_hook": JsDict, **options})
        except json.JSONDecodeError as error:
            if "pyodide.ffi" not in sys.modules:
                raise
            from . import conversions

            raise conversions.NotJson(error) from None
        if type(found) is not list:
            return found
        from . import conversions

        return conversions.JsArray(found)

    json: Any = _json

    async def blob(self) -> Any:
        """The body as a blob of the type that its headers say."""
        from . import blobs

        return blobs.of(await self.bytes(), self)

    async def form_data(self) -> Any:
        """The body as a form. `TypeError` if it is none."""
        from . import forms

        kind = self._headers.get("content-type")  # type: ignore[attr-defined]
        return forms.parsed(await self.bytes(), kind)

    formData = form_data  # noqa: N815

    @property
    def js_object(self) -> Self:
        """Itself: there is nothing below it."""
        return self

    _js_request = js_response = js_object

    async def next(self) -> dict[str, Any]:
        """The next piece of the body, for the other side."""
        body = self.body if self._going is None else self._going
        return {"done": True, "value": None} if body is None else await body.next()

    def rpc_returned(self, attributes: Mapping[str, Any]) -> Self:
        """Another of the same if its body went along with it, which it has brought back."""
        if attributes.get("body") is None:
            return self
        again = copy.copy(self)
        again.body = Stream(attributes["body"])
        return again

    def rpc_disposed(self) -> None:
        """Nobody over there will read on."""
        if (body := self.body if self._going is None else self._going) is not None:
            scope.loop.create_task(body.aclose())

    def _sent(self, kind: str, **head: Any) -> dict[str, Any]:
        """The attributes of the capability that this becomes."""
        stream = self._going
        if stream is None and self.body is not None:
            stream = self._open()
        whole = None if stream is None else stream.take() if stream.short else ...
        if whole is not ...:
            return {"workers.class": kind, **head, "body": whole}
        length = stream.length if stream is not None else None
        return {"workers.class": kind, **head} | ({} if length is None else {"length": length})

    def _receive(self, attributes: Mapping[str, Any], stub: Stub) -> None:
        whole = attributes["body"] if "body" in attributes else _pieces(stub.dup())
        self.body = None if whole is None else Stream(whole)

    def _copied(self, other: Any) -> Any:
        if self.body is not None:
            other.body = self._open().clone()
        return other


def given(body: Any, where: str) -> tuple[Stream | None, str]:
    """What is read of it, and of which type it is unless somebody says otherwise."""
    match body:
        case None:
            return None, ""
        case str():
            return Stream(body.encode()), "text/plain;charset=UTF-8"
        case bytes() | memoryview():
            return Stream(bytes(body)), ""
        case Stream():
            if body.used:
                raise OSError("Body already used")
            return body, ""
        case _ if hasattr(body, "__aiter__"):
            return Stream(aiter(body)), ""
        case _ if hasattr(type(body), "__body__"):  # a form, which says itself what it is
            data, kind = body.__body__()
            return Stream(data), kind
    raise TypeError(f"Unsupported type in {where}: {type(body).__name__}")


async def _pieces(stub: Stub) -> AsyncIterator[bytes]:
    """A body of the other side's."""
    with stub:
        while not (answer := await stub.next())["done"]:
            yield answer["value"]


def _bytes(piece: Any) -> bytes:
    if isinstance(piece, str):
        return piece.encode()
    if isinstance(piece, bytes | bytearray | memoryview):
        return bytes(piece)
    raise TypeError(f"a body yields bytes or text, not {type(piece).__name__}")
