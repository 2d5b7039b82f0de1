"""The host's way to one guest, whatever moves the bytes: ZMTP in, frames out, and one word when it is over.

What a guest says is parsed here, where a wrong length cannot be more than an error. It knows no socket; who moves the
bytes is a `Transport`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Protocol

from . import zmtp
from .errors import ConnectionClosed, RemoteProtocolError, TooManyCalls

NOBODYS: Final = contextvars.Context()
"""What is done because a guest has spoken is part of nobody's request, whoever it was for whom the guest was made."""
_COMMAND: Final = 4096
"""What a command counts in bytes when there are several of them at once."""
_HEAP: Final = 32
"""How many messages in one piece are a heap of them."""
OnFrame = Callable[[bytes], None]
OnAhead = Callable[[float, Callable[[], bytes]], None]
OnLost = Callable[[RemoteProtocolError | None], None]


class Link(ABC):
    """The way to one guest.

    `on_bytes` hears of every piece that arrives, before what is in it is handed to `on_frame`. Of a heap of
    messages `on_ahead` hears first: how many there are likely to be, with those that wait behind them where the
    transport can see that, and a way to have the fourth byte of each. `on_lost` is called once: with nothing when the
    guest has ended the connection, with an error when what it says is no ZMTP.
    """

    __slots__ = ("_begun", "_later", "_loop", "_reader", "_stuffed", "on_ahead", "on_bytes", "on_frame", "on_lost")

    def __init__(self, on_frame: OnFrame, on_lost: OnLost) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = zmtp.Reader()
        self._begun = math.inf
        self._stuffed = False  # it has so much unread that it is not listened to
        self._later: list[bytes] = []
        self.on_bytes: Callable[[int], None] = _nobody
        self.on_ahead: OnAhead = _nobody
        self.on_frame = on_frame
        self.on_lost = on_lost

    def send(self, frame: bytes) -> None:
        """Queue a frame. `TooManyCalls` if the guest does not read, `ConnectionClosed` if it is gone."""
        self._write(zmtp.message(frame))

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

    def _waiting(self) -> int:
        """How many bytes have come and are yet to be taken, as far as that can be known."""
        return 0

    def _peek(self) -> bytes:
        """Those bytes, which stay where they are."""
        return b""

    def _take(self, data: bytes) -> None:
        """Bytes have arrived. What one guest says must never keep the others' from being read, whatever comes of it."""
        try:
            self.on_bytes(len(data))
            commands = self._reader.commands
            frames, reply = self._reader.feed(data)
            if self._reader.commands > commands + 1:  # one may be a heartbeat
                self.on_bytes((self._reader.commands - commands) * _COMMAND)
            if not self._reader.missing:
                self._begun = math.inf
            elif frames or self._begun == math.inf:
                self._begun = self._loop.time()
            if len(frames) > _HEAP:
                behind = self._waiting() * len(frames) / len(data)
                self.on_ahead(len(frames) + behind, lambda: _fourth(frames) + self._reader.ahead(self._peek()))
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

    def _lose(self, error: RemoteProtocolError | None) -> None:
        self.close()
        self.on_lost(error)


class Transport(Protocol):
    """All links of one host. Made inside the event loop that serves it, and closed there."""

    def connect(self, path: str, on_frame: OnFrame, on_lost: OnLost) -> Link:
        """Connect to the socket that a guest listens on, and greet it."""

    def close(self) -> None:
        """Close every link. Harmless when repeated."""


def _fourth(frames: list[bytes]) -> bytes:
    return bytes(frame[3] if len(frame) > 3 else 255 for frame in frames)


def _nobody(*_: object) -> None:
    """Hears of pieces while nobody counts them."""
