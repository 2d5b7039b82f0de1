"""A client's web socket, answered by a tenant: it accepts with a response of status 101, or says no with another one.

Messages are heard in order; some may be worked on at once, and no more are read from the client meanwhile. Neither side
can hold the other for ever: whoever is not done with anything for `idle_s` is left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Final

from ..quoting import quoted
from . import answers, asked
from .asked import HttpLimits
from .headers import Pairs, find
from .inbox import Receive, Refused
from .messages import Request, Response
from .outgoing import Send, pass_on
from .sockets import WebSocket, fits

if TYPE_CHECKING:
    from .asgi import Fetches

_log = logging.getLogger("cloister.http")

_AT_ONCE: Final = 64
"""Messages of one client that its tenant may work on at once."""
_CONNECTION: Final = frozenset(
    "connection content-length keep-alive sec-websocket-accept sec-websocket-extensions sec-websocket-protocol"
    " transfer-encoding upgrade".split()
)
"""What is between the server and its client."""
_NO_CODE, _REFUSED, _TOO_BIG, _FAILED, _BUSY = 1005, 1008, 1009, 1011, 1013
_PROTOCOL: Final = "sec-websocket-protocol"


class Upgrade:
    """One client that asks for a web socket."""

    def __init__(self, limits: HttpLimits, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        self._limits, self._scope, self._receive, self._send = limits, scope, receive, send
        self._working: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._accepted = False

    async def serve(self, target: Fetches) -> None:
        """Have it answered, and let both speak until one of them ends it."""
        await self._receive()
        next_event = asyncio.ensure_future(self._receive())  # which can only be that the client has gone
        answering = asyncio.ensure_future(self._answer(target, next_event))
        try:
            await asyncio.wait({answering, next_event}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done() and not self._accepted:
                return
            await answering
        finally:
            for task in (answering, next_event):
                task.cancel()
            await asyncio.wait({answering, next_event})

    async def _answer(self, target: Fetches, next_event: asyncio.Future[Any]) -> None:
        try:
            response = await target.fetch(self._request())
        except Refused as error:
            await self._say(error.status, str(error))
            return
        except Exception as error:
            known = answers.to(error, self._scope["path"])
            if known is None:
                raise
            await self._say(*known)
            return
        async with response:
            if response.web_socket is None:
                await self._refuse(response)
                return
            self._accepted = True
            response.web_socket.most_bytes = self._limits.message_bytes
            response.web_socket.idle_s = self._limits.idle_s
            await self._accept(response.headers)
            await self._converse(response.web_socket, next_event)

    def _request(self) -> Request:
        given = asked.headers_of(self._scope, self._limits)
        if find(given, "upgrade") is None:  # which is said otherwise where there is HTTP/2
            given = (*given, ("upgrade", "websocket"))
        offered = self._scope.get("subprotocols") or ()
        if offered and find(given, _PROTOCOL) is None:
            given = (*given, (_PROTOCOL, ", ".join(offered)))
        return asked.request(self._scope, given, self._limits, None)

    async def _accept(self, given: Pairs) -> None:
        kept = [(name.lower().encode(), value.encode("latin-1")) for name, value in given
                if name.lower() not in _CONNECTION]  # fmt: skip
        await self._send({"type": "websocket.accept", "subprotocol": find(given, _PROTOCOL), "headers": kept})

    async def _converse(self, socket: WebSocket, next_event: asyncio.Future[Any]) -> None:
        hearing = asyncio.ensure_future(self._hear(socket, next_event))
        speaking = asyncio.ensure_future(self._speak(socket))
        try:
            await asyncio.wait({hearing, speaking}, return_when=asyncio.FIRST_COMPLETED)
            if hearing.done():
                await self._tell_end(socket, *hearing.result())
        finally:
            for task in (hearing, speaking, *self._working):
                task.cancel()
            await asyncio.gather(hearing, speaking, *self._working, return_exceptions=True)

    async def _tell_end(self, socket: WebSocket, code: int, reason: str) -> None:
        """The client is gone. Let the tenant do what it does then, for a while."""
        await socket.close(code, reason)
        if self._working:  # which may be about to end, since they were told
            await asyncio.wait(self._working, timeout=self._limits.idle_s)

    async def _hear(self, socket: WebSocket, next_event: asyncio.Future[Any]) -> tuple[int, str]:
        """What the client says, until it is gone: how."""
        while (event := await next_event)["type"] == "websocket.receive":
            text = event.get("text")
            message = event["bytes"] if text is None else text
            if not fits(message, self._limits.message_bytes):
                await self._close(_TOO_BIG, "The message is too long.")
                return _TOO_BIG, "The message is too long."
            try:
                async with asyncio.timeout(self._limits.idle_s):
                    await self._room.acquire()
            except TimeoutError:  # nor would it be seen that the client has gone
                _log.warning("the worker at %s is done with none of %d messages", quoted(self._scope["path"]), _AT_ONCE)
                await self._close(_BUSY, "The worker does not keep up.")
                return _BUSY, "The worker does not keep up."
            work = asyncio.ensure_future(self._pass_on(socket, message))
            self._working.add(work)
            work.add_done_callback(self._done)
            next_event = asyncio.ensure_future(self._receive())
        return event.get("code") or _NO_CODE, event.get("reason") or ""

    async def _pass_on(self, socket: WebSocket, message: str | bytes) -> None:
        try:
            await socket.send(message)
        except ConnectionResetError:
            return  # which whoever reads hears too
        except Exception as error:  # noqa: BLE001 - the next message is no worse for it
            _log.warning("a message to %s was not heard: %s", quoted(self._scope["path"]), quoted(error))

    def _done(self, work: asyncio.Task[None]) -> None:
        self._working.discard(work)
        self._room.release()

    async def _speak(self, socket: WebSocket) -> None:
        """What the tenant says."""
        try:
            async for message in socket:
                kind = "text" if isinstance(message, str) else "bytes"
                async with asyncio.timeout(self._limits.idle_s):
                    await self._send({"type": "websocket.send", kind: message})
        except TimeoutError:
            _log.warning("the client of %s took nothing for %g s", quoted(self._scope["path"]), self._limits.idle_s)
            return
        except Exception as error:
            known = answers.to(error, self._scope["path"])
            if known is None:
                raise
            await self._close(_FAILED, known[1])
            return
        if (closed := socket.closed) is not None:
            await self._close(closed.code, closed.reason)

    async def _close(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _refuse(self, response: Response) -> None:
        if not self._may_answer:
            await self._close(_REFUSED, "")
            return
        kept = [(name.lower().encode(), value.encode("latin-1")) for name, value in response.headers
                if name.lower() not in _CONNECTION]  # fmt: skip
        await self._send({"type": "websocket.http.response.start", "status": response.status, "headers": kept})
        await pass_on(response, self._limits, self._send, "websocket.http.response.body")
        await self._send({"type": "websocket.http.response.body", "body": b""})

    async def _say(self, status: int, words: str) -> None:
        if not self._may_answer:
            await self._close(_REFUSED, words)
            return
        await self._refuse(Response(f"{words}\n", status, headers=[("content-type", "text/plain; charset=utf-8")]))

    @property
    def _may_answer(self) -> bool:
        """Whether the server can give an answer instead of a web socket."""
        return "websocket.http.response" in (self._scope.get("extensions") or {})
