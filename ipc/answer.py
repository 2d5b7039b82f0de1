"""What a call waits for until its answer comes: a future whose one waiter goes on at once, and not a turn of the loop
later.

A turn costs as much as a tenth of a call. A task awaits anything that has the methods of a future which are here. It
knows no connection, and no one but a coroutine can wait for it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Generator
from typing import Any


class Answer:
    """Settled once, with a payload or an error; awaited once, by a task."""

    __slots__ = ("_asyncio_future_blocking", "_context", "_done", "_error", "_failed", "_go_on", "_loop", "_payload")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False
        self._done = self._failed = False
        self._go_on: Callable[[Answer], object] | None = None
        self._context: contextvars.Context | None = None
        self._payload = b""
        self._error: BaseException | None = None

    def settle(self, payload: bytes, *, soon: bool = False) -> bool:
        """The answer has come. Whoever waits goes on now, within this call, unless another task is just running or it
        is to be in the next turn. False if it is too late for one."""
        if self._done:
            return False
        self._payload = payload
        self._done = True
        if self._go_on is None:
            return True
        if not soon and asyncio.current_task(self._loop) is None:
            assert self._context is not None
            self._context.run(self._go_on, self)
        else:
            self._go_on_soon()
        return True

    def fail(self, error: BaseException) -> None:
        """None will come. Whoever waits is told in the next turn, since this may be said in the midst of anything."""
        if not self._done:
            self._error = error
            self._done = self._failed = True
            self._go_on_soon()

    def cancel(self, msg: object = None) -> bool:
        """Called by the task that waits, when it is cancelled. False if there is an answer, or none will come."""
        if self._done:
            return False
        self.fail(asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg))
        return True

    @property
    def came(self) -> bool:
        """Whether there is an answer."""
        return self._done and not self._failed

    def done(self) -> bool:
        """Whether there is one, or none will come."""
        return self._done

    def result(self) -> bytes:
        """What it was settled with."""
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # or it would hold itself, and all that was called, by way of its traceback
        return self._payload

    def add_done_callback(self, go_on: Callable[[Answer], object], *, context: contextvars.Context) -> None:
        """How a task says what to call."""
        self._go_on, self._context = go_on, context
        if self._done:
            self._go_on_soon()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it belongs to, which the task asks for."""
        return self._loop

    def __await__(self) -> Generator[Any, None, bytes]:
        if not self._done:
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    def _go_on_soon(self) -> None:
        if self._go_on is not None:
            self._loop.call_soon(self._go_on, self, context=self._context)
