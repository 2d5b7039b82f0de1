"""What a test waits for: that an instance comes to a status, and what one of its steps came to.

They follow its history, so that nothing is missed that was over before somebody asked; and they do not wait for what
cannot come any longer.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from .history import STATUS_TYPES
from .records import FINAL
from .virtual_clock import VirtualClock

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .history import HistoryEvent
    from .instance import Instance

STANDSTILL_SECONDS = 30.0
"""Real seconds in which something must happen while the clock is a virtual one, which nobody may be advancing."""


async def until_status(instance: Instance, *statuses: str) -> str:
    """Return once the instance is in one of these statuses, which one; `AssertionError` if it has ended in another."""
    if strange := set(statuses) - STATUS_TYPES.keys():
        raise ValueError(f"{min(strange)!r} is no status; there are {', '.join(STATUS_TYPES)}")
    found = ""
    async for _ in _events(instance, list(STATUS_TYPES.values())):
        found = str((await instance.status())["status"])
        if found in statuses:
            return found
        if found in FINAL:
            break
    raise AssertionError(f"instance {instance.id!r} has ended {found}, and comes to {' or '.join(statuses)} no more")


async def until_step(instance: Instance, name: str, *, count: int = 1) -> Any:
    """Return what a step returned once it has, or raise what it failed with; `AssertionError` if the instance has ended
    without coming to it.
    """
    async for event in _events(instance, ["step_completed", "step_errored"]):
        if (event.name, event.count) == (name, count):
            return await instance.step_result({"name": name, "count": count})
    raise AssertionError(f"instance {instance.id!r} has ended without coming to step {name!r} number {count}")


async def _events(instance: Instance, types: list[str]) -> AsyncGenerator[HistoryEvent, None]:
    """What is told of an instance; `AssertionError` if it is at a standstill."""
    limit = STANDSTILL_SECONDS if isinstance(instance._scheduler.clock, VirtualClock) else None
    async with contextlib.aclosing(instance.subscribe(types=types)) as events:  # type: ignore[type-var]
        while True:
            try:
                async with asyncio.timeout(limit):
                    event = await anext(events)
            except StopAsyncIteration:
                return
            except TimeoutError:
                status = (await instance.status())["status"]
                raise AssertionError(
                    f"nothing has happened to instance {instance.id!r} for {limit:g} s; it is {status}, and a"
                    " `VirtualClock` stands still until somebody advances it"
                ) from None
            yield event
