"""The only module that imports ZeroMQ: frames to and from many guests, over one ROUTER.

The host connects and the host names each peer, so that no guest can claim another's identity. The loop watches the
ROUTER's descriptor, which is edge-triggered: it says that something changed, and whoever wakes, or sends, looks at
what there is until nothing is left. Nothing here ever waits: a guest whose queue is full is told of as such.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from collections.abc import Callable
from typing import Final

import zmq

from . import codec
from .errors import ConnectionClosed, TooManyCalls

MAX_LINKS: Final = 65_535
_BURST: Final = 256
_LAST_WORDS: Final = 8192
_NEVER: Final = 2**31 - 1
"""Milliseconds until libzmq connects again to a guest that has gone. Told not to at all (-1), it would throw away what
the guest said last."""


class Link:
    """The way to one guest."""

    __slots__ = ("_endpoint", "_router", "name", "on_frame", "on_lost")

    def __init__(
        self, router: Router, name: bytes, endpoint: str, on_frame: Callable[[bytes], None], on_lost: Callable[[], None]
    ) -> None:
        self._router = router
        self._endpoint = endpoint
        self.name = name
        self.on_frame = on_frame
        self.on_lost = on_lost

    def send(self, frame: bytes) -> None:
        """Queue a frame. `TooManyCalls` if the guest does not read, `ConnectionClosed` if it is gone."""
        self._router._send(self.name, frame)

    def close(self) -> None:
        """Forget the guest; what is still queued for it is dropped. Harmless when repeated."""
        self._router._disconnect(self.name, self._endpoint)


class Router:
    """All links of one host. Open it inside the event loop that serves it, and close it there."""

    def __init__(self, *, high_water: int = 2048) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, MAX_LINKS)
        self._socket = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.ROUTER_MANDATORY, 1),
            (zmq.MAXMSGSIZE, codec.MAX_FRAME),
            (zmq.SNDHWM, high_water),
            (zmq.RCVHWM, high_water),
            (zmq.LINGER, 0),
            (zmq.RECONNECT_IVL, _NEVER),
            (zmq.HANDSHAKE_IVL, 10_000),
        ):
            self._socket.setsockopt(option, value)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
        self._links: dict[bytes, Link] = {}
        self._endpoints: dict[bytes, Link] = {}
        self._numbers = itertools.count(1)
        self._drain_soon = False
        self._loop.add_reader(self._socket.FD, self._drain)
        self._loop.add_reader(self._monitor.FD, self._watch)
        self._watch()  # a descriptor tells of nothing until somebody has looked, and found nothing

    def connect(self, path: str, on_frame: Callable[[bytes], None], on_lost: Callable[[], None]) -> Link:
        """Connect to the socket that a guest listens on. `on_lost` is called once if the guest ends the connection."""
        name = b"%d" % next(self._numbers)
        endpoint = f"ipc://{path}"
        link = Link(self, name, endpoint, on_frame, on_lost)
        self._links[name] = self._endpoints[endpoint.encode()] = link
        self._socket.setsockopt(zmq.CONNECT_ROUTING_ID, name)
        self._socket.connect(endpoint)
        self._look()
        return link

    def close(self) -> None:
        """Close every link and the context. Harmless when repeated."""
        if self._socket.closed:
            return
        self._loop.remove_reader(self._socket.FD)
        self._loop.remove_reader(self._monitor.FD)
        self._links.clear()
        self._endpoints.clear()
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)
        self._context.term()

    def _send(self, name: bytes, frame: bytes) -> None:
        try:
            self._socket.send(name, zmq.SNDMORE | zmq.DONTWAIT)
            self._socket.send(frame, zmq.DONTWAIT)
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

    def _disconnect(self, name: bytes, endpoint: str) -> None:
        if self._links.pop(name, None) is not None:
            self._endpoints.pop(endpoint.encode(), None)
            with contextlib.suppress(zmq.ZMQError):  # libzmq may have dropped it already
                self._socket.disconnect(endpoint)
            self._look()

    def _drain(self) -> None:
        self._drain_soon = False
        if self._read(_BURST) and not self._drain_soon:
            self._drain_soon = True
            self._loop.call_soon(self._drain)

    def _read(self, count: int) -> bool:
        """Hand over as many frames as are there, up to a number. Whether there may be more."""
        receive, links = self._socket.recv, self._links
        try:
            for _ in range(count):
                name = receive(zmq.DONTWAIT)
                parts = 0
                frame = b""
                while self._socket.RCVMORE:
                    frame = receive(zmq.DONTWAIT)
                    parts += 1
                if (link := links.get(name)) is not None:
                    self._hand_over(link, frame if parts == 1 else b"")
        except zmq.Again:
            return False
        except zmq.ZMQError:
            if self._socket.closed:
                return False
            raise
        return True

    def _hand_over(self, link: Link, frame: bytes) -> None:
        """One guest's frame must never keep the others' from being read, whatever comes of it."""
        try:
            link.on_frame(frame)
        except Exception as error:  # noqa: BLE001 - see above
            self._loop.call_exception_handler({"message": "a frame could not be handled", "exception": error})
            link.on_lost()

    def _watch(self) -> None:
        while int(self._monitor.EVENTS) & zmq.POLLIN:
            event, endpoint = self._monitor.recv_multipart(zmq.DONTWAIT)
            link = self._endpoints.get(endpoint)
            if link is not None and struct.unpack("=hi", event)[0] in {
                zmq.EVENT_DISCONNECTED,
                zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
            }:
                self._read(_LAST_WORDS)  # what it said before it left comes first
                self._disconnect(link.name, link._endpoint)
                link.on_lost()
