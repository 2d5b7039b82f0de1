"""What a store holds in memory on behalf of tenants, while it comes in or is handed over: bounded for each and for all.

How fast it comes or goes is up to the tenant, so that it must not be able to begin as much as it likes. It refuses to
know what it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

from cloister.ipc.answering import MAX_HELD
from cloister.ipc.arguments import Arguments

from ..errors import TenantThrottled


class Held:
    """Of one store."""

    def __init__(self) -> None:
        self._all = Arguments()
        self._of: Counter[str] = Counter()

    def more(self, tenant: str, size: int) -> None:
        """So many bytes more of a tenant's. `TenantThrottled`, and then they are not counted."""
        if not size:
            return
        self._of[tenant] += size
        if not self._all.hold(size, self._of[tenant]):
            self.less(tenant, size)
            raise TenantThrottled(
                tenant, "held", MAX_HELD, None,
                f"reads or writes more than {MAX_HELD >> 20} MiB of values at once, or all tenants do too much; read "
                "them to their ends, or close them",
            )  # fmt: skip

    def less(self, tenant: str, size: int) -> None:
        """So many are not held any longer."""
        self._of[tenant] -= size
        self._all.hold(-size, self._of[tenant])
        if not self._of[tenant]:
            del self._of[tenant]

    @contextlib.contextmanager
    def one(self, tenant: str) -> Iterator[Callable[[int], None]]:
        """A function to count what comes, which is held until this is over."""
        held = 0

        def more(size: int) -> None:
            nonlocal held
            self.more(tenant, size)
            held += size

        try:
            yield more
        finally:
            if held:
                self.less(tenant, held)


class Lent:
    """Bytes in pieces, held for a tenant until they were read, or nobody can read them any longer."""

    def __init__(self, held: Held, tenant: str, data: bytes, piece: int) -> None:
        self._counted = 0
        held.more(tenant, len(data))
        self._counted = len(data)
        self._held, self._tenant = held, tenant
        self._data, self._piece, self._at = data, piece, 0
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> Lent:
        return self

    async def __anext__(self) -> bytes:
        if self._at >= len(self._data):
            await self.aclose()
            raise StopAsyncIteration
        start, self._at = self._at, self._at + self._piece
        return self._data[start : self._at]

    async def aclose(self) -> None:
        """Nobody reads on. Harmless when repeated."""
        if self._counted:
            self._held.less(self._tenant, self._counted)
        self._counted, self._data = 0, b""

    def __del__(self) -> None:
        if self._counted and not self._loop.is_closed():  # in whichever thread
            self._loop.call_soon_threadsafe(self._held.less, self._tenant, self._counted)
