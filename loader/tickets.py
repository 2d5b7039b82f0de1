"""Questions of a run that are answered some time: handed over in one call, answered in a note that has their number.

However many a sandbox asks, they hold a bounded number of bytes here, and none of its calls.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Final

from cloister.engine import RunOver
from cloister.ipc import PayloadError, TooManyCalls, failures, values
from cloister.ipc.stubs import Channel

MOST: Final = 100_000
"""Questions of all runs in one sandbox, at some 2 KiB each: one run may wait for so many steps, of four kinds."""
MOST_BYTES: Final = 32 * 1024 * 1024
"""Of their arguments."""
ANSWERED: Final = "answered"
"""The topic of the notes: a ticket, whether it was answered, and the answer or what was raised instead."""

Ask = Callable[[str, bytes, Channel], Awaitable[bytes]]


class Held:
    """What is held for one sandbox."""

    questions = 0
    bytes = 0


class Tickets:
    """Those of one run. `tell` says something to its sandbox, and whether that reads; `end` ends it for a reason."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.held = Held()
        self.tell: Callable[[str, bytes], bool] = lambda topic, payload: True
        self.end: Callable[[str], None] = lambda reason: None

    def take(self, ticket: object, method: object, payload: object, channel: Channel) -> None:
        """Begin to answer a question. `PayloadError`, `TooManyCalls`."""
        if type(ticket) is not int or ticket in self._tasks:
            raise PayloadError(f"{ticket!r:.40} is no number for another question")
        if not isinstance(method, str) or not isinstance(payload, bytes):
            raise PayloadError("a question is a method and its encoded arguments")
        if self.held.questions >= MOST or self.held.bytes >= MOST_BYTES:
            raise TooManyCalls(f"{self.held.questions:,} questions of this sandbox's runs are not answered yet")
        work = self._answer(ticket, method, payload, channel)
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks[ticket] = task
        size, held = len(payload), self.held
        held.questions += 1
        held.bytes += size

        def done(_: object) -> None:
            held.questions -= 1
            held.bytes -= size

        task.add_done_callback(done)

    async def _answer(self, ticket: int, method: str, payload: bytes, channel: Channel) -> None:
        try:
            told = [ticket, True, await self._ask(method, payload, channel)]
        except asyncio.CancelledError:
            told = [ticket, False, failures.tell(RunOver("the run is over"))]
        except Exception as error:  # noqa: BLE001 - whatever is raised is the answer
            told = [ticket, False, failures.tell(error)]
        if self._tasks.get(ticket) is not asyncio.current_task():
            return  # it was forgotten, and may be another's number by now
        del self._tasks[ticket]
        # In this very turn: the program is told of outcomes in the order in which they were recorded.
        if not self.tell(ANSWERED, values.dumps(told)):
            self.end("the sandbox was ended: it does not read what its run has asked for")

    def forget(self, ticket: object) -> None:
        """Nobody waits for an answer any longer."""
        if type(ticket) is int and (task := self._tasks.pop(ticket, None)) is not None:
            task.cancel()

    def close(self) -> None:
        """The run is over."""
        for task in list(self._tasks.values()):
            task.cancel()
        self._ask = _over  # else the run would hold itself, until the garbage collector looks for it


async def _over(method: str, payload: bytes, channel: Channel) -> bytes:
    raise RunOver("the run is over")
