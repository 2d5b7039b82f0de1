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
from .transports import HOPS, blocking, exchange

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
    pieces = type("Pieces", (_Pieces, module.SyncByteStream), {})
    async_pieces = type("AsyncPieces", (_AsyncPieces, module.AsyncByteStream), {})

    def answered(request: Any, response: http.Response, kind: type[Any]) -> Any:
        reason = {"http_version": b"HTTP/1.1", "reason_phrase": response.status_text.encode("latin-1", "replace")}
        headers = [pair for pair in response.headers.pairs if pair[0].lower() not in HOPS]
        stream = kind(response.body and response.body.arrived(), request)
        return module.Response(response.status, headers=headers, stream=stream, extensions=reason)

    def handle(_: Any, request: Any) -> Any:
        with _told(request):
            response = blocking(_asked(request, _sent(request, _made)), _timeout(request))
            return answered(request, response, pieces)

    async def handle_async(_: Any, request: Any) -> Any:
        with _told(request):
            async with asyncio.timeout(_timeout(request)):
                response = await _asked(request, _sent(request, aiter))
            return answered(request, response, async_pieces)

    for transport in (module.HTTPTransport, module.AsyncHTTPTransport):
        transport.__init__ = transport.close = transport.__exit__ = lambda *_, **__: None
        transport.__enter__ = lambda self: self
        transport.aclose, transport.__aexit__, transport.__aenter__ = _close, _close, _enter
        transport.handle_request, transport.handle_async_request = handle, handle_async


class _Body:
    """What is left of a response."""

    def __init__(self, body: Stream | None, request: Any) -> None:
        self._body, self._request = body, request


class _Pieces(_Body):
    def __iter__(self) -> Iterator[bytes]:
        with _told(self._request, "ReadError"):
            while self._body is not None:
                piece = blocking(self._body.next(), _timeout(self._request))["value"]
                if not piece:
                    return
                yield piece


class _AsyncPieces(_Body):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _told(self._request, "ReadError"):
            while self._body is not None:
                async with asyncio.timeout(_timeout(self._request)):
                    piece = (await self._body.next())["value"]
                if not piece:
                    return
                yield piece


def _asked(request: Any, body: Any) -> Coroutine[Any, Any, http.Response]:
    return exchange(request.method, str(request.url), request.headers.multi_items(), body)


def _timeout(request: Any) -> Any:
    return request.extensions.get("timeout", {}).get("read")


async def _made(pieces: Any) -> AsyncIterator[bytes]:
    kept = bytearray()
    for piece in pieces:
        kept += piece
        if len(kept) >= _PIECE:  # each is asked for by itself
            yield bytes(kept)
            kept.clear()
    if kept:
        yield bytes(kept)


def _sent(request: Any, pieces: Callable[[Any], AsyncIterator[bytes]]) -> Any:
    """What is there is sent as it is, and what is made as it is made: no faster than the host takes it."""
    stream = request.stream
    known = sys.modules["httpx"].ByteStream
    return b"".join(stream) if isinstance(stream, known) else pieces(stream)


async def _close(_: Any, *__: object) -> None: ...


async def _enter(transport: Any) -> Any:
    return transport
