"""The way out: what a tenant may fetch, with the host's headers, within limits, and on the record.

Names are resolved here and addresses checked before they are connected to; each redirect is a new request under the
same rules. Bodies are passed on as they came, so that a compressed bomb bursts in the sandbox of whoever asked for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self
from urllib.parse import urljoin

import httpcore

from cloister.ipc import RpcTarget

from ..http.bodies import INLINE, Sent
from ..http.headers import Malformed, Pairs, find, headers
from ..http.messages import Request, Response
from . import addresses, rules
from .rules import Place, Rule
from .secrets import SecretText

_log = logging.getLogger("cloister.egress")
_NOT_THE_TENANTS: Final = frozenset(
    "connection content-length expect host keep-alive proxy-authorization proxy-connection te trailer transfer-encoding"
    " upgrade".split()
)
_NOT_THE_SERVERS: Final = frozenset(
    "connection keep-alive proxy-authenticate te trailer transfer-encoding upgrade".split()
)
_NO_METHODS: Final = frozenset({"CONNECT", "TRACE", "TRACK"})
"""They make a tunnel, or have the headers told that the host has added."""
_CREDENTIALS: Final = frozenset({"authorization", "cookie"})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """What one request may take."""

    request_bytes: int = 16 * 1024 * 1024
    response_bytes: int = 64 * 1024 * 1024
    connect_s: float = 10.0
    idle_s: float = 30.0
    """Seconds without a byte."""
    total_s: float = 120.0
    """Seconds until the last byte of the response."""
    redirects: int = 10
    at_once: int = 32
    """Requests of one Fetcher that are under way."""


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


class Fetcher(RpcTarget):
    """`Fetcher(allow=["https://api.example.com"])`: the tenant has `fetch`, as a binding or as its `global_outbound`.

    `allow` are origins, or `Rule`s with methods and headers of the host's. `log` hears of each request, instead of the
    logger `cloister.egress`. An async context manager, which closes the connections that are kept.
    """

    def __init__(
        self,
        *,
        allow: Iterable[str | Rule],
        limits: FetchLimits | None = None,
        log: Callable[[Egress], None] | None = None,
        resolve: addresses.Resolve | None = None,
        ssl_context: Any = None,
    ) -> None:
        self._rules: Sequence[Rule] = [Rule(origin=one) if isinstance(one, str) else one for one in allow]
        self._limits = limits or FetchLimits()
        self._tell = log or _write
        self._turns = asyncio.Semaphore(self._limits.at_once)
        self._resolver = addresses.Resolver()
        self._pools = {
            private: httpcore.AsyncConnectionPool(
                ssl_context=ssl_context,
                max_connections=self._limits.at_once,
                keepalive_expiry=10.0,
                network_backend=addresses.CheckedBackend(private=private, resolve=resolve or self._resolver),
            )
            for private in (False, True)
        }

    async def fetch(self, resource: object, **options: object) -> Sent:
        """Fetch a URL or a `Request`, with the options of `workers.fetch`. `PermissionError` for what is not allowed,
        `ConnectionError`, `TimeoutError`, `TypeError` for what is no request."""
        try:
            request = Request.received(resource, options)
            if request.method.upper() in _NO_METHODS:
                raise Malformed(f"{request.method.upper()} is not a method that can be fetched with")
        except Malformed as error:
            raise TypeError(str(error)) from error
        return (await self._follow(request)).sent()

    async def _follow(self, request: Request) -> Response:
        deadline = asyncio.get_running_loop().time() + self._limits.total_s
        where, pairs, method = rules.place(request.url), request.headers, request.method.upper()
        body: AsyncIterator[bytes] | bytes | None = request.whole if request.whole is not None else aiter(request)
        for hop in range(self._limits.redirects + 1):
            response = await self._ask(_Asked(method, where, pairs, body, deadline, redirected=hop > 0))
            location = find(response.headers, "location")
            if response.status not in _REDIRECTS or location is None or request.redirect == "manual":
                return response
            await response.aclose()
            if request.redirect == "error":
                raise ConnectionError(f"{where.origin} redirects, which was not to be followed")
            if response.status == 303 or (response.status in {301, 302} and method == "POST"):
                method, body = ("HEAD" if method == "HEAD" else "GET"), None
                pairs = tuple(pair for pair in pairs if not pair[0].lower().startswith("content-"))
            elif body is not None and not isinstance(body, bytes):
                raise ConnectionError(f"{where.origin} redirects, and a body that streams cannot be sent again")
            before, where = where, rules.place(urljoin(where.url, location))
            if before.origin != where.origin:
                pairs = tuple(pair for pair in pairs if pair[0].lower() not in _CREDENTIALS)
        raise ConnectionError(f"more than {self._limits.redirects} redirects")

    async def _ask(self, asked: _Asked) -> Response:
        record = Egress(asked.method, asked.where.origin + asked.where.target.partition("?")[0], None, 0, 0, 0.0)
        exchange = _Exchange(asked, record, self._tell)
        try:
            rule = rules.find(self._rules, asked.where, asked.method)
            sent = httpcore.Request(
                asked.method,
                httpcore.URL(
                    scheme=asked.where.scheme, host=asked.where.host, port=asked.where.port, target=asked.where.target
                ),
                headers=[(name.encode(), value.encode("latin-1")) for name, value in _dressed(asked, rule)],
                content=exchange.outgoing(self._limits.request_bytes),
                extensions={"timeout": {"connect": self._limits.connect_s, "read": self._limits.idle_s,
                                        "write": self._limits.idle_s, "pool": self._limits.idle_s}},
            )  # fmt: skip
            with _plain_errors(asked.where):
                async with asyncio.timeout_at(asked.deadline):
                    await exchange.begin(self._turns)
                    answer = await self._pools[rule.private].handle_async_request(sent)
                    exchange.answered(answer)
            return await exchange.response(answer, self._limits.response_bytes)
        except BaseException as error:
            await exchange.end(error)
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._resolver.close()
        for pool in self._pools.values():
            await pool.aclose()


@dataclass(frozen=True, slots=True)
class _Asked:
    method: str
    where: Place
    pairs: Pairs
    body: AsyncIterator[bytes] | bytes | None
    deadline: float
    redirected: bool


class _Exchange:
    """One request under way: what was sent and received, and what is to be given back at its end."""

    def __init__(self, asked: _Asked, record: Egress, tell: Callable[[Egress], None]) -> None:
        self._asked, self._record, self._tell = asked, record, tell
        self._began = time.monotonic()
        self._sent = self.received = 0
        self._open = contextlib.AsyncExitStack()
        self._over = False
        self.expired: Exception | None = None

    async def begin(self, turns: asyncio.Semaphore) -> None:
        """Wait for a turn."""
        await self._open.enter_async_context(turns)

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

    def answered(self, answer: httpcore.Response) -> None:
        """The head has come."""
        self._record = replace(self._record, status=answer.status)
        self._open.push_async_callback(answer.aclose)
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
        self._tell(
            replace(self._record, sent_bytes=self._sent, received_bytes=self.received, duration_ms=took, error=told)
        )
        await self._open.aclose()

    def _expire(self) -> None:
        self.expired = TimeoutError(f"{self._asked.where.origin}: the response was not read to its end in time")
        self._ending = asyncio.get_running_loop().create_task(self.end(self.expired))


class _Incoming:
    """The body of a response. It is given back when it ends, when it is closed, even unread, and at the deadline."""

    def __init__(self, exchange: _Exchange, answer: httpcore.Response, asked: _Asked, most: int) -> None:
        self._exchange, self._asked, self._most = exchange, asked, most
        self._source = aiter(answer.aiter_stream())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._exchange.expired is not None:
            raise self._exchange.expired
        try:
            with _plain_errors(self._asked.where):
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


def _dressed(asked: _Asked, rule: Rule) -> list[tuple[str, str]]:
    """The headers of a request: the tenant's where they are its business, the host's over them, and its framing."""
    injected = {name.lower() for name in rule.headers}
    pairs = [(name, value) for name, value in asked.pairs if name.lower() not in _NOT_THE_TENANTS | injected]
    pairs += headers({name: value._reveal if isinstance(value, SecretText) else value
                      for name, value in rule.headers.items()})  # fmt: skip
    framing = []
    if isinstance(asked.body, bytes) and (asked.body or asked.method in {"POST", "PUT", "PATCH"}):
        framing = [("Content-Length", str(len(asked.body)))]
    elif asked.body is not None and not isinstance(asked.body, bytes):
        framing = [("Transfer-Encoding", "chunked")]
    return [("Host", asked.where.origin.partition("://")[2]), *pairs, *framing]


async def _one(body: bytes | None) -> AsyncIterator[bytes]:
    if body:
        yield body


@contextlib.contextmanager
def _plain_errors(where: Place) -> Any:
    """What goes wrong on the network, as the errors that Python has for it: a tenant is told those by their class."""
    try:
        yield
    except (httpcore.TimeoutException, TimeoutError) as error:
        raise TimeoutError(f"{where.origin} took too long") from error
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise ConnectionError(f"{where.origin}: {error or type(error).__name__}") from error
    except httpcore.ConnectError as error:
        raise ConnectionError(f"{where.origin}: {error or type(error).__name__}") from error


def _write(record: Egress) -> None:
    level = logging.WARNING if record.error else logging.INFO
    _log.log(level, "%s %s: %s, %d bytes out, %d in, %.0f ms", record.method, record.url,
             record.error or record.status, record.sent_bytes, record.received_bytes, record.duration_ms)  # fmt: skip
