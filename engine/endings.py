"""How instances end, for those who wait for that."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from .errors import EngineClosed

if TYPE_CHECKING:
    from .errors import EngineError
    from .records import Address, ErrorRecord, Status


class End(NamedTuple):
    """How an instance ended."""

    status: Status
    output: bytes | None = None
    error: ErrorRecord | None = None


class Endings:
    """Who waits for the end of which instance."""

    def __init__(self) -> None:
        self._listeners: dict[Address, list[asyncio.Future[End]]] = {}

    def listen(self, address: Address) -> asyncio.Future[End]:
        """A future of how the instance ends, if it has not ended yet. See `unlisten`."""
        future: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._listeners.setdefault(address, []).append(future)
        return future

    def unlisten(self, address: Address, future: asyncio.Future[End]) -> None:
        """It is not wanted any longer. Harmless when it has been told."""
        listeners = self._listeners.get(address)
        if listeners is not None and future in listeners:
            listeners.remove(future)
            if not listeners:
                del self._listeners[address]

    def tell(self, address: Address, end: End) -> None:
        for listener in self._listeners.pop(address, ()):
            if not listener.done():
                listener.set_result(end)

    def refuse(self, address: Address, error: EngineError) -> None:
        """There will be no end to tell of: if nobody waits for it, that is no news."""
        for listener in self._listeners.pop(address, ()):
            if not listener.done():
                listener.set_exception(error)
                listener.exception()

    def close(self) -> None:
        for address in tuple(self._listeners):
            self.refuse(address, EngineClosed())
