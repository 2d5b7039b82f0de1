"""What the runs in this sandbox ask the host: however much a program begins at once, nothing of it is refused.

A few questions are calls, each in flight until it is answered. Where there are more of them each has a ticket: the call
only hands the question over, and what comes of it is told later under that number. So what waits for hours takes up no
call, and however long the host keeps an answer back, the next question goes through. Those that would be too many to
hand over at once queue up here, all runs' in one line. A call of the program's own for which there would be room but
for the questions waits as well: only what it has begun itself can be too much.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from cloister.ipc import failures, values
from cloister.ipc.answer import Answer
from cloister.ipc.peer import Peer

from . import scope

_FEW: Final = 64
"""Questions that are calls; in a connection of fewer calls, a quarter of those, which may be none. As many more are
being handed over, one at least."""
_MOST: Final = 90_000
"""With a ticket each, from which on the next one waits: fewer than the host answers for one sandbox."""
_MOST_BYTES: Final = 16 * 1024 * 1024
"""Of all that are not answered yet, from which on the next one waits: half as much as the host keeps for a run."""


class Questions:
    """Those of one connection."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._call = functools.partial(Peer.call, peer)
        self._connection = peer.connection
        self._loop = asyncio.get_running_loop()
        self._asked = self._handing = self._held = self._bytes = 0
        self._woken = 0  # whose turn it is, and who have yet to make their call
        self._queue: deque[asyncio.Future[None]] = deque()
        self._calls: deque[asyncio.Future[None]] = deque()
        self._answers: dict[int, Answer] = {}
        self._tickets = 0
        self._few = min(_FEW, self._connection.most_calls // 4)
        self._most_handing = max(self._few, 1)
        self._telling: set[asyncio.Future[Any]] = set()

    async def ask(self, target: int, method: str, encode: Callable[[Any], bytes], arguments: Any) -> bytes:
        """One question, and what comes of it."""
        if self._asked >= self._few or self._handing or self._queue or not self._free:
            return await self._with_ticket(target, method, encode, arguments)
        payload = encode(arguments)
        self._asked += 1
        self._bytes += len(payload)
        try:
            return await self._call(target, method, payload)
        finally:
            self._asked -= 1
            self._bytes -= len(payload)
            if self._calls or self._queue:
                self.stir()

    async def _with_ticket(self, target: int, method: str, encode: Callable[[Any], bytes], arguments: Any) -> bytes:
        if self._queue or not self._free:
            await self._turn(self._queue)
        self._handing += 1
        handing, size = True, 0
        self._tickets = ticket = self._tickets + 1
        answer = self._answers[ticket] = Answer(self._loop)
        self._held += 1
        try:
            payload = encode(arguments)
            size = len(payload)
            self._bytes += size
            await self._call(target, "later", values.dumps([ticket, method, payload]))
            del payload
            handing = False
            self._handing -= 1
            self.stir()
            return await answer
        except asyncio.CancelledError:
            if (run := scope.current_run.get()) is None or not run.over:
                self._held += 1
                task = self._loop.create_task(self._forget(target, ticket))
                self._telling.add(task)
                task.add_done_callback(self._told)
            raise
        finally:
            del self._answers[ticket]
            self._held -= 1
            self._bytes -= size
            self._handing -= handing
            self.stir()

    def hear(self, topic: str, payload: bytes) -> None:
        """What came of a question: its ticket, whether it was answered, and with what."""
        ticket, answered, told = values.loads(payload, trusted=True)
        if (answer := self._answers.get(ticket)) is not None:
            if answered:
                answer.settle(told)
            else:
                answer.fail(failures.read(told, self._peer.rebuild))

    async def _forget(self, target: int, ticket: int) -> None:
        """Nobody waits for it any longer: to be said in a call, since nothing is told of it later."""
        try:
            if self.crowded:
                await self.room()
            await self._call(target, "forget", values.dumps([ticket]))
        finally:
            self._held -= 1
            self.stir()

    def _told(self, task: asyncio.Future[Any]) -> None:
        self._telling.discard(task)
        if not task.cancelled():
            task.exception()  # the run is over, and with it what it had asked

    @property
    def crowded(self) -> bool:
        """Whether there is no room for another call, be it that somebody else's turn has come."""
        return self._connection.room <= self._woken

    @property
    def _free(self) -> bool:
        woken = self._woken
        fewer = self._handing + woken < self._most_handing and self._held < _MOST
        return fewer and self._bytes < _MOST_BYTES and self._connection.room > woken

    async def room(self) -> None:
        """Wait until there is room for a call of the program's own. It is to be made at once."""
        await self._turn(self._calls)
        if self._queue:
            self._loop.call_soon(self.stir)

    async def _turn(self, queue: deque[asyncio.Future[None]]) -> None:
        """Wait until everybody before has had their turn, and there is room. Meanwhile the run does not only wait."""
        run, place = scope.still_wanted(), queue.append
        run.busy += 1
        try:
            while True:
                gate = self._loop.create_future()
                place(gate)
                self.stir()
                await self._woken_by(gate)
                if self._connection.room > 0:
                    return
                place = queue.appendleft  # a call that could not wait has taken it
        finally:
            run.busy -= 1

    async def _woken_by(self, gate: asyncio.Future[None]) -> None:
        try:
            await gate
            self._woken -= 1
        except asyncio.CancelledError:
            self._woken -= not gate.cancelled()
            self.stir()
            raise

    def stir(self) -> None:
        """There may be room: see whose turn it is. Called for whatever the host has said."""
        while self._calls and (self._calls[0].done() or not self.crowded):
            self._wake(self._calls)
        while self._queue and (self._queue[0].done() or self._free):
            self._wake(self._queue)

    def _wake(self, queue: deque[asyncio.Future[None]]) -> None:
        gate = queue.popleft()
        if not gate.done():
            self._woken += 1
            gate.set_result(None)
