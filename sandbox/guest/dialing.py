"""Web sockets that a program opens by an address, as JavaScript's `new WebSocket(url)`.

What the host granted for the network is asked for one, like with any other request: it is open when that has answered
so. Kept with the standard library, for those who ask.
"""

from __future__ import annotations

from typing import Any, Final

from . import http, scope
from .sockets import LOST, UNSENDABLE, WebSocket, closed, pair
from .values import JsDict

_OF_HTTP: Final = {"ws": "http", "wss": "https"}


def dial(url: Any, protocols: Any = None) -> WebSocket:
    """One that is being opened. What is wrong with the address is a `TypeError`, and what comes later an `error`."""
    scheme, colon, rest = str(url).partition(":")
    request = http.Request(f"{_OF_HTTP.get(scheme.lower(), scheme)}{colon}{rest}", headers={"Upgrade": "websocket"})
    if protocols:
        names = [protocols] if isinstance(protocols, str) else protocols
        request._headers.append("sec-websocket-protocol", ", ".join(names))
    end, far = pair()
    end.readyState, end.url = WebSocket.CONNECTING, str(url)
    end.accept()
    scope.wait_until(_open(end, far, request))
    return end


async def _open(end: WebSocket, far: WebSocket, request: http.Request) -> None:
    try:
        response = await http.outbound().fetch(request)
        if response.web_socket is None:
            raise OSError(f"{end.url} answered {response.status}, and opened no web socket")
    except Exception as error:
        await end.take(closed(LOST, f"{type(error).__name__}: {error}"))
        return
    near: WebSocket = response.web_socket
    near.addEventListener("message", lambda event: end.take(JsDict(type="message", data=event.data)))
    near.addEventListener("close", lambda event: end.take(closed(event.code, event.reason)))
    if end.readyState == WebSocket.CONNECTING:
        end.readyState = WebSocket.OPEN
        end.protocol = response.headers.get("sec-websocket-protocol") or ""
        scope.wait_until(end.take(JsDict(type="open")))
    near.accept()

    def say(event: JsDict) -> None:
        if event["type"] == "message":
            near.send(event["data"])
        elif event["type"] == "close":
            near.close(None if event["code"] in UNSENDABLE else event["code"], event["reason"])

    far.hear(say)
