"""ZMTP 3.1, the protocol of ZeroMQ, as bytes in and bytes out: a DEALER for the guest, a ROUTER for the host.

Inside a sandbox libzmq would cost a millisecond of the start, half a megabyte, two threads and eight more system calls
to allow. In the host it would read what is hostile in a language where a mistake is a hole. The protocol is
https://rfc.zeromq.org/spec/37 (NULL mechanism, single-part messages, PING answered). It knows nothing of what the
frames hold.
"""

from __future__ import annotations

import struct
from typing import Final

from .codec import MAX_FRAME
from .errors import RemoteProtocolError

GREETING: Final = (
    b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f"  # signature
    + bytes([3, 1])  # version
    + b"NULL".ljust(20, b"\0")  # mechanism
    + bytes([0])  # as-server
    + bytes(31)  # filler
)
_MORE, _LONG, _COMMAND = 1, 2, 4
_SHORT_HEADS: Final = [bytes((0, size)) for size in range(256)]


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


READY: Final = b"\x05READY" + _property(b"Socket-Type", b"DEALER") + _property(b"Identity", b"")
_READY_OF_A_ROUTER: Final = b"\x05READY" + _property(b"Socket-Type", b"ROUTER") + _property(b"Identity", b"")


def message(frame: bytes) -> bytes:
    """One single-part message on the wire."""
    if len(frame) < 256:
        return _SHORT_HEADS[len(frame)] + frame
    return struct.pack(">BQ", _LONG, len(frame)) + frame


def _command(body: bytes) -> bytes:
    return bytes((_COMMAND, len(body))) + body


OPENING: Final = GREETING + _command(READY)
"""What a guest sends first, at once. Messages have to wait for the peer's READY: libzmq takes one that comes while it
has yet to send its own for a broken handshake."""
OPENING_OF_A_ROUTER: Final = GREETING + _command(_READY_OF_A_ROUTER)
"""What the host sends first."""


class Reader:
    """Takes the peer's bytes as they come and gives the messages that are complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._greeted = False
        self.ready = False
        """Whether the peer has said READY, so that messages may be sent."""
        self.commands = 0
        """How many there were that are no messages."""
        self.missing = 0
        """How many bytes are yet to come of a frame that has begun, as far as that is known."""

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """The messages completed by `data`, and what has to be sent back at once (a PONG). `RemoteProtocolError`."""
        if (message := self.alone(data)) is not None:
            return [message], b""
        buffer = self._buffer
        buffer += data
        self.missing = 0
        if not self._greeted:
            if len(buffer) < len(GREETING):
                return [], b""
            if buffer[0] != 0xFF or buffer[9] != 0x7F or buffer[10] < 3 or buffer[12:16] != b"NULL":
                raise RemoteProtocolError("the peer does not speak ZMTP 3 with the NULL mechanism")
            del buffer[: len(GREETING)]
            self._greeted = True
        messages: list[bytes] = []
        replies = b""
        at, last = 0, len(buffer) - 2
        while self.ready and at <= last and not buffer[at] and (end := at + 2 + buffer[at + 1]) <= last + 2:
            messages.append(bytes(buffer[at + 2 : end]))  # a short message, as nearly all are
            at = end
        while found := self._next(at):
            flags, start, at = found
            body = bytes(memoryview(buffer)[start:at])
            if flags & _COMMAND:
                replies += self._obey(body)
            elif flags & _MORE or not self.ready:
                raise RemoteProtocolError("a message of several parts, or one before READY")
            else:
                messages.append(body)
        if at:
            del buffer[:at]
        return messages, replies

    def alone(self, data: bytes) -> bytes | None:
        """The message in `data` where that is one short message and nothing else, as nearly always. Else: `feed`."""
        if len(data) < 2 or data[0] or len(data) != data[1] + 2 or self._buffer or not self.ready:
            return None
        return data[2:]

    @property
    def begun(self) -> tuple[int, int] | None:
        """The first byte and the size of the long frame of which something is missing, if that much has come. That of a
        command is -1."""
        buffer = self._buffer
        if not self.missing or len(buffer) < 10 or not buffer[0] & _LONG:
            return None
        return -1 if buffer[0] & _COMMAND else buffer[9], int.from_bytes(buffer[1:9], "big")

    def _next(self, at: int) -> tuple[int, int, int] | None:
        """The flags, start and end of the next frame that is complete."""
        buffer = self._buffer
        if len(buffer) - at < 2:
            return None
        flags = buffer[at]
        if flags > 7:
            raise RemoteProtocolError("a frame with flags that do not exist")
        if flags & _LONG:
            if len(buffer) - at < 9:
                return None
            start, size = at + 9, int.from_bytes(buffer[at + 1 : at + 9], "big")
            if size > MAX_FRAME:
                raise RemoteProtocolError(f"a frame of {size:,} bytes; at most {MAX_FRAME:,} are taken")
        else:
            start, size = at + 2, buffer[at + 1]
        self.missing = max(start + size - len(buffer), 0)
        return None if self.missing else (flags, start, start + size)

    def _obey(self, body: bytes) -> bytes:
        self.commands += 1
        name = body[1 : 1 + body[0]] if body else b""
        if name == b"READY":
            self.ready = True
        elif name == b"PING":
            return _command(b"\x04PONG" + body[7:23])  # after the time to live; at most 16 bytes, says the protocol
        elif name == b"ERROR":
            raise RemoteProtocolError("the peer refused the connection")
        return b""
