"""`httpx`, whose transports are what the host granted for the network: synchronous and asynchronous, streams both ways.

Not imported by the guest itself: it is kept with the standard library, and is asked for when `httpx` was imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Final

from . import http
from .bodies import Stream
from .transports import AT_ONCE, HOPS, blocking, exchange, held

_PIECE: Final = 64 * 1024


@contextlib.contextmanager
def _told(request: Any, broken: str = "ConnectError") -> Iterator[None]:
    """What the host tells, as errors of `httpx`."""
    errors: Any = sys.modules["httpx"]
    try:
        yield
    except TimeoutError as error:
        raise errors.ReadTimeout(str(error), request=request) from error
    except OSError as error:
        raise getattr(errors, broken)(str(error), request=request) from error


def connect(module: Any) -> None:
    """`httpx._transports.default` was just imported."""

    def asked(request: Any, body: Any) -> Coroutine[Any, Any, http.Response]:
        return exchange(request.method, str(request.url), request.headers.multi_items(), body)

    def answered(response: http.Response, stream: Any) -> Any:
        reason = {"http_version": b"HTTP/1.1", "reason_phrase": response.status_text.encode("latin-1", "replace")}
        headers = [pair for pair in response.headers.pairs if pair[0].lower() not in HOPS]
        return module.Response(response.status, headers=headers, stream=stream, extensions=reason)

    def timeout(request: Any) -> Any:
        return request.extensions.get("timeout", {}).get("read")

    class Pieces(module.SyncByteStream):  # type: ignore[misc]
        def __init__(self, body: Stream | None, request: Any) -> None:
            self._body, self._request = body, request

        def __iter__(self) -> Iterator[bytes]:
            with _told(self._request, "ReadError"):
                while self._body is not None:
                    piece = blocking(self._body.next(), timeout(self._request))["value"]
                    if not piece:
                        return
                    yield piece

    class AsyncPieces(module.AsyncByteStream):  # type: ignore[misc]
        def __init__(self, body: Stream | None, request: Any) -> None:
            self._body, self._request = body, request

        async def __aiter__(self) -> AsyncIterator[bytes]:
            with _told(self._request, "ReadError"):
                while self._body is not None:
                    async with asyncio.timeout(timeout(self._request)):
                        piece = (await self._body.next())["value"]
                    if not piece:
                        return
                    yield piece

    async def made(pieces: Any) -> AsyncIterator[bytes]:
        kept = bytearray()
        for piece in pieces:
            kept += piece
            if len(kept) >= _PIECE:  # each is asked for by itself
                yield bytes(kept)
                kept.clear()
        if kept:
            yield bytes(kept)

    def sent(request: Any, pieces: Callable[[Any], AsyncIterator[bytes]]) -> Any:
        """What is there is sent as it is, and what is made as it is made: no faster than the host takes it."""
        stream = request.stream
        known = sys.modules["httpx"].ByteStream
        if pieces is made and AT_ONCE:
            return held(stream)
        return b"".join(stream) if isinstance(stream, known) else pieces(stream)

    def handle(_: Any, request: Any) -> Any:
        with _told(request):
            response = blocking(asked(request, sent(request, made)), timeout(request))
            return answered(response, Pieces(response.body and response.body.arrived(), request))

    async def handle_async(_: Any, request: Any) -> Any:
        with _told(request):
            async with asyncio.timeout(timeout(request)):
                response = await asked(request, sent(request, aiter))
            return answered(response, AsyncPieces(response.body and response.body.arrived(), request))

    async def aclose(_: Any, *__: object) -> None:
        pass

    async def enter(transport: Any) -> Any:
        return transport

    for transport in (module.HTTPTransport, module.AsyncHTTPTransport):
        transport.__init__ = transport.close = transport.__exit__ = lambda *_, **__: None
        transport.__enter__ = lambda self: self
        transport.aclose, transport.__aexit__, transport.__aenter__ = aclose, aclose, enter
        transport.handle_request, transport.handle_async_request = handle, handle_async
