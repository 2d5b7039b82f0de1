"""In which order those who wait for a commit hear of it: that of the records.

Who waits for a future goes on a turn of the loop after it was settled. A prompt write is told of within a call, and so
has to wait for whoever was recorded before it. It knows neither what was written nor when.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from .writes import PromptWrite, Unwaited, Write

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Sequence

    Waiter = asyncio.Future[Any] | Write | Unwaited


class Telling:
    """Made on the loop, and used there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._batches = 0  # of which somebody has yet to go on

    def tell(
        self, waiters: Sequence[Waiter], results: Sequence[Any], between: Iterable[tuple[int, Callable[[], None]]] = ()
    ) -> None:
        """Settle each with its result, or with the error that it is. Together they were committed. `between`: what to
        call when so many of them have gone on.
        """
        together = len(waiters) > 1 or type(waiters[0]) is not PromptWrite
        self._batches += together
        begun = 0
        for end, call in between:
            self._settle(waiters[begun:end], results[begun:end])
            self._loop.call_soon(call)
            begun = end
        self._settle(waiters[begun:], results[begun:])
        if together:
            self._loop.call_soon(self._have_told)

    def _settle(self, waiters: Sequence[Waiter], results: Sequence[Any]) -> None:
        line: deque[PromptWrite] | None = None  # those with nobody else between them
        for waiter, result in zip(waiters, results, strict=True):
            if type(waiter) is PromptWrite:
                if line is None:
                    line = deque()
                    if self._batches:
                        self._loop.call_soon(self._tell, line)
                line.append(waiter)
            elif waiter.done():
                continue
            else:
                line = None
            if isinstance(result, BaseException):
                waiter.set_exception(result)
            else:
                waiter.set_result(result)
        if line is not None and not self._batches:
            self._tell(line)

    def _tell(self, line: deque[PromptWrite]) -> None:
        try:
            while line:
                line.popleft().tell()
        finally:
            if line:  # what has become of one is no reason for the others not to hear
                self._loop.call_soon(self._tell, line)

    def _have_told(self) -> None:
        self._batches -= 1
