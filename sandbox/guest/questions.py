"""What the runs in this sandbox ask the host: however much a program begins at once, nothing of it is refused.

A few questions are calls, each in flight until it is answered. Where there are more of them each has a ticket: the call
only hands the question over, and what comes of it is told later under that number. So what waits for hours takes up no
call, and however long the host keeps an answer back, the next question goes through. Those that would be too many to
hand over at once queue up here, all runs' in one line.
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

_FEW: Final = 64
"""Questions that are calls; in a connection of fewer calls, a quarter of those."""
_MOST_BYTES: Final = 16 * 1024 * 1024
"""Of all that are not answered yet, from which on the next one waits: half as much as the host keeps for a run."""
_LOOK_AGAIN: Final = 0.01  # seconds, when all calls are in flight and none of them is a question


class Questions:
    """Those of one connection."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._call = functools.partial(Peer.call, peer)
        self._connection = peer.connection
        self._loop = asyncio.get_running_loop()
        self._asked = self._handing = self._bytes = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._answers: dict[int, Answer] = {}
        self._tickets = 0
        self._few = min(_FEW, max(self._connection.most_calls // 4, 1))
        self._telling: set[asyncio.Future[Any]] = set()
        self._looking = False

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
            if self._queue:
                self._stir()

    async def _with_ticket(self, target: int, method: str, encode: Callable[[Any], bytes], arguments: Any) -> bytes:
        if self._queue or not self._free:
            await self._turn()
        else:
            self._handing += 1
        handing, size = True, 0
        self._tickets = ticket = self._tickets + 1
        answer = self._answers[ticket] = Answer(self._loop)
        try:
            payload = encode(arguments)
            size = len(payload)
            self._bytes += size
            await self._call(target, "later", values.dumps([ticket, method, payload]))
            del payload
            handing = False
            self._handing -= 1
            self._stir()
            return await answer
        except asyncio.CancelledError:
            self._forget(target, ticket)
            raise
        finally:
            del self._answers[ticket]
            self._bytes -= size
            self._handing -= handing
            self._stir()

    @property
    def unasked(self) -> bool:
        """Whether there are such as the host has not heard of yet."""
        return bool(self._queue)

    def hear(self, topic: str, payload: bytes) -> None:
        """What came of a question: its ticket, whether it was answered, and with what."""
        ticket, answered, told = values.loads(payload, trusted=True)
        if (answer := self._answers.get(ticket)) is not None:
            if answered:
                answer.settle(told)
            else:
                answer.fail(failures.read(told, self._peer.rebuild))

    def _forget(self, target: int, ticket: int) -> None:
        """Nobody waits for it any longer."""
        task = self._loop.create_task(self.ask(target, "forget", values.dumps, [ticket]))
        self._telling.add(task)
        task.add_done_callback(self._told)

    def _told(self, task: asyncio.Future[Any]) -> None:
        self._telling.discard(task)
        if not task.cancelled():
            task.exception()  # the run is over, and with it what it had asked

    @property
    def _free(self) -> bool:
        return self._handing < self._few and self._bytes < _MOST_BYTES and self._connection.has_room

    async def _turn(self) -> None:
        """Wait until everybody before has handed over, and there is room."""
        gate = self._loop.create_future()
        self._queue.append(gate)
        self._stir()
        try:
            await gate
        except asyncio.CancelledError:
            if gate.cancelled():
                self._queue.remove(gate)
            else:
                self._handing -= 1
                self._stir()
            raise

    def _stir(self) -> None:
        while self._queue and self._free:
            gate = self._queue[0]
            if not gate.done():
                self._handing += 1
                gate.set_result(None)
            self._queue.popleft()
        if self._queue and not self._asked and not self._handing and not self._looking:
            self._looking = True
            self._loop.call_later(_LOOK_AGAIN, self._look)

    def _look(self) -> None:
        self._looking = False
        self._stir()
