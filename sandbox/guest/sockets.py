"""Web sockets: two ends that are joined, of which a program keeps one and answers a request with the other.

What one end sends arrives at the other. An end that went out with a response is no more than a way there: whoever the
response was for gives a line, which is told what is sent, and gets one for what it says itself. Either side drops its
line when it is gone, so each hears of the other's end. Kept with the standard library, for those who ask.
"""

from __future__ import annotations

import asyncio
import copy
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from cloister.ipc.capabilities import RpcTarget
from cloister.ipc.errors import LocalProtocolError, RemoteError
from cloister.ipc.stubs import Stub

from . import failure, scope
from .blobs import Blob
from .readers import Piece
from .values import JsDict
from .worker import result

UNSENDABLE: Final = frozenset({1004, 1005, 1006, 1015})
_AT_ONCE: Final = 64
"""Messages that one call takes along."""
_ENOUGH: Final = 256 * 1024
"""Bytes of them after which no further one is."""
_NO_CODE, LOST, _TOO_BIG = 1005, 1006, 1009


class WebSocket:
    """One end: `send`, `close`, `addEventListener("message", function)`."""

    __module__ = "js"
    CONNECTING, OPEN, CLOSING, CLOSED = range(4)
    READY_STATE_CONNECTING, READY_STATE_OPEN, READY_STATE_CLOSING, READY_STATE_CLOSED = range(4)
    url: str | None = None
    protocol = extensions = ""
    bufferedAmount = 0  # noqa: N815 - the names of JavaScript
    binaryType = "arraybuffer"  # noqa: N815
    onopen = onmessage = onclose = onerror = None

    def __init__(self) -> None:
        self.readyState = self.OPEN
        self.other: WebSocket
        self._hears: Callable[[JsDict], Any] | None = None
        self._early: list[JsDict] = []
        self._listeners: dict[str, list[Any]] = {}
        self._attachment: Any = None
        self._from: Stub | None = None
        self._kept: Any = None
        """How the host keeps it, if it is a durable object's own. See `hibernation`."""
        self._outbox: Outbox | None = None
        """Where what arrives goes on, if that is elsewhere."""

    @classmethod
    def new(cls, url: Any, protocols: Any = None) -> WebSocket:
        """One that is being opened by an address."""
        from . import dialing

        return dialing.dial(url, protocols)

    # What a program does with it

    def accept(self, *_: Any, **__: Any) -> None:
        """It is this program's to speak on, and what arrives is told to whoever listens."""
        if self._hears is not None:
            return
        if self._from is not None:
            self.other.lead_to(Outbox(self.other, self._from.connect(Line(self))))
        self.hear(self._tell)

    def send(self, message: Any) -> None:
        """Text or bytes to the other end."""
        if self._hears is None:
            raise TypeError("You must call accept() on this WebSocket before sending messages.")
        if self.readyState != self.OPEN:
            when = "before it is open" if self.readyState == self.CONNECTING else "after close()"
            raise TypeError(f"Can't call WebSocket send() {when}.")
        self.other.arrive(JsDict(type="message", data=_message(message)))

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        """No more is sent. Harmless when repeated."""
        if self.readyState > self.OPEN:
            return
        if code is not None and (not 1000 <= code <= 4999 or code in UNSENDABLE):
            raise TypeError("Invalid WebSocket close code.")
        self.readyState = self.CLOSING
        self.other.arrive(closed(_NO_CODE if code is None else code, reason or ""))

    def addEventListener(self, kind: str, listener: Any, *_: Any, **__: Any) -> None:  # noqa: N802 - JavaScript's names
        """Have a function called with each `message`, `close` or `error`."""
        self._listeners.setdefault(kind, []).append(listener)

    def removeEventListener(self, kind: str, listener: Any, *_: Any, **__: Any) -> None:  # noqa: N802
        """Have it called no longer."""
        if listener in self._listeners.get(kind, ()):
            self._listeners[kind].remove(listener)

    def serializeAttachment(self, value: Any) -> None:  # noqa: N802
        """Keep a value with it, as it is now."""
        self._attachment = copy.deepcopy(value)
        if self._kept is not None:
            self._kept.attach(value)

    def deserializeAttachment(self) -> Any:  # noqa: N802
        """The value that was kept with it, which is whoever's it is given to."""
        return copy.deepcopy(self._attachment)

    # What arrives

    def hear(self, function: Callable[[JsDict], Any]) -> None:
        """From here on a function is told what arrives, and what has arrived before."""
        self._hears = function
        early, self._early = self._early, []
        for event in early:
            self.arrive(event)

    def arrive(self, event: JsDict) -> None:
        """The other end has said something, in this sandbox."""
        if self._hears is None:
            self._early.append(event)
        else:
            scope.wait_until(self.take(event))

    async def take(self, event: JsDict) -> None:
        """Have it heard, to the end of what is done about it."""
        if self._hears is None:
            self._early.append(event)
            return
        event["target"] = self
        if event["type"] == "close":
            if self.readyState == self.CLOSED:
                return
            if not event["wasClean"]:
                error = RemoteError("Error", event["reason"])
                await result(self._hears, JsDict(type="error", message=event["reason"], error=error, target=self))
            answers = self.readyState == self.OPEN
            self.readyState = self.CLOSED
            if answers:
                self.other.arrive(closed(event["code"], event["reason"]))
        await result(self._hears, event)

    async def _tell(self, event: JsDict) -> None:
        alone = getattr(self, f"on{event['type']}")
        listeners = [*self._listeners.get(event["type"], ()), *([alone] if alone is not None else [])]
        await asyncio.gather(*(_told(getattr(one, "handleEvent", one), event) for one in listeners))

    # How it goes out with a response

    def lead_to(self, outbox: Outbox) -> None:
        """What arrives goes on elsewhere."""
        self._outbox = outbox
        self.hear(outbox.put)

    async def connect(self, line: Any) -> Any:
        """Whoever got it is at the end of a line; another one leads to the end that was kept."""
        if self._from is not None:
            return await self._from.connect(line)
        self._go_out()
        self.lead_to(Outbox(self, line.dup() if isinstance(line, Stub) else line))
        return Line(self.other)

    def sent(self) -> dict[str, Any]:
        """What is said of it where it goes out with a response."""
        if self._from is not None or self.other._kept is None:
            return {"web_socket": True}
        self._go_out()
        self.lead_to(Outbox(self, self.other._kept))
        return {"web_socket": True, "accepted": self.other._kept.number}

    def _go_out(self) -> None:
        if self._hears is not None:
            raise TypeError("Can't return WebSocket in a Response after calling accept().")


class Line(RpcTarget):
    """What the other side tells an end."""

    def __init__(self, end: WebSocket) -> None:
        self._end = end
        self.home = False
        """Whether both ends are in this sandbox, so that nobody elsewhere has to hold it."""

    async def receive(self, messages: list[Any]) -> None:
        """Messages, in order; until everything is done about them."""
        await asyncio.gather(*(self._end.take(JsDict(type="message", data=_message(message))) for message in messages))

    async def close(self, code: int, reason: str) -> None:
        """There are no more."""
        await self._end.take(closed(code, reason))

    def rpc_disposed(self) -> None:
        """Whoever spoke is gone, unless it is here: which is known when what brought it here was read."""
        scope.loop.call_soon(self._lose)

    def _lose(self) -> None:
        if not self.home:
            self._end.arrive(closed(LOST, "WebSocket disconnected without sending Close frame."))


class Outbox:
    """What is on its way to the end of a line, in order."""

    def __init__(self, end: WebSocket, line: Any) -> None:
        self._end, self._line = end, _at_home(line)
        self._kept: deque[JsDict] = deque()
        self._going: asyncio.Future[None] | None = None
        if not isinstance(line, Stub | Line):
            self._go_on()

    def put(self, event: JsDict) -> None:
        """One thing more."""
        self._kept.append(event)
        self._go_on()

    @property
    def going(self) -> asyncio.Future[None] | None:
        """Done when nothing is on its way any longer; None if nothing is."""
        return self._going

    def _go_on(self) -> None:
        if self._going is None:
            self._going = asyncio.ensure_future(self._go())
            scope.wait_until(self._going)

    async def _go(self) -> None:
        try:
            if not isinstance(self._line, Stub | Line):
                self._line = _at_home(await self._line)
            while self._kept:
                if self._kept[0]["type"] == "close":
                    event = self._kept.popleft()
                    await self._line.close(event["code"], event["reason"])
                else:
                    await self._line.receive([*self._messages()])
        except Exception as error:
            self._kept.clear()
            if isinstance(error, LocalProtocolError):
                end = closed(_TOO_BIG, "a message is longer than can be sent")
            else:
                end = closed(LOST, "the other end is gone")
            self._end.other.arrive(end)
        finally:
            self._going = None

    def _messages(self) -> Iterator[Any]:
        size = 0
        for _ in range(_AT_ONCE):
            if not self._kept or self._kept[0]["type"] == "close" or size > _ENOUGH:
                return
            size += len(message := self._kept.popleft()["data"])
            yield message


def pair() -> tuple[WebSocket, WebSocket]:
    """Two ends that are joined."""
    one, other = WebSocket(), WebSocket()
    one.other, other.other = other, one
    return one, other


def received(stub: Stub) -> WebSocket:
    """That of a response from elsewhere: to be accepted, or passed on as it is."""
    near, _ = pair()
    near._from = stub
    return near


async def _told(listener: Callable[[JsDict], Awaitable[Any]], event: JsDict) -> None:
    try:
        await result(listener, event)
    except Exception as error:  # the next message is no worse for it
        print(failure.trace(error), end="", file=sys.stderr)


def _at_home(line: Any) -> Any:
    if isinstance(line, Line):
        line.home = True
    return line


def closed(code: int, reason: str) -> JsDict:
    return JsDict(type="close", code=code, reason=_text(reason), wasClean=code != LOST)


def _text(text: str) -> str:
    """As it can be sent, with a sign in place of half a character."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _message(message: Any) -> str | Piece:
    if isinstance(message, str):
        return _text(message)
    if isinstance(message, bytes | bytearray | memoryview):
        return Piece(message)
    if isinstance(message, Blob):
        return Piece(message._data)
    raise TypeError(f"a message is text or bytes, not {type(message).__name__}")
