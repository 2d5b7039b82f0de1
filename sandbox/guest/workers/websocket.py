"""An ASGI application on a web socket: `await asgi.websocket(app, request, self.env)` answers who asks for one."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from cloister.sandbox.guest import scope, sockets
from cloister.sandbox.guest.http import Response

_PROTOCOL: Final = "sec-websocket-protocol"
_NORMAL, _FAILED = 1000, 1011


class Conversation:
    """One web socket that an application speaks on."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._client, self._server = sockets.pair()
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._head: tuple[int, Any] = 403, ()
        self.answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    async def serve(self, about: dict[str, Any]) -> None:
        """Let the application speak, until it has no more to say."""
        self._events.put_nowait({"type": "websocket.connect"})
        try:
            await self._app(about, self._events.get, self._send)
            self._end(_NORMAL, Response(None, 403))
        except Exception as error:
            if not self.answer.done():
                self.answer.set_exception(error)
                return
            self._end(_FAILED, None)
            raise

    def _end(self, code: int, refusal: Response | None) -> None:
        if not self.answer.done():
            self.answer.set_result(refusal or Response(None, 500))
        elif self._server.readyState == self._server.OPEN:
            self._server.close(code, "")

    async def _send(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "websocket.accept":
                self._accept(event.get("subprotocol"), event.get("headers") or ())
            case "websocket.send":
                if self._server.readyState != self._server.OPEN:
                    raise OSError("the web socket is closed")
                text = event.get("text")
                self._server.send(event["bytes"] if text is None else text)
            case "websocket.close" if self.answer.done():
                self._server.close(event.get("code", _NORMAL), event.get("reason") or "")
            case "websocket.close":
                self.answer.set_result(Response(None, 403))
            case "websocket.http.response.start":
                self._head = event["status"], _text(event.get("headers") or ())
            case "websocket.http.response.body" if not self.answer.done():
                status, pairs = self._head
                self.answer.set_result(Response(bytes(event.get("body", b"")), status, headers=pairs))

    def _accept(self, protocol: str | None, headers: Any) -> None:
        self._server.hear(self._heard)
        pairs = [*_text(headers), *([(_PROTOCOL, protocol)] if protocol else [])]
        self.answer.set_result(Response(None, 101, headers=pairs, web_socket=self._client))

    def _heard(self, event: Any) -> None:
        if event["type"] == "close":
            self._events.put_nowait({"type": "websocket.disconnect", "code": event.code, "reason": event.reason})
        elif event["type"] == "message":
            data = event["data"]
            known: dict[str, Any] = {"text": data} if isinstance(data, str) else {"bytes": bytes(data)}
            self._events.put_nowait({"type": "websocket.receive", **known})


async def answer(app: Any, about: dict[str, Any], request: Any) -> Response:
    """What the application says to who asks for a web socket: yes, and then it speaks on; or no."""
    offered = [name.strip() for name in (request.headers.get(_PROTOCOL) or "").split(",")]
    scheme = {"http": "ws", "https": "wss"}.get(about["scheme"], about["scheme"])
    conversation = Conversation(app)
    scope.wait_until(conversation.serve({**about, "scheme": scheme, "subprotocols": [one for one in offered if one]}))
    return await conversation.answer


def _text(headers: Any) -> list[tuple[str, str]]:
    return [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in headers]
