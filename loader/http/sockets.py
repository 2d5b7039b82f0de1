"""A tenant's web socket at the host's end: what it sends is waited for, and what is sent to it is waited with until it
has done what it does about it.

A tenant is told what arrives by way of a line that it gave, and it gets one for what it sends; see `sockets` of the
guest. What comes out of the sandbox is checked here. When the sandbox is gone, so is its line, and the socket ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple, Protocol, Self

from cloister.ipc import CapabilityError, CodecError, IpcError, Stub, values
from cloister.ipc.capabilities import end, spread
from cloister.ipc.stubs import Channel, RemoteMethod
from cloister.sandbox import LimitExceeded, SandboxError

from ..errors import LoaderError, TenantError
from .bodies import Sent
from .headers import UNSENDABLE

MOST_BYTES: Final = 1024 * 1024
_CODES: Final = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})
"""Those that a frame may have; a server sends no other."""
_MOST_REASON: Final = 123
_NORMAL, _PROTOCOL, _TOO_BIG, _RESTART = 1000, 1002, 1009, 1012
Message = str | bytes


class Closed(NamedTuple):
    """How it ended."""

    code: int
    reason: str


class WebSocket:
    """`response.web_socket`: `await socket.send("text")`, `async for message in socket`, `await socket.close()`.

    A message of the tenant's with more than `most_bytes` ends it. It is open while its response is. What the tenant
    does when it is told of the end may take `idle_s` seconds; then it is cancelled.
    """

    def __init__(self, stub: Stub | None, most_bytes: int = MOST_BYTES, idle_s: float = 60.0) -> None:
        self._stub = stub
        self.most_bytes, self.idle_s = most_bytes, idle_s
        self.wall_s: float | None = None
        """Seconds that the tenant may take for one message, and to be connected."""
        self.lead: Callable[[Any], object] | None = None
        """What the tenant is told to speak on instead of the line that it is connected to, where that is a front's."""
        self._line: asyncio.Future[Any] | None = None
        self._turn = asyncio.Lock()
        self._arrived: asyncio.Queue[Message] = asyncio.Queue(1)
        self._told: Any = None
        self.needs = AsyncExitStack()
        """What keeps the tenant where it is, for as long as it has to be there."""
        self._over: asyncio.Future[Closed] = asyncio.get_running_loop().create_future()

    @property
    def closed(self) -> Closed | None:
        """How it ended, None while it is open."""
        return self._over.result() if self._over.done() else None

    async def connect(self, line: Any) -> Any:
        """Pass it on to whoever is at the end of a line, and not use it here."""
        self._told = line
        assert self._stub is not None
        return await say(self._stub, "connect", line if self.lead is None else self.lead(line))

    async def open(self) -> Any:
        """Have the tenant begin, if it has not. Where its messages go."""
        if self._line is None:
            self._line = asyncio.ensure_future(self._begin())
        return await asyncio.shield(self._line)

    async def _begin(self) -> Any:
        try:
            async with asyncio.timeout(self.wall_s) as bound:
                line = await self.connect(Line(self))
        except TimeoutError:
            if not bound.expired():
                raise
            raise LimitExceeded(f"a web socket was not connected within {self.wall_s:g} s") from None
        if not isinstance(line, Stub | Way):
            words = f"a web socket leads to something of type {type(line).__name__}, which cannot be told anything"
            raise TenantError("Malformed", words)
        if not isinstance(line, Stub):  # it was passed on, and whoever did that is needed no longer
            if isinstance(line, Line):
                line.granted()
            await self.needs.aclose()
        return line

    @property
    def stays(self) -> bool:
        """Whether it is none the worse for it when nobody wants the response that it came with."""
        return False

    async def send(self, message: Message) -> None:
        """A message, until the tenant is done with it. `ConnectionResetError` if the web socket is closed, `CodecError`
        for a message that cannot be sent, `LimitExceeded` where the tenant has taken too long and was cancelled."""
        if self.closed is not None:
            raise ConnectionResetError(f"the web socket is closed: {self.closed}")
        try:
            async with self._turn:  # so that none overtakes those that waited for the line
                line = await self.open()
            async with asyncio.timeout(self.wall_s):
                await say(line, "receive", [message])
        except TimeoutError:
            raise LimitExceeded(f"a message of a web socket was worked on for {self.wall_s:g} s") from None
        except CodecError:
            raise  # it is none of the tenant's doing
        except (IpcError, SandboxError) as error:
            self.end(_RESTART, "the worker is gone")
            raise ConnectionResetError(f"the web socket was closed: {error}") from error

    async def close(self, code: int = _NORMAL, reason: str = "") -> None:
        """Tell the tenant that there is no more. Harmless when repeated."""
        if not self._over.done() and self._line is not None:
            self.end(code, reason)
            try:
                async with asyncio.timeout(self.idle_s):
                    await say(await self.open(), "close", code, reason)
            except (IpcError, SandboxError, LoaderError, TimeoutError):
                return  # it needs not be told

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        await self.open()
        if self._arrived.empty() and not self._over.done():
            getting = asyncio.ensure_future(self._arrived.get())
            if await self._unless_over(getting):
                return getting.result()
        if self._arrived.empty():
            raise StopAsyncIteration
        return self._arrived.get_nowait()

    def end(self, code: int, reason: str) -> None:
        """It is over, whoever said so."""
        if not self._over.done():
            self._over.set_result(Closed(code, reason))

    def cut_off(self, reason: str) -> None:
        """What answered is no longer what it was: whoever speaks on it had better begin anew."""
        if isinstance(self._told, Line):
            self._told.end(reason)

    async def put(self, message: Message) -> None:
        """Something that the tenant has sent; until there is room for it."""
        if not await self._unless_over(asyncio.ensure_future(self._arrived.put(message))):
            raise ConnectionResetError("the web socket is closed")

    async def _unless_over(self, work: asyncio.Future[Any]) -> bool:
        """Whether something was done before the end."""
        waits: list[asyncio.Future[Any]] = [work, self._over]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return work.done()
        finally:
            work.cancel()

    def dispose(self) -> None:
        """Nobody wants it any longer."""
        self.end(_NORMAL, "")
        if self._stub is not None:
            self._stub.dispose()
        if self._line is not None:
            self._line.add_done_callback(_dispose)
            self._line.cancel()  # if there is none yet, nobody waits for it


class Speaker(Protocol):
    """What a line leads to."""

    most_bytes: int

    async def put(self, message: Message) -> None:
        """A message."""

    def end(self, code: int, reason: str) -> None:
        """The last word."""


class Way:
    """Where messages go that is this host's own. All that a tenant hands over beside is its stub, or of no use."""


def say(line: Any, method: str, *args: object) -> Awaitable[Any]:
    """Tell a line something. A tenant's is told it whatever attributes of that name it says to have."""
    if isinstance(line, Stub):
        return RemoteMethod(line, method)(*args)
    told: Awaitable[Any] = getattr(line, method)(*args)
    return told


class Line(Way):
    """What a tenant tells of what it sends: `receive(messages)` and `close(code, reason)`."""

    uncounted = True
    """Answering is no subrequest."""
    attributes: Mapping[str, Any] = {}

    def __init__(self, socket: Speaker) -> None:
        self._socket = socket
        self._holders = 0

    def granted(self) -> None:
        """One more connection holds it."""
        self._holders += 1

    def dropped(self) -> None:
        """One connection holds it no longer."""
        self._holders -= 1
        if not self._holders:
            self.end("the worker is gone")

    def end(self, reason: str) -> None:
        """Nothing more is told, and nobody said so."""
        self._socket.end(_RESTART, reason)

    async def answer(self, method: str, payload: bytes, channel: Channel) -> bytes:
        """Hear what is said."""
        arguments, stubs = channel.decode(payload)
        end(stubs, None)
        match method, spread(arguments)[0]:
            case "receive", [list(messages)]:
                await self.receive(messages)
            case "close", [int(code), str(reason)]:
                await self.close(code, reason)
            case _:
                raise CapabilityError(f"a web socket is not told {method!r:.40}")
        return values.dumps(None)

    async def receive(self, messages: list[Any]) -> None:
        """Messages, until they were taken."""
        for message in messages:
            await self._socket.put(self._checked(message))

    async def close(self, code: int, reason: str) -> None:
        """There are no more."""
        self._socket.end(code if code in _CODES else _NORMAL, _reason(reason))

    def _checked(self, message: object) -> Message:
        if not isinstance(message, str | bytes):
            self._socket.end(_PROTOCOL, "a message is text or bytes")
            raise CapabilityError(f"a message is text or bytes, not {type(message).__name__}")
        most = self._socket.most_bytes
        if not fits(message, most):
            self._socket.end(_TOO_BIG, f"a message of the worker's has more than {most:,} bytes")
            raise CapabilityError(f"a message has at most {most:,} bytes")
        return message.encode("utf-8", "replace").decode() if isinstance(message, str) else message


class SentSocket(Sent):
    """A response with a web socket on its way into another sandbox, which may be connected there or go further."""

    def __init__(self, head: Mapping[str, Any], response: Any) -> None:
        super().__init__("Response", {**head, "web_socket": True}, None)
        self._response = response

    async def answer(self, method: str, payload: bytes, channel: Channel) -> bytes:
        """Connect it."""
        if method != "connect":
            return await super().answer(method, payload, channel)
        arguments, stubs = channel.decode(payload)
        try:
            match spread(arguments)[0]:
                case [Stub() | Way() as line]:
                    socket = self._response.web_socket
                    found = await socket.connect(line)
                    told = channel.encode(found)
                    if isinstance(socket, WebSocket) and socket.lead is not None and isinstance(found, Way):
                        await socket.needs.aclose()  # who passed it on is needed no longer
                    return told
            raise CapabilityError("a web socket is connected to a line, and to nothing else")
        finally:
            end(stubs, None)

    def dropped(self) -> None:
        """Nobody over there wants it any longer."""
        if not self._response.web_socket.stays:
            asyncio.get_running_loop().create_task(self._response.aclose())


def fits(message: Message, most: int) -> bool:
    """Whether it has no more than so many bytes on the wire."""
    if isinstance(message, str) and len(message) <= most < 4 * len(message):
        return len(message.encode("utf-8", "replace")) <= most
    return len(message) <= most


def _reason(reason: str) -> str:
    return UNSENDABLE.sub("?", reason).encode("utf-8", "replace")[:_MOST_REASON].decode("utf-8", "ignore")


def _dispose(line: asyncio.Future[Any]) -> None:
    if line.cancelled() or line.exception() is not None:
        return
    match line.result():
        case Stub() as stub:
            stub.dispose()
        case Line() as own:
            own.dropped()
