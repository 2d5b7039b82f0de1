"""The transport over libzmq, and the only module that imports it: one ROUTER for all guests.

For a host that has its reasons to have libzmq move the bytes, in a thread of its own and outside of Python's lock. The
host connects and the host names each peer, so that no guest can claim another's identity; what libzmq has connected to
is a socket of the host's, whose other end is the guest's. The ROUTER is a raw one:
libzmq would read what is hostile in a language where a mistake is a hole, and collect the parts of a message without
end; of raw bytes it takes no more than its queue holds, and then the guest has to wait.

The loop watches the ROUTER's descriptor, which is edge-triggered: it says that something changed, and whoever wakes,
or sends, looks at what there is until nothing is left. Nothing here ever waits: a guest whose queue is full is told of
as such.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from typing import Final

import zmq

from . import zmtp
from .doors import Doors
from .errors import ConnectionClosed, TooManyCalls
from .link import NOBODYS, Link, OnFrame, OnLost

MAX_LINKS: Final = 65_535
_BURST: Final = 0.002
"""Seconds of reading after which the loop has its turn: whoever floods the host makes the others wait that long."""
_UNREAD: Final = 256
"""Pieces of up to 8 KiB that are taken from a guest ahead of being read."""
_NEVER: Final = 2**31 - 1
"""Milliseconds until libzmq connects again to a guest that has gone. Told not to at all (-1), it would throw away what
the guest said last."""


class RouterLink(Link):
    """The way to one guest through the ROUTER."""

    __slots__ = ("connected", "endpoint", "name", "router")

    def __init__(self, router: Router, name: bytes, on_frame: OnFrame, on_lost: OnLost) -> None:
        super().__init__(on_frame, on_lost)
        self.router = router
        self.name = name
        self.endpoint = ""
        self.connected = False

    def close(self) -> None:
        """See `Link.close`."""
        self.router.disconnect(self)

    def arrived(self, data: bytes) -> None:
        """libzmq says nothing twice: when a connection stands, and when it has ended."""
        if data:
            self._take(data)
        elif self.connected:
            self._lose(None)
        else:
            self.connected = True

    def left(self) -> None:
        """Nothing that it says is read any more."""
        self._reader = zmtp.Reader()  # with nothing of what was on its way

    def _write(self, data: bytes) -> None:
        self.router.send(self.name, data)


class Router:
    """All links of one host; see `Transport`."""

    def __init__(self, *, high_water: int = 2048) -> None:
        self._loop = asyncio.get_running_loop()
        self._doors = Doors()
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, MAX_LINKS)
        self._socket = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_RAW, 1),
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.SNDHWM, high_water),
            (zmq.RCVHWM, _UNREAD),
            (zmq.LINGER, 0),
            (zmq.RECONNECT_IVL, _NEVER),
        ):
            self._socket.setsockopt(option, value)
        self._links: dict[bytes, RouterLink] = {}
        self._numbers = itertools.count(1)
        self._drain_soon = False
        NOBODYS.copy().run(self._loop.add_reader, self._socket.FD, self._drain)

    async def lay(self, on_frame: OnFrame, on_lost: OnLost) -> tuple[Link, socket.socket]:
        """See `Transport.lay`."""
        link = RouterLink(self, b"%d" % next(self._numbers), on_frame, on_lost)
        try:
            return link, await self._doors.connected(lambda path: self._connect(link, path))
        except BaseException:
            link.close()
            raise

    def _connect(self, link: RouterLink, path: str) -> None:
        link.endpoint = f"ipc://{path}"
        self._links[link.name] = link
        self._socket.setsockopt(zmq.CONNECT_ROUTING_ID, link.name)
        self._socket.connect(link.endpoint)
        self.send(link.name, zmtp.OPENING_OF_A_ROUTER)

    def close(self) -> None:
        """See `Transport.close`."""
        if self._socket.closed:
            return
        self._loop.remove_reader(self._socket.FD)
        self._links.clear()
        self._socket.close(0)
        self._context.term()
        self._doors.close()

    def send(self, name: bytes, data: bytes) -> None:
        """Queue bytes for one peer. `TooManyCalls`, `ConnectionClosed`."""
        try:
            self._socket.send(name, zmq.SNDMORE | zmq.DONTWAIT)
            self._socket.send(data, zmq.DONTWAIT)
        except zmq.Again:
            raise TooManyCalls("the sandbox does not read: its queue is full") from None
        except zmq.ZMQError as error:
            raise ConnectionClosed("the connection to the sandbox is gone") from error
        self._look()

    def disconnect(self, link: RouterLink) -> None:
        """Forget a peer. Harmless when repeated."""
        if self._links.pop(link.name, None) is not None:
            with contextlib.suppress(zmq.ZMQError):  # libzmq may have dropped it already
                self._socket.disconnect(link.endpoint)
            link.left()
            self._look()

    def _look(self) -> None:
        """Whatever is done to the socket may use up the edge that the loop waits for: so look after it."""
        if not self._drain_soon and int(self._socket.EVENTS) & zmq.POLLIN:
            self._drain_soon = True
            self._loop.call_soon(self._drain, context=NOBODYS.copy())

    def _drain(self) -> None:
        self._drain_soon = False
        if self._read() and not self._drain_soon:
            self._drain_soon = True
            self._loop.call_soon(self._drain, context=NOBODYS.copy())

    def _read(self) -> bool:
        """Hand over as many pieces as are there, for a while. Whether there may be more."""
        receive, links, now = self._socket.recv, self._links, self._loop.time
        until = now() + _BURST
        try:
            while now() < until:
                name = receive(zmq.DONTWAIT)
                data = receive(zmq.DONTWAIT)
                if (link := links.get(name)) is not None:
                    link.arrived(data)
        except zmq.Again:
            return False
        except zmq.ZMQError:
            if self._socket.closed:
                return False
            raise
        return True
