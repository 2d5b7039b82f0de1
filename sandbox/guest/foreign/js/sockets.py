"""Web sockets, as JavaScript's names have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cloister.sandbox.guest import sockets
from cloister.sandbox.guest.conversions import JsMap
from cloister.sandbox.guest.sockets import WebSocket

__all__ = ["WebSocket", "WebSocketPair", "WebSocketRequestResponsePair"]


class WebSocketPair(JsMap):
    """Two ends that are joined: `client, server = WebSocketPair.new().object_values()`."""

    @classmethod
    def new(cls) -> WebSocketPair:
        """A pair."""
        return cls()

    def __init__(self) -> None:
        super().__init__(zip("01", sockets.pair(), strict=True))

    def __getitem__(self, name: Any) -> Any:
        return super().__getitem__(str(name))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values())  # so that it can be taken apart


class WebSocketRequestResponsePair:
    """A message, and what is answered to it without asking the object."""

    __module__ = "js"

    def __init__(self, request: str, response: str) -> None:
        self.request, self.response = request, response

    @classmethod
    def new(cls, request: str, response: str) -> WebSocketRequestResponsePair:
        """One of them."""
        return cls(request, response)
