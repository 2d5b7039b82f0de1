"""Answering the calls of the other side: each by a task of its own, or by what was pledged, for which none has to wait.

What the arguments of calls hold until they are answered is counted here, and bounded by whoever opened the peer. How an
answer is sent, and what is called, is the peer's.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import logging
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Final

from . import failures
from .answer import Answer
from .errors import TooManyCalls
from .messages import Call, Failure, Result
from .stubs import Channel

if TYPE_CHECKING:
    from .peer import Peer

_log = logging.getLogger("cloister.ipc")

MAX_HELD: Final = 64 << 20
"""Bytes that the arguments of calls which are being answered may take together."""
_ELEMENT: Final = 64
"""So many of them each element of a value is taken to be, once it is read: an empty list is one byte on the wire."""
_FREE_ELEMENTS: Final = 16


class _Held:
    """What a call that is being answered holds, and the arguments that are about to be read for it."""

    __slots__ = ("bytes", "payload")

    def __init__(self, size: int) -> None:
        self.bytes, self.payload = size, b""


_answered: Final[contextvars.ContextVar[_Held]] = contextvars.ContextVar("answered")


def about_to_read(payload: bytes) -> None:
    """These are arguments of the call that is being answered here, if one is: what they take when they are read is its
    own."""
    if (held := _answered.get(None)) is not None:
        held.payload = payload


class Answering:
    """What one peer is asked, until it is answered. It does not hold the peer that has it, so that a peer which is
    dropped is gone at once, and not when somebody looks for garbage. For the rest see `Peer`."""

    __slots__ = ("_fatal", "_held", "_hold", "_loop", "_tasks", "_trace")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        hold: Callable[[int, int], bool],
        fatal: tuple[type[BaseException], ...],
        trace: failures.Trace | None,
    ) -> None:
        self._loop, self._fatal, self._trace = loop, fatal, trace
        self._held, self._hold = 0, hold
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[int]:
        return iter(self._tasks)

    def begin(self, peer: Peer, call: Call) -> None:
        """Begin to answer, and be done at once where nothing has to be waited for."""
        if (pledge := peer.exports.pledging(call.target)) is not None and self._pledged(peer, call, pledge):
            return
        task = _start(self._respond(peer, call), self._loop)
        if not task.done():
            self._tasks[call.call] = task
            if peer.closed:  # by what it has done so far
                task.cancel()

    def cancel(self, call: int) -> None:
        """The caller wants no answer any longer."""
        if (task := self._tasks.get(call)) is not None:
            task.cancel("cancelled by the caller")

    def cancel_all(self) -> None:
        """Nobody does."""
        for task in list(self._tasks.values()):
            task.cancel()

    def read(self, peer: Peer, payload: bytes, elements: int) -> None:
        """A value of so many elements is about to be read. `TooManyCalls` if it is arguments, and too much."""
        held = _answered.get(None)
        if held is not None and held.payload is payload:
            held.payload = b""
            if elements > _FREE_ELEMENTS:
                held.bytes += (more := (elements - _FREE_ELEMENTS) * _ELEMENT)
                self._hold_more(peer, more, payload)

    def _pledged(self, peer: Peer, call: Call, pledge: Callable[[str, bytes, Channel], Answer | None]) -> bool:
        number, method, size, answer = call.call, call.method, len(call.payload), None
        if self._take(size):
            try:
                answer = pledge(method, call.payload, peer)
            except Exception:  # noqa: BLE001 - it is raised again, and told, by what is asked then
                answer = None
        if answer is None:
            self._let(size)
            return False
        answer.add_done_callback(
            lambda came: self._kept(peer, number, method, size, came), context=contextvars.Context()
        )
        return True

    def _kept(self, peer: Peer, number: int, method: str, size: int, answer: Answer) -> None:
        """What was pledged has come."""
        self._let(size)
        try:
            peer.reply(Result(number, answer.result()))
        except BaseException as error:  # noqa: BLE001 - whatever is raised is the answer
            peer.reply(self._failure(number, method, error))

    async def _respond(self, peer: Peer, call: Call) -> None:
        answer: Result | Failure
        number, target, method, payload = call
        held = _Held(len(payload))
        _answered.set(held)
        try:
            self._hold_more(peer, held.bytes, payload)
            work = peer.forward(target, method, payload)
            del call, payload  # which may be large, and the answer far away
            answer = Result(number, await work)
        except BaseException as error:  # whatever is raised is the answer
            if isinstance(error, self._fatal):
                raise
            answer = self._failure(number, method, error)
        finally:
            self._let(held.bytes)
            self._tasks.pop(number, None)
        peer.reply(answer)

    def _failure(self, number: int, method: str, error: BaseException) -> Failure:
        with contextlib.suppress(Exception):  # of a class whose tracebacks cannot be asked for
            _log.info("%r raised when the other side called it", method, exc_info=error)
        return Failure(number, failures.tell(error, self._trace))

    def _take(self, size: int) -> bool:
        """Arguments of so many bytes are held; whether they may be."""
        self._held += size
        return self._hold(size, self._held)

    def _let(self, size: int) -> None:
        self._held -= size
        self._hold(-size, self._held)

    def _hold_more(self, peer: Peer, size: int, payload: bytes) -> None:
        if not self._take(size):
            peer.discard(payload)
            most = f"more than {MAX_HELD >> 20} MiB of arguments, or those of all sandboxes too much"
            raise TooManyCalls(f"calls that wait for an answer hold {most}")


if sys.version_info >= (3, 12):

    def _start(work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """A task that runs until its first wait at once: most answers are ready by then. In a context of its own: what
        whoever opened the connection was doing then is not what this call is about."""
        return asyncio.Task(work, loop=loop, eager_start=True, context=contextvars.Context())
else:

    def _start(work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> asyncio.Task[None]:
        """The same on an interpreter that has no way to ask for it: the start that the loop was told of is made now, be
        it in the midst of another task, which may be one that waits for the answer without giving the loop its turn."""
        task = loop.create_task(work, context=contextvars.Context())
        ready: collections.deque[asyncio.Handle] | None = getattr(loop, "_ready", None)
        if ready:
            running = asyncio.current_task(loop)
            if running is not None:
                asyncio.tasks._leave_task(loop, running)
            try:
                ready.pop()._run()
            finally:
                if running is not None:
                    asyncio.tasks._enter_task(loop, running)
        return task
