"""The transport that is used unless another is asked for: the host's end of each link is a plain socket.

Bytes go from one process to the other in two system calls. libzmq at this end would hand them to a thread of its own
and back, which costs as much again as the rest of a call, and keep 20 KiB of queues for each guest; both ends speak its
protocol all the same. Each link is a pair of sockets without a name, of which a guest is given one when it is made: so
none can be taken for another, and there is nothing that anybody else could connect to.

Each guest is read a little at a time, so that one that floods makes the others wait for no longer than it takes to
look at that little; the rest waits in the kernel, and then with the guest. A guest that is held is not read at all for
a while. Nothing here ever waits.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from . import zmtp
from .arriving import LARGE, MOST_IN_ALL, Arriving
from .codec import MAX_FRAME
from .errors import ConnectionClosed, RemoteProtocolError, TooManyCalls
from .link import NOBODYS, Link, OnFrame, OnLost
from .unread import MUCH, NOTHING, Unread
from .vigil import Vigil

MAX_UNSENT: Final = 2 * MAX_FRAME
"""Bytes that are kept for a guest that does not read."""
_SMALL, _RESERVE = 1024, 1 << 20
"""What is small, such as the word that a large answer could not be kept, has some room of its own."""
_LARGE_PIECE: Final = 256 * 1024  # of a frame that is on its way, of which no more can become than that one frame


class SocketLink(Link):
    """The way to one guest over a connected socket."""

    __slots__ = (
        "_arriving", "_crowded", "_descriptor", "_held", "_held_from", "_held_until", "_links", "_most", "_of_all",
        "_released", "_socket", "_unsent", "_vigil", "behind", "taken",
    )  # fmt: skip

    def __init__(
        self,
        links: set[SocketLink],
        end: socket.socket,
        on_frame: OnFrame,
        on_lost: OnLost,
        most: int,
        of_all: Unread,
        vigil: Vigil,
        arriving: Arriving,
    ) -> None:
        super().__init__(on_frame, on_lost)
        self._vigil = vigil
        self._unsent: bytearray | None = None
        self._of_all, self._arriving = of_all, arriving
        self._crowded = False  # there is no room for the frame that it has begun
        self.taken = self.behind = NOTHING
        self._most = most
        self._held: asyncio.TimerHandle | None = None
        self._held_from = self._held_until = 0.0
        self._released = False
        self._socket = end
        self._descriptor = end.fileno()
        self._links = links
        self._send(zmtp.OPENING_OF_A_ROUTER)
        NOBODYS.copy().run(self._loop.add_reader, self._descriptor, self._readable)
        links.add(self)

    def unread_for(self) -> float:
        """See `Link.unread_for`."""
        return self._loop.time() - self.taken

    def unread(self) -> int:
        """See `Link.unread`."""
        return 0 if self._unsent is None or self.taken == NOTHING else len(self._unsent)

    def give_up(self) -> None:
        """See `unread.Reader`."""
        kept = f"{self.unread():,} bytes were kept for it, of which it read nothing for {self.unread_for():.0f} s"
        much = f"it has had more than {MUCH >> 20} MiB unread for {self._loop.time() - self.behind:.0f} s"
        self._lose(RemoteProtocolError(f"{kept}, {much}, and all sandboxes together have too much unread"))

    def hold(self, seconds: float) -> bool:
        """See `Link.hold`."""
        now = self._loop.time()
        self._held_until = max(now + seconds, self._held_until)
        if self._held is None and self in self._links and not self._released:
            self._stop_listening()
            self._held_from = now  # not a moment later, which would count as its own
            self._held = self._loop.call_at(self._held_until, self._let_go)
        return True

    def unfinished_for(self) -> float:
        """See `Link.unfinished_for`. While it is held, or there is no room, it could not finish anything."""
        if self._crowded:
            return 0.0
        return (self._loop.time() if self._held is None else self._held_from) - self._begun

    def held_for(self) -> float:
        """See `Link.held_for`."""
        return 0.0 if self._held is None else max(self._held_until - self._loop.time(), 0.0)

    def let_in(self) -> None:
        """See `arriving.Sender`."""
        self._crowded, self._begun = False, self._loop.time()
        self._listen()

    def cut_short(self) -> None:
        """See `arriving.Sender`."""
        words = f"a frame that was begun {self.unfinished_for():.1f} s ago and not finished, and all sandboxes together"
        self._lose(RemoteProtocolError(f"{words} have begun too much"))

    def _begins(self, size: int) -> None:
        if size > LARGE and self in self._links and not self._released and not self._arriving.begin(self, size):
            self._crowded = True
            self._stop_listening()

    def _goes_on(self) -> None:
        self._arriving.go_on(self)

    def _arrived(self) -> None:
        self._arriving.end(self)

    def release(self) -> None:
        """See `Link.release`."""
        self._released = True
        if self._crowded:
            self._arriving.end(self)
            self.let_in()
        if self._held is not None:
            self._held_until = 0.0
            self._held.cancel()
            self._let_go()

    def _let_go(self) -> None:
        if self._held_until > self._loop.time():  # it was held for longer meanwhile
            self._held = self._loop.call_at(self._held_until, self._let_go)
        else:
            self._held = None
            self._begun += self._loop.time() - self._held_from
            self._arriving.go_on(self)
            self._listen()

    def _listen(self) -> None:
        if self._held is None and not self._stuffed and not self._crowded and self in self._links:
            NOBODYS.copy().run(self._loop.add_reader, self._descriptor, self._readable)

    def _stop_listening(self) -> None:
        self._loop.remove_reader(self._descriptor)

    def close(self) -> None:
        """See `Link.close`."""
        if self in self._links:
            self._links.discard(self)
            self._loop.remove_reader(self._descriptor)
            if self._held is not None:
                self._held.cancel()
                self._held = None
            if self._unsent is not None:
                self._loop.remove_writer(self._descriptor)
            left, self._unsent = self.unread(), None
            self._of_all.less(self, left)
            self._arriving.end(self)
            self._reader = zmtp.Reader()  # with nothing of what was on its way
            self._later.clear()
            self._socket.close()

    def _write(self, data: bytes) -> None:
        if self._unsent is not None:
            most = self._most + (_RESERVE if len(data) <= _SMALL else 0)
            if len(self._unsent) + len(data) > most or self._of_all.refuses(self, len(data)):
                raise TooManyCalls("the sandbox does not read: its queue is full")
            self._unsent += data
            if self.taken != NOTHING:
                self._have_more(len(data))
        elif len(data) <= _SMALL and len(getattr(self._loop, "_ready", ())) > self._vigil.awake:
            self._unsent = bytearray(data)  # whoever else goes on in this turn may have something for it too
            self._loop.call_soon(self._send_together)
        elif (sent := self._send(data)) == len(data):
            self._vigil.sent()
        else:
            self._keep(bytearray(memoryview(data)[sent:]))

    def _keep(self, data: bytearray) -> None:
        """Send the rest when the guest has read something."""
        self._unsent, self.taken = data, self._loop.time()
        NOBODYS.copy().run(self._loop.add_writer, self._descriptor, self._writable)
        self._have_more(len(data))

    def _have_more(self, size: int) -> None:
        if self.unread() > MUCH and not self._stuffed:
            self._stuffed, self.behind = True, self._loop.time()
            self._stop_listening()
        self._of_all.more(self, size)

    def gather(self, turns: int) -> None:
        """See `Link.gather`. Where something waits already, the rest goes with that."""
        if self._unsent is None and self in self._links:
            self._unsent = bytearray()
            self._send_in(turns)

    def _send_in(self, turns: int) -> None:
        if turns:
            self._loop.call_soon(self._send_in, turns - 1)
        else:
            self._send_together()

    def _send_together(self) -> None:
        """Each piece would wake the guest and cost a system call."""
        if (unsent := self._unsent) is not None:
            self._unsent = None
            try:
                sent = self._send(unsent)
            except ConnectionClosed:  # that it is gone is told after what it said last
                return
            if sent < len(unsent):
                self._keep(unsent[sent:])
            else:
                self._vigil.sent()

    def _writable(self) -> None:
        assert self._unsent is not None
        before = len(self._unsent)
        try:
            del self._unsent[: self._send(self._unsent)]
        except ConnectionClosed:
            self._unsent.clear()  # what it said last may still have to be read; that it is gone is told after that
        self.taken = self._loop.time()
        self._of_all.less(self, before - len(self._unsent))
        if not self._unsent:
            self._loop.remove_writer(self._descriptor)
            self._unsent, self.taken = None, NOTHING
        if self._stuffed and self.unread() <= MUCH:
            self._listen_again()

    def _listen_again(self) -> None:
        """It has read what it had asked for: what it has said meanwhile comes first."""
        self._stuffed, self.behind = False, NOTHING
        if self._later:
            self._take(b"")
        self._listen()

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise ConnectionClosed("the connection to the sandbox is gone") from error

    def _readable(self) -> None:
        try:
            data = self._socket.recv(min(max(self._reader.missing, self._piece), _LARGE_PIECE))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._vigil.heard()
            self._take(data)
        elif self in self._links:
            self._lose(None)


class Sockets:
    """All links of one host; see `Transport`."""

    def __init__(self, *, max_unsent: int = MAX_UNSENT, max_arriving: int = MOST_IN_ALL) -> None:
        self._links: set[SocketLink] = set()
        self._most = max_unsent
        loop = asyncio.get_running_loop()
        self._unread = Unread(loop.time)
        self._arriving = Arriving(loop.time, loop.call_later, max_arriving)
        self._vigil = Vigil()

    async def lay(self, on_frame: OnFrame, on_lost: OnLost) -> tuple[Link, socket.socket]:
        """See `Transport.lay`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            shared = self._unread, self._vigil, self._arriving
            return SocketLink(self._links, ours, on_frame, on_lost, self._most, *shared), theirs
        except BaseException:  # the system watches no more than so many descriptors for each user
            ours.close()
            theirs.close()
            raise

    def close(self) -> None:
        """See `Transport.close`."""
        for link in list(self._links):
            link.close()
