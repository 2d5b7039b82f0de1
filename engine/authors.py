"""How functions that an author of workflows wrote are called: with what they ask for, within a time limit.

It knows nothing of steps: what there is to ask for is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clock import Clock, Timer

Function = Callable[..., Any]


def takes_argument(function: Function) -> bool:
    """Whether it must be given something; a parameter with a default is the author's own."""
    code = getattr(function, "__code__", None)
    if code is not None:
        bound = getattr(function, "__self__", None) is not None
        return bool(code.co_argcount - len(function.__defaults__ or ()) - bound)
    with contextlib.suppress(ValueError, TypeError):
        parameters = inspect.signature(function).parameters.values()
        return any(p.default is p.empty and p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD} for p in parameters)
    return False


async def by_name(function: Function, given: Mapping[str, Any]) -> Any:
    """Call with those things that its parameters name. A parameter of another name gets all of them, as a map."""
    parameters = inspect.signature(function).parameters.values()
    wanted = [p for p in parameters if p.name in given or p.default is p.empty]
    result = function(*(given.get(p.name, given) for p in wanted))
    return await result if inspect.isawaitable(result) else result


class TooLong(Exception):
    """It was not done in time."""


@contextlib.asynccontextmanager
async def limited(clock: Clock, seconds: float, words: str = "") -> AsyncIterator[Callable[[], None]]:
    """Cancel what takes longer on this clock, and raise `TooLong` in these words. What is yielded begins the time
    anew.
    """
    deadline = asyncio.timeout(None)
    now, over = asyncio.get_running_loop().time, False
    timer: Timer

    def begin() -> Timer:
        return clock.call_later(seconds, lambda: deadline.reschedule(now()))

    def anew() -> None:
        nonlocal timer
        if not over:
            timer.cancel()
            timer = begin()

    timer = begin()
    try:
        async with deadline:
            yield anew
    except TimeoutError:
        if not deadline.expired():
            raise
        raise TooLong(words) from None
    finally:
        over = True
        timer.cancel()
