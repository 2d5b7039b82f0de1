"""Signals that ask a process to stop, as something to wait for. For as long as it is open they do nothing else."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Self


class Stop:
    """`async with Stop((signal.SIGTERM,)) as stop: await stop.asked()`. In the main thread only, as signals are."""

    def __init__(self, signals: Sequence[signal.Signals]) -> None:
        self._signals = signals
        self._came = asyncio.Event()

    async def __aenter__(self) -> Self:
        for each in self._signals:
            asyncio.get_running_loop().add_signal_handler(each, self._came.set)
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in self._signals:
            asyncio.get_running_loop().remove_signal_handler(each)

    async def asked(self) -> None:
        """Until one comes, or has come since this was last asked."""
        await self._came.wait()
        self._came.clear()


async def served(drain: Callable[[float | None], Awaitable[bool]], signals: Sequence[signal.Signals]) -> bool:
    """Until one of the signals comes, SIGTERM and SIGINT without any; then drain, or until another one comes. Whether
    everything came to its end in time. `drain` is given None, or 0 for what is left to be done at once."""
    async with Stop(signals or (signal.SIGTERM, signal.SIGINT)) as stop:
        await stop.asked()
        draining, hurry = asyncio.ensure_future(drain(None)), asyncio.ensure_future(stop.asked())
        await asyncio.wait({draining, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        in_time = draining.done() or await drain(0)
        return await draining and in_time
