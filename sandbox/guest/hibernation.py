"""Web sockets that are a durable object's own: it is called for each message, and finds them by their tags.

An object with open sockets stays where it is, so that there is nothing to wake. Kept with the standard library, for
those who ask.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from . import failure
from .conversions import JsArray
from .sockets import WebSocket
from .values import JsDict

_MOST_TAGS: Final = 10
_METHODS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "message": ("webSocketMessage", ("data",)),
    "close": ("webSocketClose", ("code", "reason", "wasClean")),
}
Call = Callable[..., Awaitable[Any]]
"""Calls a method of the object, when it may be."""


class Sockets:
    """The web sockets of one object."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._tags: dict[WebSocket, list[str]] = {}
        self._answered: dict[WebSocket, datetime.datetime] = {}
        self.auto_response: Any = None

    def accept(self, socket: WebSocket, tags: Sequence[str] = ()) -> None:
        """The object is called for what arrives."""
        if not isinstance(socket, WebSocket):
            raise TypeError(f"acceptWebSocket() takes an end of a WebSocketPair, not {type(socket).__name__}")
        if len(tags := [str(tag) for tag in tags or ()]) > _MOST_TAGS:
            raise ValueError(f"a web socket has at most {_MOST_TAGS} tags, not {len(tags)}")
        if socket._hears is not None:
            raise TypeError("Cannot call `acceptWebSocket()` on a WebSocket that was accepted already")
        self._tags[socket] = tags
        socket.hear(lambda event: self._hear(socket, event))

    def tagged(self, tag: str | None = None) -> JsArray:
        """Those that are open, or those of a tag."""
        return JsArray(
            socket
            for socket, tags in self._tags.items()
            if socket.readyState < socket.CLOSED and (tag is None or tag in tags)
        )

    def tags(self, socket: WebSocket) -> JsArray:
        """With what it was accepted."""
        return JsArray(self._tags[socket])

    def answered(self, socket: WebSocket) -> datetime.datetime | None:
        """When something was last answered on it without asking the object."""
        return self._answered.get(socket)

    def close(self) -> None:
        """The object is over."""
        for socket in self.tagged():
            socket.close(1011, "the object is over")

    async def _hear(self, socket: WebSocket, event: JsDict) -> None:
        automatic = self.auto_response
        if automatic is not None and event["type"] == "message" and event["data"] == automatic.request:
            self._answered[socket] = datetime.datetime.now(datetime.UTC)
            socket.send(automatic.response)
            return
        method, names = _METHODS[event["type"]]
        try:
            await self._call(method, socket, *(event[name] for name in names))
        except Exception as error:  # the next message is no worse for it
            print(failure.trace(error), end="", file=sys.stderr)
        finally:
            if event["type"] == "close":
                self._tags.pop(socket, None)
                self._answered.pop(socket, None)
