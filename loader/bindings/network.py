"""What fetchers have in common: connections, a bound on requests under way, names that are looked up, and a log.

No connection that one tenant's request was sent on is used for another's: whatever a server makes of a request that it
misreads, it is told to nobody else.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Self

import httpcore

from ..quoting import quoted
from . import addresses
from .exchange import Egress
from .rules import Place
from .shares import Shares

_log = logging.getLogger("cloister.egress")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """What one request may take, and how many there may be."""

    request_bytes: int = 16 * 1024 * 1024
    response_bytes: int = 64 * 1024 * 1024
    message_bytes: int = 1024 * 1024
    """Of one message on a web socket, either way."""
    connect_s: float = 10.0
    idle_s: float = 30.0
    """Seconds without a byte."""
    total_s: float = 120.0
    """Seconds from the first turn until the last byte of the response."""
    redirects: int = 10
    at_once: int = 32
    """Requests of one `Network` that are under way. Half of them may be web sockets, which have no deadline."""
    at_once_per_tenant: int = 16
    """Those of one tenant, where the `Fetcher` says whose it is."""


class Network:
    """`async with Network() as network`, and for each tenant `Fetcher(network=network, tenant="t-42", allow=[...])`.

    `log` hears of each request, instead of the logger `cloister.egress`. `resolve` finds the addresses of a name.
    """

    def __init__(
        self,
        *,
        limits: FetchLimits | None = None,
        log: Callable[[Egress], None] | None = None,
        resolve: addresses.Resolve | None = None,
        ssl_context: Any = None,
    ) -> None:
        self.limits = limits or FetchLimits()
        self.tell = log or _write
        self._turns = Shares(self.limits.at_once, self.limits.at_once_per_tenant)
        self._dialed = Shares(max(self.limits.at_once // 2, 1), self.limits.at_once_per_tenant)
        self._resolver = addresses.Resolver()
        self._pools = {
            private: httpcore.AsyncConnectionPool(
                ssl_context=ssl_context,
                max_connections=self.limits.at_once,
                keepalive_expiry=10.0,
                network_backend=addresses.CheckedBackend(
                    private=private, resolve=_whoevers(resolve) if resolve else self._resolver
                ),
            )
            for private in (False, True)
        }

    async def ask(
        self,
        tenant: str,
        method: str,
        where: Place,
        headers: list[tuple[str, str]],
        content: AsyncIterator[bytes],
        *,
        private: bool,
    ) -> httpcore.Response:
        """Send a request on a connection of the tenant's own, and have the head of the response."""
        limits = self.limits
        return await self._pools[private].handle_async_request(
            httpcore.Request(
                method,
                httpcore.URL(
                    scheme=where.scheme, host=addresses.owned(where.host, tenant), port=where.port, target=where.target
                ),
                headers=[(name.encode(), value.encode("latin-1")) for name, value in headers],
                content=content,
                extensions={
                    "sni_hostname": where.host,
                    "timeout": {"connect": limits.connect_s, "read": limits.idle_s, "write": limits.idle_s,
                                "pool": limits.idle_s},
                },
            )
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def turn(self, tenant: str, *, dial: bool = False) -> AsyncIterator[None]:
        """A request is under way, for a web socket if it is to `dial`."""
        async with contextlib.AsyncExitStack() as taken:
            for shares in (self._dialed, self._turns) if dial else (self._turns,):
                await shares.enter(tenant)
                taken.callback(shares.leave, tenant)
            yield

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._resolver.close()
        for pool in self._pools.values():
            await pool.aclose()


def _whoevers(resolve: addresses.Resolve) -> addresses.ResolveFor:
    return lambda tenant, host, port: resolve(host, port)


def _write(record: Egress) -> None:
    level = logging.WARNING if record.error else logging.INFO
    whose = f"{record.tenant}: " if record.tenant else ""
    came_to = quoted(record.error or record.status)
    _log.log(level, "%s%s %s: %s, %d bytes out, %d in, %.0f ms", whose, record.method, record.url,
             came_to, record.sent_bytes, record.received_bytes, record.duration_ms)  # fmt: skip
