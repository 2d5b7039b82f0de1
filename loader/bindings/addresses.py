"""Where a name leads, and whether a tenant may be led there: the address that was checked is the one connected to.

A name that resolves to something else a moment later is of no use to anybody, since nobody asks again.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpcore

from .shares import Shares

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""A host and a port: its addresses, best first."""
ResolveFor = Callable[[str, str, int], Awaitable[list[str]]]
"""The same for a tenant, which is named first."""
_RESOLVERS: Final = 16
_EACH: Final = 4
_NO_INTERNET: Final = [
    ipaddress.ip_network(one)
    for one in ("::/96", "fec0::/10", "64:ff9b:1::/48", "3fff::/20", "5f00::/16", "192.88.99.0/24", "168.63.129.16/32")
]
"""What `ipaddress`, of one version or another, takes for the internet: addresses of old and new that lead inwards or
nowhere, and the one at which a cloud tells its machines about themselves."""
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


class Resolver:
    """As the system does, in threads of its own: names that take long hold up nothing else of the host's, and of other
    tenants', since a tenant has a few threads at most."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="Resolver")
        self._shares = Shares(_RESOLVERS, _EACH)

    async def __call__(self, tenant: str, host: str, port: int) -> list[str]:
        """The addresses of a name."""
        await self._shares.enter(tenant)
        ask = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            asking = asyncio.get_running_loop().run_in_executor(self._threads, ask)
        except BaseException:
            self._shares.leave(tenant)
            raise
        asking.add_done_callback(lambda asked: self._asked(tenant, asked))
        found = await asyncio.shield(asking)  # nobody can take the thread away from a name that takes long
        return list(dict.fromkeys(str(place[0]) for *_, place in found))

    def _asked(self, tenant: str, asked: asyncio.Future[Any]) -> None:
        self._shares.leave(tenant)
        if not asked.cancelled():
            asked.exception()

    def close(self) -> None:
        """Wait for nobody."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def owned(host: str, tenant: str) -> str:
    """A host as it is called among the connections that are kept, so that none is another tenant's."""
    return f"{host}|{tenant.encode('utf-8', 'surrogatepass').hex()}"


def public(address: str) -> bool:
    """Whether an address is one of the internet's, in whatever it may be wrapped."""
    if "%" in address:
        return False
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF) if ip in _NAT64 else ip.ipv4_mapped or ip.sixtofour
        if inner is not None:
            return public(str(inner))
    if any(ip in network for network in _NO_INTERNET if network.version == ip.version):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked. With `private`, to any."""

    def __init__(self, *, private: bool, resolve: ResolveFor) -> None:
        self._inner = httpcore.AnyIOBackend()
        self._private = private
        self._resolve = resolve

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that may be and can be. `PermissionError`, `ConnectionError`."""
        host, _, tenant = host.partition("|")
        try:
            async with asyncio.timeout(timeout):
                found = await self._resolve(bytes.fromhex(tenant).decode("utf-8", "surrogatepass"), host, port)
        except OSError as error:
            raise ConnectionError(f"{host} has no address: {error}") from error
        allowed = [address for address in found if self._private or public(address)]
        if found and not allowed:
            raise PermissionError(f"{host} is not on the internet, and other networks are not granted")
        failure: Exception = ConnectionError(f"{host} has no address")
        for address in allowed:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Nobody is led there."""
        raise PermissionError("a path is no address")

    async def sleep(self, seconds: float) -> None:
        """Between retries."""
        await asyncio.sleep(seconds)
