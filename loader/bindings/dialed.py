"""A web socket that a server on the network has opened for a tenant.

What its frames mean the library `websockets` says. At the tenant's end it is what one of another worker's is, see
`http.sockets`. What a server sends is taken no faster than the tenant is done with it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator
from typing import Any, Final

import httpcore
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

from cloister.ipc import IpcError, Stub
from cloister.sandbox import SandboxError

from ..errors import LoaderError
from ..http.headers import Pairs, find, headers
from ..http.messages import Response
from ..http.sockets import Line, Message, say
from .exchange import Exchange

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PIECE: Final = 64 * 1024
_GONE: Final = 1006


def handshake() -> tuple[Pairs, str]:
    """The headers that ask for one, and the answer to them."""
    key = base64.b64encode(secrets.token_bytes(16))
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode()
    asked = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"),
             ("Sec-WebSocket-Key", key.decode())]  # fmt: skip
    return tuple(asked), accept


def response(answer: httpcore.Response, accept: str, exchange: Exchange, most_bytes: int, idle_s: float) -> Response:
    """What a tenant has of a server that has opened one. `ConnectionError` if it did without having understood."""
    pairs = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers)
    if not accept or find(pairs, "sec-websocket-accept") != accept or find(pairs, "sec-websocket-extensions"):
        raise ConnectionError("the server switched to something that nobody has asked for")
    kept = [pair for pair in headers(pairs) if pair[0].lower() not in {"connection", "upgrade", "sec-websocket-accept"}]
    opened: Any = Dialed(answer, exchange, most_bytes, idle_s)
    return Response(None, 101, headers=kept, web_socket=opened)


class Dialed:
    """One that is open, and may be connected to the tenant's line. If nobody does within `idle_s`, it is closed."""

    def __init__(self, answer: httpcore.Response, exchange: Exchange, most_bytes: int, idle_s: float) -> None:
        self._stream: Any = answer.extensions["network_stream"]
        self._protocol = Protocol(CLIENT, state=OPEN, max_size=most_bytes)
        self._exchange, self.most_bytes, self._idle_s = exchange, most_bytes, idle_s
        self._writing = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._unwanted = asyncio.get_running_loop().call_later(idle_s, self.end, 1000, "")

    @property
    def stays(self) -> bool:
        """Once it is connected, nobody needs the response that it came with."""
        return self._reading is not None

    async def connect(self, line: Any) -> Line:
        """Tell a tenant's line what comes from here on. Where it says what is to be sent."""
        if self._reading is not None:
            raise RuntimeError("the web socket is connected")
        self._unwanted.cancel()
        if isinstance(line, Stub):
            line = line.dup()
        else:  # the host's own, for whom the tenant has passed it on
            line.granted()
        self._reading = asyncio.get_running_loop().create_task(self._read(line))
        return Line(self)

    async def put(self, message: Message) -> None:
        """Send a message, until it has gone out."""
        if self._protocol.state is not OPEN:
            raise ConnectionResetError("the web socket is closed")
        if isinstance(message, str):
            self._protocol.send_text(message.encode())
        else:
            self._protocol.send_binary(message)
        await self._flush()

    def end(self, code: int, reason: str) -> None:
        """The tenant has nothing more to say."""
        self._unwanted.cancel()
        if self._protocol.state is OPEN:
            self._protocol.send_close(code, reason)
        self._ending = asyncio.get_running_loop().create_task(self._finish())

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Nobody wants it any longer."""
        self.end(code, reason)
        await self._ending

    def dispose(self) -> None:
        """The same, for whoever does not wait."""
        if self._reading is not None:
            self._reading.cancel()

    async def _flush(self) -> None:
        async with self._writing:
            for data in self._protocol.data_to_send():
                if data:
                    self._exchange.sent(len(data))
                    await self._stream.write(data, timeout=self._idle_s)

    async def _finish(self) -> None:
        """Have a close frame out, and a little time for the one that answers it."""
        with contextlib.suppress(httpcore.NetworkError, httpcore.TimeoutException, OSError):
            await self._flush()
        if self._reading is None:
            await self._exchange.end(None)
        else:
            await asyncio.wait({self._reading}, timeout=self._idle_s)
            self._reading.cancel()

    async def _read(self, line: Any) -> None:
        code, reason, failure = _GONE, "the connection was lost", None
        try:
            async for message in self._messages():
                await say(line, "receive", [message])
            if (said := self._protocol.close_rcvd) is not None:
                code, reason = said.code, said.reason
        except (httpcore.NetworkError, httpcore.TimeoutException, OSError) as error:
            failure = error
        except (IpcError, SandboxError, LoaderError):
            if self._protocol.state is OPEN:
                self._protocol.send_close(1001, "")
            with contextlib.suppress(httpcore.NetworkError, httpcore.TimeoutException, OSError):
                await self._flush()
        finally:
            with contextlib.suppress(IpcError, SandboxError, LoaderError):
                await say(line, "close", code, reason)
            if isinstance(line, Stub):
                line.dispose()
            else:
                line.dropped()
            await self._exchange.end(failure)

    async def _messages(self) -> AsyncIterator[Message]:
        whole = bytearray()
        kind = Opcode.TEXT
        while True:
            data = await self._stream.read(_PIECE, timeout=None)
            self._exchange.received += len(data)
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
            await self._flush()
            for frame in self._protocol.events_received():
                if isinstance(frame, Frame) and frame.opcode in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
                    kind = kind if frame.opcode is Opcode.CONT else frame.opcode
                    whole += frame.data
                    if frame.fin:
                        yield whole.decode("utf-8", "replace") if kind is Opcode.TEXT else bytes(whole)
                        whole.clear()
            if not data or self._protocol.close_rcvd is not None or self._protocol.parser_exc is not None:
                return
