"""Waiting for something asynchronous in a function that is not: the loop goes on underneath.

What was going on when it was called goes on too, but for whoever called it. Kept with the standard library, for those
who ask.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable
from typing import Any

from . import scope

_MOST_DEEP = 50
_deep = threading.local()


def run_sync(work: Awaitable[Any]) -> Any:
    """What it gives, or raises."""
    loop: Any = asyncio._get_running_loop()
    if loop is None:
        return asyncio.run_coroutine_threadsafe(_awaited(work), scope.loop).result()
    if getattr(_deep, "levels", 0) >= _MOST_DEEP:
        raise RecursionError(f"run_sync() is waited in {_MOST_DEEP} times at once")
    task, waiting = asyncio.ensure_future(work), asyncio.current_task()
    wire: Any = scope.pump.__self__  # type: ignore[attr-defined]
    wire.send_together()  # what waits for other frames to be read would wait for this
    contextvars.Context().run(loop.add_reader, wire.descriptor, wire.readable)  # whoever reads may have called this
    promised = len(loop._ready)  # the turn of the loop that this is in will take so many
    _deep.levels = getattr(_deep, "levels", 0) + 1
    if waiting is not None:
        asyncio.tasks._leave_task(loop, waiting)
    try:
        while not task.done():
            loop._run_once()
    finally:
        _deep.levels -= 1
        if waiting is not None:
            asyncio.tasks._enter_task(loop, waiting)
        while len(loop._ready) < promised:
            loop.call_soon(_nothing)
        if not task.done():
            task.cancel()
    return task.result()


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


def _nothing() -> None:
    pass
