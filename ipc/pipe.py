"""A connection between two programs that trust one another: frames over a stream socket, as ZMTP, on an event loop.

Towards a sandbox each end is made for hostility and for memory (`sockets`, and the guest's own wire). Here both ends
are alike, and what counts is how many messages go together: all that are sent in one turn of the loop are one piece.
What is sent is always taken, and both ends always read; who can wait does so where the other end has much unread
(`room`). It knows nothing of what the frames hold.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final, Self, cast

from . import zmtp
from .errors import ConnectionClosed, RemoteProtocolError
from .link import OnFrame, OnLost

MUCH: Final = 8 << 20
"""Bytes that are kept for the other end, after which there is no room for more."""


class Pipe(asyncio.Protocol):
    """One end. From `Pipe.over`. `on_lost` is called once: with nothing when either side has ended it."""

    def __init__(self, on_frame: OnFrame, on_lost: OnLost) -> None:
        self._on_frame, self._on_lost = on_frame, on_lost
        self._loop = asyncio.get_running_loop()
        self._reader = zmtp.Reader()
        self._together: list[bytes] = []
        self._room: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def over(cls, end: socket.socket, on_frame: OnFrame, on_lost: OnLost, *, opening: bytes) -> Self:
        """Over a connected Unix socket, which is the pipe's from here on. `opening` is said first: one side's is a
        dealer's, the other's a router's (`zmtp`)."""
        end.setblocking(False)
        loop = asyncio.get_running_loop()
        transport, pipe = await loop.create_unix_connection(lambda: cls(on_frame, on_lost), sock=end)
        transport.write(opening)
        return pipe

    def send(self, frame: bytes) -> None:
        """Queue a frame. `ConnectionClosed`."""
        if self._transport is None:
            raise ConnectionClosed("the connection is closed")
        if not self._together:
            self._loop.call_soon(self._send_together)
        self._together.append(zmtp.message(frame))

    @property
    def full(self) -> bool:
        """Whether there is much that the other end has yet to read."""
        return self._room is not None

    async def room(self) -> None:
        """Until there is not, or it is over."""
        while self._room is not None:
            await asyncio.shield(self._room)

    def close(self) -> None:
        """End it; what was sent before still arrives. Harmless when repeated."""
        if self._transport is not None:
            self._send_together()
            self._transport.close()
            self._transport = None
            self.resume_writing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)  # which another loop's is not, for all that it can do
        self._transport.set_write_buffer_limits(MUCH)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            frames, reply = self._reader.feed(data)
            for frame in frames:
                self._on_frame(frame)
            if reply and self._transport is not None:
                self._transport.write(reply)
        except RemoteProtocolError as error:
            self._lose(error)
        except Exception as error:  # noqa: BLE001 - nobody above would hear of it
            self._loop.call_exception_handler({"message": "a frame could not be handled", "exception": error})
            self._lose(None)

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        if self._transport is not None:
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        if self._room is not None:
            self._room.set_result(None)
            self._room = None

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._lose(None)

    def _lose(self, error: RemoteProtocolError | None) -> None:
        self.close()
        on_lost, self._on_lost = self._on_lost, _told
        on_lost(error)

    def _send_together(self) -> None:
        if self._together and self._transport is not None:
            self._transport.write(b"".join(self._together))
        self._together.clear()


def _told(_: object) -> None:
    """That it is over was said."""
