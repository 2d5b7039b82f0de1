"""One request under way: with which headers it is sent, what was sent and received, and what is given back at its end.

Bodies are passed on as they came, so that a compressed bomb bursts in the sandbox of whoever asked for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import httpcore

from ..http.bodies import INLINE
from ..http.headers import Malformed, Pairs, find, headers
from ..http.messages import Response
from .rules import FRAMING, Place, Rule
from .secrets import SecretText

_log = logging.getLogger("cloister.egress")
_NOT_THE_SERVERS: Final = frozenset(
    "connection keep-alive proxy-authenticate te trailer transfer-encoding upgrade".split()
)


@dataclass(frozen=True, slots=True)
class Egress:
    """One request that was made, or refused. The URL is without its query, and headers are not told."""

    method: str
    url: str
    status: int | None
    sent_bytes: int
    received_bytes: int
    duration_ms: float
    error: str = ""
    tenant: str = ""
    """Whose it was, where the `Fetcher` says so."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be sent: one hop of a request."""

    method: str
    where: Place
    pairs: Pairs
    body: AsyncIterator[bytes] | bytes | None
    deadline: float
    redirected: bool


class Exchange:
    """One request under way: what was sent and received, and what is to be given back at its end."""

    def __init__(self, asked: Asked, tenant: str, tell: Callable[[Egress], None]) -> None:
        self._asked, self._tell = asked, tell
        url = asked.where.origin + asked.where.target.partition("?")[0]
        self._record = Egress(asked.method, url, None, 0, 0, 0.0, tenant=tenant)
        self._began = time.monotonic()
        self._sent = self.received = 0
        self._open = contextlib.AsyncExitStack()
        self._over = False
        self.expired: Exception | None = None

    async def begin(self, turn: contextlib.AbstractAsyncContextManager[None]) -> None:
        """Wait for a turn."""
        await self._open.enter_async_context(turn)

    async def outgoing(self, most: int) -> AsyncIterator[bytes]:
        """The body of the request."""
        body = self._asked.body
        if isinstance(body, bytes) or body is None:
            body = _one(body)
        async for piece in body:
            self._sent += len(piece)
            if self._sent > most:
                raise PermissionError(f"the body of the request is longer than {most:,} bytes")
            yield piece

    def sent(self, size: int) -> None:
        """So many bytes more have gone out."""
        self._sent += size

    def answered(self, answer: httpcore.Response, *, lasts: bool = False) -> None:
        """The head has come. What `lasts` has no deadline any longer."""
        self._record = replace(self._record, status=answer.status)
        self._open.push_async_callback(answer.aclose)
        if lasts:
            return
        timer = asyncio.get_running_loop().call_at(self._asked.deadline, self._expire)
        self._open.callback(timer.cancel)

    async def response(self, answer: httpcore.Response, most: int) -> Response:
        """What is given to the tenant: a short body at once, a longer one as it is read."""
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
        length = find(tuple(pairs), "content-length") or ""
        pieces = _Incoming(self, answer, self._asked, most)
        short = length.isdecimal() and int(length) <= INLINE
        body = b"".join([piece async for piece in pieces]) if short else pieces
        reason = answer.extensions.get("reason_phrase", b"").decode("latin-1")
        try:
            return Response(
                body,
                answer.status,
                status_text=reason,
                headers=[pair for pair in headers(pairs) if pair[0].lower() not in _NOT_THE_SERVERS],
                url=self._asked.where.url,
                redirected=self._asked.redirected,
            )
        except Malformed as error:
            raise ConnectionError(f"{self._asked.where.origin} answered with {error}") from error

    async def end(self, failure: BaseException | None) -> None:
        """Give back what was taken, and put it on the record. Harmless when repeated."""
        if self._over:
            return
        self._over = True
        told = "" if failure is None else str(failure) or type(failure).__name__
        took = (time.monotonic() - self._began) * 1000
        record = replace(
            self._record, sent_bytes=self._sent, received_bytes=self.received, duration_ms=took, error=told
        )
        try:
            self._tell(record)
        except Exception:  # noqa: BLE001 - a log of the host's must not cost the tenant its answer, nor others a turn
            _log.exception("the log of requests raised")
        await self._open.aclose()

    def _expire(self) -> None:
        self.expired = TimeoutError(f"{self._asked.where.origin}: the response was not read to its end in time")
        self._ending = asyncio.get_running_loop().create_task(self.end(self.expired))


class _Incoming:
    """The body of a response. It is given back when it ends, when it is closed, even unread, and at the deadline."""

    def __init__(self, exchange: Exchange, answer: httpcore.Response, asked: Asked, most: int) -> None:
        self._exchange, self._asked, self._most = exchange, asked, most
        self._source = aiter(answer.aiter_stream())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._exchange.expired is not None:
            raise self._exchange.expired
        try:
            with plain_errors(self._asked.where):
                async with asyncio.timeout_at(self._asked.deadline):
                    piece = await anext(self._source, None)
            if piece is not None:
                self._exchange.received += len(piece)
                if self._exchange.received > self._most:
                    raise PermissionError(f"the response is longer than {self._most:,} bytes")
                return piece
        except BaseException as error:
            await self._exchange.end(error)
            raise
        await self._exchange.end(None)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Nobody reads on."""
        await self._exchange.end(None)


def dressed(asked: Asked, rule: Rule) -> list[tuple[str, str]]:
    """The headers of a request: the tenant's where they are its business, the host's over them, and its framing."""
    refused = FRAMING | {_alike(name) for name in rule.headers}
    pairs = [(name, value) for name, value in asked.pairs if _alike(name) not in refused]
    pairs += headers({name: value._reveal if isinstance(value, SecretText) else value
                      for name, value in rule.headers.items()})  # fmt: skip
    framing = []
    if isinstance(asked.body, bytes) and (asked.body or asked.method in {"POST", "PUT", "PATCH"}):
        framing = [("Content-Length", str(len(asked.body)))]
    elif asked.body is not None and not isinstance(asked.body, bytes):
        framing = [("Transfer-Encoding", "chunked")]
    return [("Host", asked.where.origin.partition("://")[2]), *pairs, *framing]


def _alike(name: str) -> str:
    """Names that a server may take for the same: many have no other sign for a dash."""
    return name.lower().replace("_", "-")


async def _one(body: bytes | None) -> AsyncIterator[bytes]:
    if body:
        yield body


@contextlib.contextmanager
def plain_errors(where: Place) -> Any:
    """What goes wrong on the network, as the errors that Python has for it: a tenant is told those by their class."""
    try:
        yield
    except (httpcore.TimeoutException, TimeoutError) as error:
        raise TimeoutError(f"{where.origin} took too long") from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise ConnectionError(f"{where.origin}: {error or type(error).__name__}") from error
    except httpcore.ConnectError as error:
        raise ConnectionError(f"{where.origin}: {error or type(error).__name__}") from error
