"""A guest's life: greet the host over the connection that it was born with, answer calls until the host is gone.

It runs after the lockdown. Everything it needs is imported by then.
"""

from __future__ import annotations

import _socket
import _thread
import asyncio
import collections
import functools
import os
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from cloister.ipc import codec, values, zmtp
from cloister.ipc.connection import Connection
from cloister.ipc.messages import Call
from cloister.ipc.peer import Peer

from .. import exits
from . import failure, heap, scope
from .crossing import dress, lend
from .output import Output
from .questions import Questions
from .values import JsDict
from .worker import Worker

_AT_REST = 3.0
"""Seconds after which whoever came for code that was imported has been served, and the compiler has done its work. Who
is evicted before that need not tidy up."""
_CALL = bytes([codec.MARKS[Call]])
_SHORT = 1024  # bytes of a call that waits for others to go with
_LONGEST = 3600.0  # seconds that are waited for a timer at once
_CANCELLED = 100  # timers, beyond which a turn of the loop forgets them
_CHUNK = 32 * 1024  # below what the C library takes from the kernel anew each time


class GuestPeer(Peer):
    """The host, as seen from inside. A run that is over reaches it no longer."""

    _calls = 0
    """Of the program's own, that are in flight or wait for room."""
    _line: Questions | None = None

    @functools.cached_property
    def questions(self) -> Questions:
        """What its runs ask. Made for the first of them, when it is known how many calls may be in flight."""
        questions = self._line = Questions(self)
        self._on_note = questions.hear
        return questions

    async def call(self, target: int, method: str, payload: bytes, *, timeout: float | None = None) -> bytes:
        """Call the host."""
        run = scope.still_wanted()
        run.busy += 1
        self._calls += 1
        try:
            if self._line is not None and self._line.crowded and self._calls <= self.connection.most_calls:
                await self._room(self._line, payload)
            if (mark := scope.inside.get()) is not None:  # said to the host by way of the run that it belongs to
                payload = values.dumps([mark, target, method, payload])
                target, method = run.journal, "through"
            return await super().call(target, method, payload, timeout=timeout)
        finally:
            run.busy -= 1
            self._calls -= 1

    async def _room(self, line: Questions, payload: bytes) -> None:
        """Wait until what the runs ask has left room for a call, unless the loop is held up for it."""
        if not scope.held_up:
            try:
                await line.room()
            except BaseException:
                self._take_back(payload)
                raise

    def stir(self) -> None:
        """The host has said something."""
        if self._line is not None:
            self._line.stir()


class Wire:
    """The descriptor of the connection: bytes to frames and back, without ever blocking the loop.

    Reading is the loop's; writing is done by any thread, since any thread may print.
    """

    def __init__(self, connection: _socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._socket = connection
        self.descriptor = connection.fileno()
        self._loop = loop
        self._reader = zmtp.Reader()
        self._writing = threading.Lock()
        self._unsent: collections.deque[bytes | bytearray | memoryview] = collections.deque()
        self._backlog = 0
        self._early = bytearray()
        self._reading = False
        self._together = bytearray()
        self._socket.setblocking(False)
        self.peer: GuestPeer

    def send(self, frame: bytes) -> None:
        """Send a frame, or keep it until the host can take it. Calls that come of several frames which have arrived
        together go together as well: each by itself would be a system call, and wake the host. Answers wait for none.
        """
        data = zmtp.message(frame)
        if not self._reader.ready:
            self._early += data
        elif self._reading and frame[:1] == _CALL and len(data) <= _SHORT:
            with self._writing:
                self._together += data
        else:
            self.write(data)

    def write(self, data: bytes) -> None:
        """Send bytes in order. Without memory to keep them in there is nothing left but to end, and to say why."""
        try:
            with self._writing:
                if self._together:
                    data, self._together = bytes(self._together) + data, bytearray()
                if self._unsent:
                    self._keep(data)
                    return
                try:
                    sent = self._socket.send(data)
                except (BlockingIOError, InterruptedError):
                    sent = 0
                except OSError:
                    self._loop.call_soon_threadsafe(self._loop.stop)
                    return
                if sent < len(data):
                    self._keep(memoryview(data)[sent:])
                    self._loop.call_soon_threadsafe(self._watch)
        except MemoryError:
            os._exit(exits.OUT_OF_MEMORY)

    def _keep(self, data: bytes | memoryview) -> None:
        """What is large is kept as it is, and not copied: there may be no memory for that."""
        self._backlog += len(data)
        if len(data) >= _CHUNK:
            self._unsent.append(data)
        elif self._unsent and isinstance(last := self._unsent[-1], bytearray) and len(last) < _CHUNK:
            last += data
        else:
            self._unsent.append(bytearray(data))

    def _watch(self) -> None:
        if self._unsent:  # and was not sent meanwhile, while the loop was held up
            self._loop.add_writer(self.descriptor, self._flush)

    def backlog(self) -> int:
        """How many bytes wait for the host to take them."""
        return self._backlog

    def serve(self) -> None:
        """There is something to read, and perhaps soon more: as long as nothing else is to be done, it is waited for
        here, since a turn of the loop would take as long as a tenth of a call."""
        while self.readable() and self._loop.nothing_but(self.descriptor):  # type: ignore[attr-defined]
            pass

    def readable(self) -> bool:
        """There is something to read, or the end: whether it was not the end. What there is no memory to read would be
        missing in the midst of the rest: so then too there is nothing left but to end."""
        try:
            try:
                data = self._socket.recv(_CHUNK)
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:
                data = b""
            if not data:
                self._loop.stop()
                return False
            if (frame := self._reader.alone(data)) is not None:
                self.peer.deliver(frame)
                self.peer.stir()
            else:
                self._take(data)
            return True
        except MemoryError:
            os._exit(exits.OUT_OF_MEMORY)

    def _take(self, data: bytes) -> None:
        frames, reply = self._reader.feed(data)
        if reply:
            self.write(reply)
        if self._early and self._reader.ready:
            early, self._early = bytes(self._early), bytearray()
            self.write(early)
        self._reading = len(frames) > 1
        try:
            for frame in frames:
                self.peer.deliver(frame)
            self.peer.stir()
        finally:
            self.send_together()

    def send_together(self) -> None:
        """What was kept to go with more: there is no more."""
        self._reading = False
        if self._together:
            self.write(b"")

    def pump(self, timeout: float | None) -> None:
        """Wait for something to read, and read it, while the loop is held up."""
        self.send_together()
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        for _, what in poll.poll(None if timeout is None else max(timeout, 0) * 1000):
            if what & select.POLLOUT:
                self._flush()
            if what & ~select.POLLOUT and not self.readable():
                os._exit(exits.CUT_OFF)  # nobody is left to wait for

    def _flush(self) -> None:
        with self._writing:
            try:
                sent = self._socket.send(self._unsent[0])
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._loop.stop()
                return
            self._backlog -= sent
            if sent < len(self._unsent[0]):
                self._unsent[0] = memoryview(self._unsent[0])[sent:]
            else:
                self._unsent.popleft()
            if not self._unsent:
                self._loop.remove_writer(self.descriptor)


class Loop(asyncio.SelectorEventLoop):
    """An event loop that was made before the fork, and gets descriptors of its own after it.

    Making one from scratch would cost each sandbox half a megabyte of pages that are written to on the way.
    """

    _csock: socket.socket | None
    _ready: collections.deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _timer_cancelled_count: int
    _stopping: bool
    _debug: bool
    _selector: Any

    def __init__(self) -> None:
        super().__init__(selectors.EpollSelector())
        self._close_self_pipe()
        self._making_pipe = threading.Lock()
        self._selector._selector.close()

    def nothing_but(self, descriptor: int) -> bool:
        """Wait as in a turn for what is to be done next. Whether that is to read from this descriptor, and nothing
        else; if not, the next turn finds everything as it is."""
        if self._ready or self._stopping or self._debug or self._timer_cancelled_count > _CANCELLED:
            return False
        wait: float | None = None
        if self._scheduled and (wait := min(self._scheduled[0].when() - self.time(), _LONGEST)) <= 0:
            return False
        found: list[tuple[int, int]] = self._selector._selector.poll(wait, 2)
        return found == [(descriptor, select.EPOLLIN)]

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Work in a thread is something that a run does beside waiting."""
        run = scope.still_wanted()
        run.busy += 1
        work: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        work.add_done_callback(lambda _: run.done())
        return work

    def reopen(self) -> None:
        """Take a descriptor that no sibling shares. The pipe by which threads wake it is made when one does."""
        self._selector._selector = select.epoll()

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """What a handler wakes the loop with has to be there."""
        self._write_to_self(always=True)
        super().add_signal_handler(sig, callback, *args)

    def _close_self_pipe(self) -> None:
        if self._csock is not None:
            super()._close_self_pipe()  # type: ignore[misc]

    def _write_to_self(self, always: bool = False) -> None:
        alone = not _thread._count()  # without another thread nothing can come while the loop waits, no signal either
        if alone and not always:
            return
        with self._making_pipe:
            if self._csock is None:
                self._make_self_pipe()  # type: ignore[attr-defined]
        super()._write_to_self()  # type: ignore[misc]


class Stage:
    """What a guest needs and the zygote can prepare: the loop, and the streams that a tenant prints to."""

    def __init__(self) -> None:
        os.environ.pop("TZ", None)  # which was the zygote's: from here on there is no file to read another from
        self.loop = Loop()
        self.output = Output()
        self.output.install()
        self.warm_up: Callable[[Callable[[], None]], None] = lambda then: then()
        """What to do before the host is greeted; then, what to go on with."""
        self.stretch: Callable[[], None] = lambda: None
        """What to do when the host says, by a note, that code is about to come."""
        asyncio.set_event_loop(self.loop)

    def serve(self, descriptor: int, account: Mapping[str, int]) -> int:
        """Live. Returns what to exit with, which tells the host that it was the connection that ended."""
        self.converse(_socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor), account)
        return exits.CUT_OFF

    def converse(self, connection: _socket.socket, account: Mapping[str, int]) -> None:
        """Answer calls that come over a connection, until it ends."""
        self.loop.reopen()
        wire = Wire(connection, self.loop)
        self.loop.call_soon(self._open, wire, dict(account))
        self.loop.run_forever()

    def peer(self, send: Callable[[bytes], None], imported: Callable[[], object] = lambda: None) -> GuestPeer:
        """The other end of a conversation, whose frames go to `send`. `imported` is told when there is code."""
        connection = Connection(greeted=True)
        peer = GuestPeer(
            connection,
            send,
            trusted=True,
            fatal=(),
            hook=JsDict,
            trace=failure.trace,
            rebuild=failure.rebuild,
            dress=dress,
            lend=lend,
            on_note=lambda _topic, _payload: self.stretch(),
            on_closed=lambda _: self.loop.stop(),
        )
        peer.exports.grant(Worker(self.output, connection, imported))
        return peer

    def _open(self, wire: Wire, account: dict[str, int]) -> None:
        wire.write(zmtp.OPENING)
        self.warm_up(lambda: self._greet(wire, account))

    def _greet(self, wire: Wire, account: dict[str, int]) -> None:
        loop, output = self.loop, self.output
        peer = wire.peer = self.peer(wire.send, lambda: loop.call_later(_AT_REST, heap.give_back))
        output.note, output.backlog = peer.note, wire.backlog
        background = scope.Background(
            lambda count: peer.note("background", values.dumps(count)),
            lambda what, error: output.say("error", f"{what}\n{failure.trace(error)}"),
        )
        scope.set_background(background)
        scope.pump, scope.loop = wire.pump, loop
        loop.set_exception_handler(lambda _, context: output.say("error", _unhandled(context)))
        loop.add_reader(wire.descriptor, wire.serve)
        account["ready"] = time.monotonic_ns()
        wire.send(peer.connection.hello(values.dumps(account)))


def _unhandled(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return f"{context.get('message', 'unhandled')}\n{failure.trace(error) if error is not None else ''}"
