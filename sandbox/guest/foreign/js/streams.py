"""Streams, as JavaScript makes them: `ReadableStream.new({"start": ..., "pull": ...})`, `TransformStream.new()`.

What is put into one is kept until it is read. Who waits for each thing that it writes is held up by a reader who does
not keep up; who does not wait is not.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from cloister.sandbox.guest import scope
from cloister.sandbox.guest.bodies import Stream
from cloister.sandbox.guest.conversions import JsArray, JsException
from cloister.sandbox.guest.worker import result

_ENOUGH: Final = 16
"""Pieces beyond which whoever writes waits."""


class Controller:
    """What is in a stream, and whether more is to come."""

    def __init__(self) -> None:
        self._kept: deque[Any] = deque()
        self._over = False
        self._error: BaseException | None = None
        self._changed = asyncio.Event()

    @property
    def desiredSize(self) -> int:  # noqa: N802 - the names of JavaScript
        """How many pieces more there is room for."""
        return _ENOUGH - len(self._kept)

    def enqueue(self, piece: Any = None) -> None:
        """One piece more."""
        if self._over:
            raise TypeError("Can't enqueue: the stream is closed.")
        self._kept.append(piece)
        self._changed.set()

    def close(self) -> None:
        """There are no more."""
        self._over = True
        self._changed.set()

    terminate = close

    def error(self, reason: Any = None) -> None:
        """Whoever reads on is told so."""
        self._error = reason if isinstance(reason, BaseException) else JsException("Error", str(reason))
        self.close()

    async def room(self) -> None:
        """Wait until there is room."""
        while self.desiredSize <= 0 and not self._over:
            await self._wait()

    async def pieces(self, pull: Callable[..., Any] | None) -> AsyncIterator[Any]:
        """What is in it, to its end; asked for where it has to be."""
        try:
            while self._kept or not self._over:
                if self._kept:
                    piece = self._kept.popleft()
                    self._changed.set()
                    yield piece
                elif pull is None:
                    await self._wait()
                else:
                    await result(pull, self)
                    if not self._kept and not self._over:
                        await self._wait()
            if self._error is not None:
                raise self._error
        finally:
            self.close()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class ReadableStream(Stream):
    """To be read: a body, or by way of `getReader`."""

    @classmethod
    def new(cls, source: Mapping[str, Any] | None = None, *_: Any, **more: Any) -> ReadableStream:
        """What `start` and `pull` put into it; `cancel` is called when nobody reads on."""
        given, controller = {**(source or {}), **more}, Controller()
        if (start := given.get("start")) is not None:
            scope.wait_until(_begun(start, controller))
        return cls(_Source(controller.pieces(given.get("pull")), given.get("cancel")))

    @property
    def locked(self) -> bool:
        """Whether somebody reads it."""
        return self.used

    def tee(self) -> JsArray:
        """Two of the same."""
        return JsArray((self, self.clone()))

    def pipeThrough(self, other: Any, *_: Any, **__: Any) -> ReadableStream:  # noqa: N802
        """What a transform makes of it."""
        scope.wait_until(self.pipeTo(other.writable))
        readable: ReadableStream = other.readable
        return readable

    async def pipeTo(self, writable: WritableStream, *_: Any, **__: Any) -> None:  # noqa: N802
        """Write all of it elsewhere."""
        writer = writable.getWriter()
        async for piece in self:
            await writer.write(piece)
        await writer.close()

    async def cancel(self, _: Any = None) -> None:
        """Nobody reads on."""
        await self.aclose()


class _Source:
    """Where the pieces of a stream come from, and who is told that no more are wanted."""

    def __init__(self, pieces: AsyncIterator[Any], cancel: Callable[..., Any] | None) -> None:
        self._pieces, self._cancel = pieces, cancel

    def __aiter__(self) -> _Source:
        return self

    async def __anext__(self) -> Any:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            await result(cancel, None)
        await self._pieces.aclose()  # type: ignore[attr-defined]


class WritableStream:
    """To be written to: `writer = stream.getWriter()`, `await writer.write(piece)`, `await writer.close()`."""

    def __init__(self, sink: Mapping[str, Any], controller: Any) -> None:
        self._sink, self._controller = sink, controller

    @classmethod
    def new(cls, sink: Mapping[str, Any] | None = None, *_: Any, **more: Any) -> WritableStream:
        """What is written goes to `write`, and the end to `close`."""
        return cls({**(sink or {}), **more}, Controller())

    def getWriter(self) -> WritableStream:  # noqa: N802
        """Itself."""
        return self

    def write(self, piece: Any = None) -> Awaitable[None]:
        """One piece more, from now on."""
        return asyncio.ensure_future(self._do("write", piece, self._controller))

    def close(self) -> Awaitable[None]:
        """There are no more."""
        return asyncio.ensure_future(self._do("close"))

    async def abort(self, reason: Any = None) -> None:
        """Whoever reads is told that there are no more, and that something went wrong."""
        self._controller.error(reason or "the stream was aborted")
        await self._do("abort", reason)

    def releaseLock(self) -> None:  # noqa: N802
        """There is no lock."""

    @property
    async def ready(self) -> None:
        """When there is room for more."""
        await self._controller.room()

    async def _do(self, what: str, *args: Any) -> None:
        if (function := self._sink.get(what)) is not None:
            await result(function, *args)


class TransformStream:
    """Two ends: what is written to `writable` is read from `readable`, perhaps as something else."""

    def __init__(self, transformer: Mapping[str, Any]) -> None:
        self._transformer, self._controller = transformer, Controller()
        self.readable = ReadableStream(_Source(self._controller.pieces(None), None))
        self.writable = WritableStream({"write": self._write, "close": self._close}, self._controller)

    @classmethod
    def new(cls, transformer: Any = None, *_: Any, **more: Any) -> TransformStream:
        """One of them. `transform(piece, controller)` and `flush(controller)` are called, if they are given."""
        return cls({**(transformer if isinstance(transformer, Mapping) else {}), **more})

    async def _write(self, piece: Any, controller: Controller) -> None:
        if (transform := self._transformer.get("transform")) is not None:
            await result(transform, piece, controller)
        else:
            controller.enqueue(piece)
        await controller.room()

    async def _close(self) -> None:
        if (flush := self._transformer.get("flush")) is not None:
            await result(flush, self._controller)
        self._controller.close()


FixedLengthStream = IdentityTransformStream = TransformStream


async def _begun(start: Callable[..., Any], controller: Controller) -> None:
    try:
        await result(start, controller)
    except Exception as error:  # which is told to whoever reads
        controller.error(error)
