"""What front and shard have agreed on: how they talk, and how long one waits for the other to end.

What a tenant says goes on from one to the other. Its calls wait where they are bounded, with their sandbox, as long as
the other end has much unread: given up there, they are as if they had never been made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from cloister.ipc import Connection, Peer
from cloister.ipc.pipe import Pipe

MAX_CALLS: Final = 1 << 20
"""In flight, one way: each waits for something, such as the end of an instance."""
MAX_GRANTS: Final = 1 << 24
"""What one tenant may grant, and more, times as many tenants as a host has."""
CLOSING_SECONDS: Final = 10.0
"""How long a host may take to close, when the front has gone."""


def peer_over(send: Callable[[bytes], None], *, greeted: bool, **hears: Any) -> Far:
    """Either end, which trusts the other one: arguments are bounded by a frame, and by nothing else."""
    connection = Connection(greeted=greeted, max_calls=MAX_CALLS)
    peer = Far(connection, send, trusted=True, hold=lambda _more, _held: True, **hears)
    peer.exports.most = MAX_GRANTS
    return peer


class Far(Peer):
    """The other end. `pipe` is the way to it, once there is one."""

    def __init__(self, *args: Any, **hears: Any) -> None:
        super().__init__(*args, **hears)
        self.pipe: Pipe | None = None
        self._turn = asyncio.Lock()
        self._queued = 0
        self._later = set[asyncio.Task[None]]()

    async def call(self, target: int, method: str, payload: bytes, *, timeout: float | None = None) -> bytes:
        """See `Peer.call`. It is made when there is room for it, and after those that have waited for longer."""
        if self.pipe is not None and (self._queued or self.pipe.full):
            self._queued += 1
            try:
                async with self._turn:
                    await self.pipe.room()
            except asyncio.CancelledError:
                self._take_back(payload)
                raise
            finally:
                self._queued -= 1
        return await super().call(target, method, payload, timeout=timeout)

    def _release_all(self) -> None:
        """After the calls that wait by now, which may be of what is let go of."""
        if not self._queued:
            super()._release_all()
            return
        self._releasing, leaving = False, self._leaving[:]
        del self._leaving[: len(leaving)]
        self._later.add(task := self._loop.create_task(self._release_in_turn(leaving)))
        task.add_done_callback(self._later.discard)

    async def _release_in_turn(self, leaving: list[tuple[int | None, tuple[bytes, ...]]]) -> None:
        async with self._turn:
            for target, unread in leaving:
                self._release(target, unread)
