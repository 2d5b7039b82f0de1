"""The host's way to one guest, whatever moves the bytes: ZMTP in, frames out, and one word when it is over.

What a guest says is parsed here, where a wrong length cannot be more than an error. It knows no socket; who moves the
bytes is a `Transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Protocol

from . import zmtp
from .errors import ConnectionClosed, RemoteProtocolError, TooManyCalls
from .quotes import quote

logging.getLogger("cloister.ipc").addFilter(quote)  # who has links has guests, who word what they ask
NOBODYS: Final = contextvars.Context()
"""What is done because a guest has spoken is part of nobody's request, whoever it was for whom the guest was made.
To be copied for each use: the loop of another thread may use it just then."""
LEAST, MOST = 1024, 8 * 1024
"""Bytes of the smallest and of the largest piece that is taken at once where there may be several messages in it."""
_AT_ONCE: Final = 2
"""So many messages of the length of those that came last may be in it: the others' wait until they are done with."""
OnFrame = Callable[[bytes], None]
OnLost = Callable[[RemoteProtocolError | None], None]


class Link(ABC):
    """The way to one guest.

    `on_bytes` hears of every piece that arrives, before what is in it is handed to `on_frame`, and `on_commands` how
    many words of ZMTP's own were in it. `on_begun` hears of a frame that is yet to be finished: its first byte, and its
    size. `on_lost` is called once: with nothing when the guest has ended the connection, with an error when what it
    says is no ZMTP.
    """

    __slots__ = (
        "_announced", "_begun", "_later", "_loop", "_piece", "_reader", "_stuffed", "on_begun", "on_bytes",
        "on_commands", "on_frame", "on_lost",
    )  # fmt: skip

    def __init__(self, on_frame: OnFrame, on_lost: OnLost) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = zmtp.Reader()
        self._begun = math.inf
        self._announced = False  # the size of the frame that has begun is known
        self._stuffed = False  # it has so much unread that it is not listened to
        self._piece = MOST
        self._later: list[bytes] = []
        self.on_bytes: Callable[[int], None] = _nobody
        self.on_commands: Callable[[int], None] = _nobody
        self.on_begun: Callable[[int, int], None] = _nobody
        self.on_frame = on_frame
        self.on_lost = on_lost

    def send(self, frame: bytes) -> None:
        """Queue a frame. `TooManyCalls` if the guest does not read, `ConnectionClosed` if it is gone."""
        self._write(zmtp.message(frame))

    def gather(self, turns: int) -> None:  # noqa: B027 - where each piece goes by itself
        """Keep what is sent within so many turns of the loop, and send it in one piece then."""

    def hold(self, seconds: float) -> bool:
        """Read nothing of the guest's for so long, so that it has to wait; at least so long if it is held already.
        Whether that can be done."""
        return False

    def held_for(self) -> float:
        """Seconds for which nothing of the guest's will be read since it is held."""
        return 0.0

    def release(self) -> None:  # noqa: B027 - where nothing can be held
        """Hold it no longer, and not again: it is gone, and what there is of it is to be read."""

    def unfinished_for(self) -> float:
        """Seconds since the guest began a frame that it has not finished: so long have we kept what there is of it."""
        return self._loop.time() - self._begun

    def unread(self) -> int:
        """Bytes that are kept for the guest since it does not read."""
        return 0

    def unread_for(self) -> float:
        """Seconds since the guest last took something of them; nothing, where we keep nothing."""
        return -math.inf

    @abstractmethod
    def close(self) -> None:
        """Forget the guest; what is still queued for it is dropped. Harmless when repeated."""

    @abstractmethod
    def _write(self, data: bytes) -> None:
        """Send bytes in order, now or as soon as the guest takes them."""

    def _take(self, data: bytes) -> None:
        """Bytes have arrived. What one guest says must never keep the others' from being read, whatever comes of it."""
        try:
            self.on_bytes(len(data))
            if (frame := self._reader.alone(data)) is not None and not self._stuffed and not self._later:
                self._piece = LEAST
                self.on_frame(frame)
                return
            commands = self._reader.commands
            frames, reply = self._reader.feed(data)
            whole = bool(frames)
            if self._reader.commands != commands:
                whole = True
                self.on_commands(self._reader.commands - commands)
            self._follow(whole or not self._reader.missing)
            if frames and data:
                self._piece = min(max(_AT_ONCE * len(data) // len(frames), LEAST), MOST)
            if self._later:
                frames, self._later = [*self._later, *frames], []
            for place, frame in enumerate(frames):
                if self._stuffed:
                    self._later = frames[place:]
                    break
                self.on_frame(frame)
            if reply:
                with contextlib.suppress(TooManyCalls, ConnectionClosed):
                    self._write(reply)
        except RemoteProtocolError as error:
            self._lose(error)
        except Exception as error:  # noqa: BLE001 - see above
            self._loop.call_exception_handler({"message": "a frame could not be handled", "exception": error})
            self._lose(None)

    def _follow(self, whole: bool) -> None:
        """What has become of the frame that is on its way: whether it is `whole`, and whether another one begins."""
        if whole and self._begun != math.inf:
            self._begun = math.inf
            if self._announced:
                self._announced = False
                self._arrived()
        if not self._reader.missing:
            return
        if self._begun == math.inf:
            self._begun = self._loop.time()
        if self._announced:
            self._goes_on()
        elif (begun := self._reader.begun) is not None:
            self._announced = True
            self.on_begun(*begun)
            self._begins(begun[1])

    def _begins(self, size: int) -> None:  # noqa: B027 - where nobody has to wait for room
        """A frame of so many bytes is on its way."""

    def _goes_on(self) -> None:  # noqa: B027
        """More of it has come."""

    def _arrived(self) -> None:  # noqa: B027
        """All of it has."""

    def _lose(self, error: RemoteProtocolError | None) -> None:
        self.close()
        self.on_lost(error)


class Transport(Protocol):
    """All links of one host. Made inside the event loop that serves it, and closed there."""

    async def lay(self, on_frame: OnFrame, on_lost: OnLost) -> tuple[Link, socket.socket]:
        """A link that has greeted whoever will be there, and the end of it that a guest is to be given: the caller's,
        to close when that is done. `OSError`."""

    def close(self) -> None:
        """Close every link. Harmless when repeated."""


def _nobody(*_: object) -> None:
    """Hears of pieces while nobody counts them."""
