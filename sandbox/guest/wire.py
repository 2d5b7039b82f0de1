"""A guest's wire to its host: bytes to frames and back, without ever blocking the loop.

Reading is the loop's; writing is done by any thread, since any thread may print.
"""

from __future__ import annotations

import _socket
import asyncio
import collections
import os
import select
import threading
from collections.abc import Callable

from cloister.ipc import codec, zmtp
from cloister.ipc.messages import Call

from .. import exits

_CALL = bytes([codec.MARKS[Call]])
_SHORT = 1024  # bytes of a call that waits for others to go with
_CHUNK = 32 * 1024  # below what the C library takes from the kernel anew each time


class Wire:
    """The descriptor of the connection."""

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
        self.deliver: Callable[[bytes], None]
        """Takes a frame that has come."""
        self.stir: Callable[[], None]
        """Called when all of a piece have been taken."""

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
                if self._unsent and not self._send_kept():  # whose turn it is before, though the loop may be held up
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
                self.deliver(frame)
                self.stir()
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
                self.deliver(frame)
            self.stir()
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
            if self._send_kept():
                self._loop.remove_writer(self.descriptor)

    def _send_kept(self) -> bool:
        """As much of what was kept as the host takes now; whether that is all."""
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent[0])
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                self._loop.call_soon_threadsafe(self._loop.stop)
                return False
            self._backlog -= sent
            if sent < len(self._unsent[0]):
                self._unsent[0] = memoryview(self._unsent[0])[sent:]
            else:
                self._unsent.popleft()
        return True
