"""The only module that imports ZeroMQ: frames to and from many guests, over one ROUTER.

The host connects and the host names each peer, so that no guest can claim another's identity. The ROUTER is a raw one:
libzmq moves bytes, and what a guest says is parsed here, where a wrong length cannot be more than an error. libzmq
would also collect the parts of a message without end; of raw bytes it takes no more than its queue holds, and then the
guest has to wait.

The loop watches the ROUTER's descriptor, which is edge-triggered: it says that something changed, and whoever wakes,
or sends, looks at what there is until nothing is left. Nothing here ever waits: a guest whose queue is full is told of
as such.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from typing import Final

import zmq

from . import zmtp
from .errors import ConnectionClosed, RemoteProtocolError, TooManyCalls

MAX_LINKS: Final = 65_535
_BURST: Final = 0.002
"""Seconds of reading after which the loop has its turn: whoever floods the host makes the others wait that long."""
_UNREAD: Final = 256
"""Pieces of up to 8 KiB that are taken from a guest ahead of being read."""
_NEVER: Final = 2**31 - 1
"""Milliseconds until libzmq connects again to a guest that has gone. Told not to at all (-1), it would throw away what
the guest said last."""


class Link:
    """The way to one guest.

    `on_bytes` hears of every piece that arrives, before what is in it is handed to `on_frame`. `on_lost` is called
    once: with nothing when the guest has ended the connection, with an error when what it says is no ZMTP.
    """

    __slots__ = ("_connected", "_endpoint", "_reader", "_router", "name", "on_bytes", "on_frame", "on_lost")

    def __init__(
        self,
        router: Router,
        name: bytes,
        endpoint: str,
        on_frame: Callable[[bytes], None],
        on_lost: Callable[[RemoteProtocolError | None], None],
    ) -> None:
        self._router = router
        self._endpoint = endpoint
        self._reader = zmtp.Reader()
        self._connected = False
        self.name = name
        self.on_bytes: Callable[[int], None] = lambda _: None
        self.on_frame = on_frame
        self.on_lost = on_lost

    def send(self, frame: bytes) -> None:
        """Queue a frame. `TooManyCalls` if the guest does not read, `ConnectionClosed` if it is gone."""
        self._router._send(self.name, zmtp.message(frame))

    def close(self) -> None:
        """Forget the guest; what is still queued for it is dropped. Harmless when repeated."""
        self._router._disconnect(self)

    def _feed(self, data: bytes) -> None:
        self.on_bytes(len(data))
        frames, reply = self._reader.feed(data)
        for frame in frames:
            self.on_frame(frame)
        if reply:
            with contextlib.suppress(TooManyCalls, ConnectionClosed):
                self._router._send(self.name, reply)


class Router:
    """All links of one host. Open it inside the event loop that serves it, and close it there."""

    def __init__(self, *, high_water: int = 2048) -> None:
        self._loop = asyncio.get_running_loop()
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
        self._links: dict[bytes, Link] = {}
        self._numbers = itertools.count(1)
        self._drain_soon = False
        self._loop.add_reader(self._socket.FD, self._drain)

    def connect(
        self, path: str, on_frame: Callable[[bytes], None], on_lost: Callable[[RemoteProtocolError | None], None]
    ) -> Link:
        """Connect to the socket that a guest listens on, and greet it."""
        name = b"%d" % next(self._numbers)
        link = self._links[name] = Link(self, name, f"ipc://{path}", on_frame, on_lost)
        self._socket.setsockopt(zmq.CONNECT_ROUTING_ID, name)
        self._socket.connect(link._endpoint)
        self._send(name, zmtp.OPENING_OF_A_ROUTER)
        return link

    def close(self) -> None:
        """Close every link and the context. Harmless when repeated."""
        if self._socket.closed:
            return
        self._loop.remove_reader(self._socket.FD)
        self._links.clear()
        self._socket.close(0)
        self._context.term()

    def _send(self, name: bytes, data: bytes) -> None:
        try:
            self._socket.send(name, zmq.SNDMORE | zmq.DONTWAIT)
            self._socket.send(data, zmq.DONTWAIT)
        except zmq.Again:
            raise TooManyCalls("the sandbox does not read: its queue is full") from None
        except zmq.ZMQError as error:
            raise ConnectionClosed("the connection to the sandbox is gone") from error
        self._look()

    def _look(self) -> None:
        """Whatever is done to the socket may use up the edge that the loop waits for: so look after it."""
        if not self._drain_soon and int(self._socket.EVENTS) & zmq.POLLIN:
            self._drain_soon = True
            self._loop.call_soon(self._drain)

    def _disconnect(self, link: Link) -> None:
        if self._links.pop(link.name, None) is not None:
            with contextlib.suppress(zmq.ZMQError):  # libzmq may have dropped it already
                self._socket.disconnect(link._endpoint)
            self._look()

    def _drain(self) -> None:
        self._drain_soon = False
        if self._read() and not self._drain_soon:
            self._drain_soon = True
            self._loop.call_soon(self._drain)

    def _read(self) -> bool:
        """Hand over as many pieces as are there, for a while. Whether there may be more."""
        receive, links, now = self._socket.recv, self._links, self._loop.time
        until = now() + _BURST
        try:
            while now() < until:
                name = receive(zmq.DONTWAIT)
                data = receive(zmq.DONTWAIT)
                if (link := links.get(name)) is not None:
                    self._hand_over(link, data)
        except zmq.Again:
            return False
        except zmq.ZMQError:
            if self._socket.closed:
                return False
            raise
        return True

    def _hand_over(self, link: Link, data: bytes) -> None:
        """What one guest says must never keep the others' from being read, whatever comes of it."""
        try:
            if data:
                link._feed(data)
            elif link._connected:
                self._lose(link, None)
            else:  # libzmq says nothing twice: when a connection stands, and when it has ended
                link._connected = True
        except RemoteProtocolError as error:
            self._lose(link, error)
        except Exception as error:  # noqa: BLE001 - see above
            self._loop.call_exception_handler({"message": "a frame could not be handled", "exception": error})
            self._lose(link, None)

    def _lose(self, link: Link, error: RemoteProtocolError | None) -> None:
        self._disconnect(link)
        link.on_lost(error)
