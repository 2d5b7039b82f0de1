"""The way out: what a tenant may fetch, with the host's headers, within limits, and on the record.

Names are resolved in the host and addresses checked before they are connected to; each redirect is a new request under
the same rules.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final, Self
from urllib.parse import urljoin

from cloister.ipc import RpcTarget

from ..http.bodies import Sent
from ..http.headers import Malformed, find
from ..http.messages import Request, Response
from . import addresses, dialed, rules
from . import options as given
from .exchange import Asked, Egress, Exchange, dressed, plain_errors
from .network import FetchLimits, Network
from .rules import Rule

_OPTIONS: Final = "method headers body redirect cf"
_NO_METHODS: Final = frozenset({"CONNECT", "TRACE", "TRACK"})
"""They make a tunnel, or have the headers told that the host has added."""
_CREDENTIALS: Final = frozenset({"authorization", "cookie"})
_HANDSHAKE: Final = frozenset("sec-websocket-key sec-websocket-version sec-websocket-extensions".split())
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


class Fetcher(RpcTarget):
    """`Fetcher(allow=["https://api.example.com"])`: the tenant has `fetch`, as a binding or as its `global_outbound`.

    `allow` are origins, or `Rule`s with methods, paths and headers of the host's. Each tenant is best given one of its
    own, `Fetcher(allow=[...], tenant="t-42", network=network)`, of a `Network` that all have in common: so they take
    turns, share no connection, and are told apart in the log. Without a `network` it makes one, of `limits`, `log`,
    `resolve` and `ssl_context`, and is an async context manager that closes that.
    """

    def __init__(
        self,
        *,
        allow: Iterable[str | Rule],
        tenant: str = "",
        network: Network | None = None,
        limits: FetchLimits | None = None,
        log: Callable[[Egress], None] | None = None,
        resolve: addresses.Resolve | None = None,
        ssl_context: Any = None,
    ) -> None:
        if network is not None and (limits, log, resolve, ssl_context) != (None,) * 4:
            raise ValueError("limits, log, resolve and ssl_context are those of the network; give them to that")
        self._rules: Sequence[Rule] = [Rule(origin=one) if isinstance(one, str) else one for one in allow]
        self._tenant = tenant
        self._own = network is None
        self._network = network or Network(limits=limits, log=log, resolve=resolve, ssl_context=ssl_context)

    async def fetch(self, resource: object, options: object = None, /, **more: object) -> Sent:
        """Fetch a URL or a `Request`, with the options of `workers.fetch`. `PermissionError` for what is not allowed,
        `ConnectionError`, `TimeoutError`, `TypeError` for what is no request."""
        try:
            request = Request.received(resource, given.options(options, more, _OPTIONS, "fetch()"))
            if request.redirect not in {"follow", "manual", "error"}:
                raise Malformed(f"redirect is follow, manual or error, not {request.redirect!r:.40}")
            if request.method.upper() in _NO_METHODS:
                raise Malformed(f"{request.method.upper()} is not a method that can be fetched with")
            upgrades = (find(request.headers, "upgrade") or "").lower() == "websocket"
            if upgrades and request.method.upper() != "GET":
                raise Malformed(f"a web socket is asked for with GET, not {request.method.upper()}")
        except Malformed as error:
            raise TypeError(str(error)) from error
        return (await (self._dial(request) if upgrades else self._follow(request))).sent()

    async def _dial(self, request: Request) -> Response:
        """Have a web socket opened, which is under way for as long as it is open. No redirect is followed."""
        deadline = asyncio.get_running_loop().time() + self._network.limits.total_s
        pairs = tuple(pair for pair in request.headers if pair[0].lower() not in _HANDSHAKE)
        return await self._ask(
            Asked("GET", rules.place(request.url), pairs, None, deadline, redirected=False), dial=True
        )

    async def _follow(self, request: Request) -> Response:
        deadline = asyncio.get_running_loop().time() + self._network.limits.total_s
        where, pairs, method = rules.place(request.url), request.headers, request.method.upper()
        body: AsyncIterator[bytes] | bytes | None = request.whole if request.whole is not None else aiter(request)
        for hop in range(self._network.limits.redirects + 1):
            response = await self._ask(Asked(method, where, pairs, body, deadline, redirected=hop > 0))
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
        raise ConnectionError(f"more than {self._network.limits.redirects} redirects")

    async def _ask(self, asked: Asked, *, dial: bool = False) -> Response:
        network, limits = self._network, self._network.limits
        exchange = Exchange(asked, self._tenant, network.tell)
        more, accept = dialed.handshake() if dial else ((), "")
        try:
            rule = rules.find(self._rules, asked.where, asked.method)
            await self._turn(exchange, asked, dial=dial)
            with plain_errors(asked.where):
                async with asyncio.timeout_at(asked.deadline):
                    answer = await network.ask(
                        self._tenant, asked.method, asked.where, [*dressed(asked, rule), *more],
                        exchange.outgoing(limits.request_bytes), private=rule.private,
                    )  # fmt: skip
                    exchange.answered(answer, lasts=answer.status == 101)
            if answer.status == 101:
                return dialed.response(answer, accept, exchange, limits.message_bytes, limits.idle_s)
            return await exchange.response(answer, limits.response_bytes)
        except BaseException as error:
            await exchange.end(error)
            raise

    async def _turn(self, exchange: Exchange, asked: Asked, *, dial: bool) -> None:
        try:
            async with asyncio.timeout_at(asked.deadline):
                await exchange.begin(self._network.turn(self._tenant, dial=dial))
        except TimeoutError:
            raise TimeoutError(
                f"no turn came to ask {asked.where.origin}: as many requests are under way as may be, each "
                "until its response was read to the end, or let go of"
            ) from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._own:
            await self._network.__aexit__(*error)
