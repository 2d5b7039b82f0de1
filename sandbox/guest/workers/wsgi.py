"""`workers.wsgi`: a WSGI application answers a worker's requests. `await wsgi.fetch(app, request, self.env)`.

The application reads the body as a file, and what it gives is sent piece by piece; the loop goes on while it waits.
"""

from __future__ import annotations

import contextlib
import contextvars
import io
import itertools
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

from cloister.sandbox.guest.entrypoints import WorkerEntrypoint
from cloister.sandbox.guest.http import Response
from cloister.sandbox.guest.nesting import run_sync

from .gateway import BaseOptions

logger = logging.getLogger("wsgi")
_NO_BODY: Final = frozenset({101, 103, 204, 205, 304})


class Options(BaseOptions):
    """How an application is served."""


def build_environ(req: Any, env: Any, body: Any) -> dict[str, Any]:
    """What an application is told of a request whose body is bytes or a file. The bindings are in `workers.env`."""
    url = urlsplit(req.url)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": str(getattr(req.method, "value", req.method)),
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(url.path or "/", "latin-1"),
        "QUERY_STRING": url.query,
        "SERVER_NAME": url.hostname or "localhost",
        "SERVER_PORT": str(url.port or (443 if url.scheme == "https" else 80)),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": url.scheme,
        "wsgi.input": io.BytesIO(body) if isinstance(body, bytes | bytearray) else body,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "workers.env": env,
    }
    for name, value in req.headers.items():
        key = name.upper().replace("-", "_")
        place = key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}"
        environ[place] = f"{environ[place]},{value}" if place in environ else value
    if isinstance(body, bytes | bytearray) and body:
        environ.setdefault("CONTENT_LENGTH", str(len(body)))
    return environ


async def fetch(app: Any, req: Any, env: Any, ctx: Any = None, *, options: Options | None = None) -> Response:
    """The application's answer. What it raises is logged, and raised."""
    body: Any = b""
    if req.body is not None:  # a short one has a length, whether or not its sender said it
        body = req._open().take() if req.body.short else io.BufferedReader(_Input(req.body))
    try:
        return _answer(app, build_environ(req, env, body), options)
    except Exception:
        logger.exception("WSGI request failed")
        raise


def entrypoint(app: Any, *, options: Options | None = None) -> type[WorkerEntrypoint]:
    """An entrypoint that has an application answer everything: `Default = wsgi.entrypoint(app)`."""

    class Default(WorkerEntrypoint):
        async def fetch(self, request: Any) -> Response:
            return await fetch(app, request, self.env, options=options)

    return Default


class _Input(io.RawIOBase):
    """A body as a file to read."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._kept = stream, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._kept:
            self._kept = run_sync(anext(self._stream, b""))
        piece = self._kept[: len(buffer)]
        self._kept = self._kept[len(piece) :]
        buffer[: len(piece)] = piece
        return len(piece)


class _Started:
    """What the application says before its first piece."""

    def __init__(self) -> None:
        self.head: tuple[str, list[tuple[str, str]]] | None = None
        self.written: list[bytes] = []

    def __call__(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
        if self.head is not None and exc_info is None:
            raise AssertionError("start_response() called more than once")
        self.head = status, headers
        return self.written.append


def _answer(app: Any, environ: dict[str, Any], options: Options | None) -> Response:
    started, context = _Started(), contextvars.copy_context()
    given = context.run(app, environ, started)
    pieces = _In(context, iter(given))

    def close() -> None:
        if hasattr(given, "close"):
            context.run(given.close)
        environ["wsgi.input"].close()

    try:
        first = next((piece for piece in pieces if piece), b"")  # some say their status when they have one
        if started.head is None:
            raise RuntimeError("The WSGI application did not call start_response()")
        number, _, phrase = started.head[0].partition(" ")
        content = None if int(number) in _NO_BODY else _Body(started.written, first, pieces, close)
        if content is None:
            close()
        encode_body = None if options is None else options.encode_body
        headers = [(name, value) for name, value in started.head[1]]
        return Response(content, int(number), phrase, headers, encode_body=encode_body)
    except BaseException:
        with contextlib.suppress(Exception):
            close()
        raise


class _In:
    """The pieces, each made in the context that the application was called in, whoever asks for it."""

    def __init__(self, context: contextvars.Context, pieces: Iterator[bytes]) -> None:
        self._context, self._pieces = context, pieces

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._context.run(next, self._pieces)


class _Body:
    """The pieces as a body. Whether anybody ever began to read it or not, it is closed."""

    def __init__(self, written: list[bytes], first: bytes, pieces: Iterator[bytes], close: Callable[[], None]) -> None:
        self._pieces = itertools.chain(written, (first,), pieces)
        self._close: Callable[[], None] | None = close

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = next(filter(None, self._pieces), None)
        except BaseException:
            await self.aclose()
            raise
        if piece is None:
            await self.aclose()
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        close, self._close = self._close, None
        if close is not None:
            close()
