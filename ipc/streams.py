"""Streams: what an asynchronous iterator yields, handed over piece by piece as fast as it is read.

Whoever reads asks for more, and gets what there is by then: nothing is made before it is first asked for, and little
is made ahead (`supply`). So one that is never read costs an entry in a table, and none can flood its reader.
The end of either side ends the other: a reader that lets go closes the iterator, wherever it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import types
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Generator, Hashable, Mapping
from typing import Any, Final, Self

from . import values
from .errors import CapabilityError, CodecError, PayloadError
from .stubs import Channel, Stub, _Share
from .supply import Supply

BATCH_ITEMS: Final = 64
BATCH_BYTES: Final = 256 * 1024
MAX_ITEM: Final = values.MAX_BYTES - 2 * BATCH_BYTES


class Outlet:
    """The end at which a stream is made. An iterator itself, for what comes home before it was read."""

    streams = True
    attributes: Mapping[str, Any] = {}

    def __init__(self, source: Any) -> None:
        stub = isinstance(source, Stub)
        # Not that of an object: a guest may say of one number that it is either, and what an object answers is not to
        # be read as what a stream hands over.
        self.key: Hashable = ("stream", id(source._channel), source._target) if stub else id(source)
        self._source = source.dup() if stub else source
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._ready = Supply()
        self._awaited = 0
        self._end: BaseException | None = None
        self._trace: types.TracebackType | None = None
        self._pump: asyncio.Task[None] | None = None
        self._changed: asyncio.Future[None] | None = None
        self._turn: asyncio.Lock = asyncio.Lock()
        self._readers = 0  # connections that it is granted on, and iterators that came home

    @property
    def subject(self) -> Homecoming:
        """What comes home: an iterator, which is no longer the other side's to end."""
        return Homecoming(self)

    async def answer(self, method: str, payload: bytes, channel: Channel) -> bytes:
        """Hand over what there is, and wait if there is nothing: whether more may come, and items that are encoded."""
        if method != "pull":
            raise CapabilityError(f"a stream has no method {method!r}; it is read with `async for`")
        async with self._turn:
            self._ready.read_over(channel.base)
            await self._some()
            pieces: list[bytes] = []
            size = 0
            while self._ready and len(pieces) < BATCH_ITEMS and size < BATCH_BYTES:
                try:
                    piece = channel.encode(self._ready.first)
                    if len(piece) > MAX_ITEM:
                        raise CodecError(f"it takes {len(piece):,} bytes, and {MAX_ITEM:,} are the most")
                except CodecError as error:
                    if pieces:
                        break  # those before it are handed over first
                    self.close()
                    raise CodecError(f"an item of the stream cannot be sent: {error}") from error
                self._ready.take()
                pieces.append(piece)
                size += len(piece)
            self._notify()
            return values.dumps([bool(self._ready) or not isinstance(self._end, StopAsyncIteration), *pieces])

    def __described__(self) -> str:
        """What makes it."""
        return str(getattr(self._source, "__qualname__", None) or type(self._source).__name__)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if not await self._some():
            raise StopAsyncIteration
        item = self._ready.take()
        self._notify()
        return item

    def fail(self, error: Exception) -> None:
        """End it with an error, at once. Harmless where all of it has been handed over."""
        if self._ready or not isinstance(self._end, StopAsyncIteration):
            self._end = error
        self._ready.clear()
        if self._pump is not None:
            self._pump.cancel()
        elif isinstance(self._source, Stub):  # any other has not begun, so there is nothing to end
            self._source.dispose()
        self._notify()

    def granted(self) -> None:
        """One more may read it."""
        self._readers += 1

    def dropped(self) -> None:
        """One of those who may read it does not any longer."""
        self._readers -= 1
        if not self._readers:
            self.close()

    def close(self) -> None:
        """End it."""
        self.fail(CapabilityError("the stream was closed"))

    async def _some(self) -> bool:
        """Wait for an item or the end; False at the end. Raises what the iterator raised."""
        if self._pump is None and self._end is None:
            self._pump = self._loop.create_task(self._run(), context=self._context)
        if not self._ready and self._end is None:
            await self._wait()
        if not self._ready and self._end is not None and not isinstance(self._end, StopAsyncIteration):
            raise self._end.with_traceback(self._trace)  # which would grow each time, and hold all that was called
        return bool(self._ready)

    async def _wait(self) -> None:
        self._awaited += 1
        self._notify()  # it may have as much as is to be ready, elsewhere
        try:
            while not self._ready and self._end is None:
                await self._change()
        finally:
            self._awaited -= 1

    async def _run(self) -> None:
        iterator = _stepped(self._source) if inspect.isgenerator(self._source) else aiter(self._source)
        try:
            async for item in iterator:
                if self._end is not None:  # it did not mind being cancelled
                    break
                self._ready.put(item)
                self._notify()
                while self._ready.full and (self._ready or not self._awaited):
                    await self._change()
            self._end = self._end or StopAsyncIteration()
        except BaseException as error:
            if self._end is None:
                self._end, self._trace = error, error.__traceback__
            if not isinstance(error, Exception | asyncio.CancelledError):
                raise
        finally:
            self._notify()
            if (close := getattr(iterator, "aclose", None)) is not None:
                await close()

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = self._loop.create_future()
        await asyncio.shield(self._changed)

    def _notify(self) -> None:
        if self._changed is not None and not self._loop.is_closed():
            self._changed.set_result(None)
            self._changed = None


class Homecoming:
    """A stream that came home, where it goes on. It ends with its last reader, at home or elsewhere."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._loop = asyncio.get_running_loop()
        outlet.granted()

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, Any]:
        return self._outlet.__anext__()

    def __capability__(self) -> Outlet:
        return self._outlet

    async def aclose(self) -> None:
        """End it, for all."""
        self._outlet.close()

    def __del__(self) -> None:
        if not self._loop.is_closed():  # from whichever thread
            self._loop.call_soon_threadsafe(self._outlet.dropped)


async def _stepped(source: Generator[Any, Any, Any]) -> AsyncIterator[Any]:
    with contextlib.closing(source):
        for item in source:
            yield item


class RemoteStream(Stub):
    """A stream of the other side: `async for item in stream`. It is let go of at its end, or with `aclose()`."""

    __slots__ = ("_feed",)

    def __init__(self, channel: Channel, target: int, attributes: Mapping[str, Any]) -> None:
        super().__init__(channel, target, attributes)
        self._feed = _Feed()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a stream has no attribute {name!r}; it is read with `async for`")

    def __call__(self, *args: object, **kwargs: object) -> Any:
        raise TypeError("a stream cannot be called; it is read with `async for`")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        feed = self._feed
        while self._held and not feed.pieces:
            if feed.over:
                self.dispose()
                break
            if feed.pulling is None or feed.pulling.done():
                feed.pulling = asyncio.ensure_future(feed.pull(self._channel, self._target))
                feed.pulling.add_done_callback(lambda done: done.cancelled() or done.exception())
            try:  # whoever gives up waiting must not lose what was handed over
                await asyncio.shield(feed.pulling)
            except Exception:
                feed.over = True
                self.dispose()
                raise
        if not self._held:
            if feed.over:
                raise StopAsyncIteration
            self._check()
        return self._channel.decode(feed.pieces.popleft())[0]

    async def next(self) -> dict[str, Any]:
        """The next item as `{done, value}`, as streams have it elsewhere."""
        try:
            return {"done": False, "value": await anext(self)}
        except StopAsyncIteration:
            return {"done": True, "value": None}

    async def aclose(self) -> None:
        """The same as `dispose()`."""
        self.dispose()

    def _another(self, share: _Share) -> Self:
        twin = super()._another(share)
        twin._feed = self._feed
        return twin

    def _forget(self) -> None:
        feed = self._feed
        unread = tuple(feed.pieces)
        feed.pieces.clear()
        feed.closed = True
        self._channel.let_go(self._target, unread)


class _Feed:
    """What was handed over and not read yet; all duplicates of a stream read from it."""

    __slots__ = ("closed", "over", "pieces", "pulling")

    def __init__(self) -> None:
        self.pieces: deque[bytes] = deque()
        self.pulling: asyncio.Task[None] | None = None
        self.over = self.closed = False

    async def pull(self, channel: Channel, target: int) -> None:
        answer = await channel.call(target, "pull", _NOTHING)
        values.scan(answer, max_depth=1, max_elements=BATCH_ITEMS + 2)
        match values.loads(answer, trusted=True):
            case [bool(more), *pieces] if (pieces or not more) and all(type(piece) is bytes for piece in pieces):
                pass
            case _:
                raise PayloadError("what a stream hands over is whether there is more, and a few encoded items")
        self.over = not more
        if self.closed:
            channel.let_go(None, tuple(pieces))
        else:
            self.pieces += pieces


_NOTHING: Final = values.dumps([[], {}])
