"""Web sockets that are a durable object's own: it is called for each message, and finds them by their tags.

The host keeps them, with what the object has attached to each, so that they are open while the object is not there. One
that is made anew asks for them when it first wants to know. Kept with the standard library, for those who ask.
"""

from __future__ import annotations

import asyncio
import datetime
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from cloister.ipc import values
from cloister.ipc.errors import CapabilityError, RemoteError
from cloister.ipc.stubs import Stub

from . import failure
from .conversions import JsArray
from .readers import Piece
from .sockets import Line, Outbox, WebSocket, closed, pair
from .transports import blocking
from .values import JsDict

_MOST_TAGS: Final = 10
_METHODS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "message": ("webSocketMessage", ("data",)),
    "error": ("webSocketError", ("error",)),
    "close": ("webSocketClose", ("code", "reason", "wasClean")),
}
EVENTS: Final = frozenset(method for method, _ in _METHODS.values())
"""Methods that only the host may call."""
PART: Final = "_part"
"""What the host calls an object with before it is made anew elsewhere; no name that anybody else may call."""
Call = Callable[..., Awaitable[Any]]
"""Calls a method of the object, when it may be."""


class Kept(Line):
    """A socket of the object's as the host keeps it, which leads to its client."""

    def __init__(self, end: WebSocket, stub: Stub, number: int) -> None:
        super().__init__(end)
        self._stub, self.number = stub, number

    async def receive(self, messages: list[Any]) -> None:
        """Messages for the client."""
        await self._said(self._stub.tell(self.number, messages))

    async def close(self, code: int, reason: str) -> None:
        """No more of them."""
        await self._said(self._stub.leave_socket(self.number, code, reason))
        self._end.arrive(closed(code, reason))

    def attach(self, value: Any) -> None:
        """Keep a value with it."""
        _asked(self._stub.attach(self.number, values.dumps(value)))

    async def _said(self, call: Awaitable[Any]) -> None:
        try:
            await call
        except (CapabilityError, ConnectionError):  # the client is gone, of which the object is told in its turn
            self._end.readyState = WebSocket.CLOSED


class Sockets:
    """The web sockets of one object."""

    def __init__(self, call: Call, stub: Stub) -> None:
        self._call, self._stub = call, stub
        self._open: dict[int, tuple[WebSocket, list[str]]] = {}
        self._known = False
        """Whether the host was asked for those from before."""
        self._automatic: Any = None
        self._event_ms: int | None = None

    def accept(self, socket: WebSocket, tags: Sequence[str] = ()) -> None:
        """The object is called for what arrives."""
        if not isinstance(socket, WebSocket):
            raise TypeError(f"acceptWebSocket() takes an end of a WebSocketPair, not {type(socket).__name__}")
        if len(tags := [str(tag) for tag in tags or ()]) > _MOST_TAGS:
            raise ValueError(f"a web socket has at most {_MOST_TAGS} tags, not {len(tags)}")
        if socket._hears is not None:
            raise TypeError("Cannot call `acceptWebSocket()` on a WebSocket that was accepted already")
        self._hold(socket, _asked(self._stub.accept_socket(tags)), tags)
        if socket._attachment is not None:
            socket.serializeAttachment(socket._attachment)

    def tagged(self, tag: str | None = None) -> JsArray:
        """Those that are open, or those of a tag."""
        self._ask()
        return JsArray(
            socket
            for socket, tags in self._open.values()
            if socket.readyState < socket.CLOSED and (tag is None or tag in tags)
        )

    def tags(self, socket: WebSocket) -> JsArray:
        """With what it was accepted."""
        return JsArray(next(tags for one, tags in self._open.values() if one is socket))

    @property
    def auto_response(self) -> Any:
        """What is answered to which message without asking the object."""
        self._ask()
        return self._automatic

    @auto_response.setter
    def auto_response(self, pair: Any) -> None:
        self._automatic = pair
        _asked(self._stub.answer_for(None if pair is None else [pair.request, pair.response]))

    def answered(self, socket: WebSocket) -> datetime.datetime | None:
        """When something was last answered on it without asking the object."""
        for number, _, _, moment in _asked(self._stub.open_sockets())["sockets"]:
            if moment is not None and socket._kept is not None and socket._kept.number == number:
                return datetime.datetime.fromtimestamp(moment / 1000, datetime.UTC)
        return None

    @property
    def event_ms(self) -> int | None:
        """How long the object may take for one event, within what it may take for any call."""
        self._ask()
        return self._event_ms

    @event_ms.setter
    def event_ms(self, milliseconds: int | None) -> None:
        self._event_ms = milliseconds
        _asked(self._stub.limit_events(milliseconds))

    def close(self) -> None:
        """The object is over."""
        for socket in self.tagged():
            socket.close(1011, "the object is over")

    async def event(self, method: str, number: int, *args: Any) -> None:
        """The host says what has come of one of them."""
        if number not in self._open:
            self._ask(again=True)
        socket, _ = self._open.get(number, (None, None))
        if socket is None:
            return
        if method == "webSocketMessage":
            args = (Piece(args[0]) if isinstance(args[0], bytes) else args[0],)
        elif method == "webSocketError":
            args = (RemoteError("Error", *args),)
        else:
            socket.readyState = socket.CLOSED
        try:
            await self._call(method, socket, *args)
        finally:
            if socket.readyState == socket.CLOSED:
                self._open.pop(number, None)

    async def part(self, seconds: float) -> list[int]:
        """The object will be made anew elsewhere: what it has said is told first. Those whose clients have not taken it
        within so many seconds."""
        await asyncio.sleep(0)  # what was said in this turn of the loop is on its way in the next
        boxes = {number: socket.other._outbox for number, (socket, _) in self._open.items()}
        going = {number: box.going for number, box in boxes.items() if box is not None and box.going is not None}
        if going:
            await asyncio.wait(going.values(), timeout=seconds)
        return [number for number, one in going.items() if not one.done()]

    def _hold(self, socket: WebSocket, number: int, tags: list[str]) -> None:
        socket._kept = Kept(socket, self._stub, number)
        self._open[number] = socket, tags
        socket.hear(lambda event: self._hear(socket, event))

    def _ask(self, *, again: bool = False) -> None:
        if self._known and not again:
            return
        self._known = True
        known = _asked(self._stub.open_sockets())
        for number, tags, attachment, _ in known["sockets"]:
            if number not in self._open:
                client, socket = pair()
                socket._attachment = values.loads(attachment, hook=JsDict, trusted=True) if attachment else None
                self._hold(socket, number, list(tags))
                client.lead_to(Outbox(client, socket._kept))
        self._event_ms = known["event_ms"]
        if self._automatic is None and known["automatic"] is not None:
            request, response = known["automatic"]
            self._automatic = JsDict(request=request, response=response)

    async def _hear(self, socket: WebSocket, event: JsDict) -> None:
        """What arrives from within this sandbox."""
        automatic = self._automatic
        if automatic is not None and event["type"] == "message" and event["data"] == automatic.request:
            socket.send(automatic.response)
            return
        method, names = _METHODS[event["type"]]
        try:
            await self._call(method, socket, *(event[name] for name in names))
        except Exception as error:  # the next message is no worse for it
            print(failure.trace(error), end="", file=sys.stderr)
        finally:
            if event["type"] == "close" and socket._kept is not None:
                self._open.pop(socket._kept.number, None)


def _asked(call: Awaitable[Any]) -> Any:
    async def asked() -> Any:
        return await call

    return blocking(asked())
