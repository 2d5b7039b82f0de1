"""The use of a worker for the length of a block: a class, since a generator for it costs each call as much again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .worker import Worker


class Lease:
    """`async with lease as worker`: obtained, and ready, before the block; let go of after it."""

    __slots__ = ("_let_go", "_obtain", "_worker")

    def __init__(self, obtain: Callable[[], Awaitable[Worker]], let_go: Callable[[Worker], None]) -> None:
        self._obtain = obtain
        self._let_go = let_go
        self._worker: Worker

    async def __aenter__(self) -> Worker:
        worker = self._worker = await self._obtain()
        try:
            if worker.ready.done():
                worker.ready.result()
            else:
                await asyncio.shield(worker.ready)
        except BaseException:
            self._let_go(worker)
            raise
        return worker

    async def __aexit__(self, *_: object) -> None:
        self._let_go(self._worker)
