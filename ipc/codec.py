"""Messages as frames: a head of a fixed form, then what varies.

    | kind, 8 bit | numbers, 64 bit each | length of the name, 16 bit | name | payload: opaque bytes |

The table says which of these each message has; what does not fit it is a `RemoteProtocolError`. There is one way to
write each message. The payload is never read here.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from .errors import CodecError, RemoteProtocolError
from .messages import Call, Cancel, Failure, Goodbye, Hello, Message, Note, Release, Result

MAX_FRAME: Final = 16 * 1024 * 1024 + 1024
MAX_PAYLOAD: Final = MAX_FRAME - 1024
MAX_NAME: Final = 128
MAX_NUMBER: Final = 2**64
_MAX_NAME_BYTES: Final = 4 * MAX_NAME
_NAMES: Final = 256  # that are kept, of each direction: most calls are of a few

KINDS: Final[tuple[tuple[type[Any], int, bool, bool], ...]] = (
    # message, how many numbers, whether a name follows, whether a payload follows
    (Hello, 1, False, True),
    (Call, 2, True, True),
    (Result, 1, False, True),
    (Failure, 1, False, True),
    (Cancel, 1, False, False),
    (Release, 2, False, False),
    (Note, 0, True, True),
    (Goodbye, 0, False, True),
)


MARKS: Final[dict[type[Any], int]] = {kind: number for number, (kind, *_) in enumerate(KINDS)}
"""The first byte of each: what a frame says it is to whoever does not read more of it."""


def encode(message: Message) -> bytes:
    """The frame of a message. `CodecError` if `decode` would not take it."""
    return WRITERS[type(message)](*message)


def decode(frame: bytes) -> Message:
    """The message of a frame. `RemoteProtocolError` for every frame that `encode` could not have made."""
    if len(frame) > MAX_FRAME:
        raise RemoteProtocolError(f"a frame of {len(frame):,} bytes; at most {MAX_FRAME:,} are taken")
    if not frame or frame[0] >= len(_READERS):
        raise RemoteProtocolError("a frame of an unknown kind")
    message: Message = _READERS[frame[0]](frame)
    return message


def _writer(mark: int, numbers: int, has_name: bool, has_payload: bool) -> Callable[..., bytes]:
    head = struct.Struct(f">B{'Q' * numbers}").pack

    def write(*fields: Any) -> bytes:
        name = _name_to_send(fields[numbers]) if has_name else b""
        payload = fields[-1] if has_payload else b""
        if len(payload) > MAX_PAYLOAD:
            raise _too_large(payload)
        try:
            return head(mark, *fields[:numbers]) + name + payload
        except struct.error as error:
            raise _out_of_range(error) from error

    def write_call(call: int, target: int, method: str, payload: bytes) -> bytes:
        if len(payload) > MAX_PAYLOAD:
            raise _too_large(payload)
        try:
            return head(mark, call, target) + _name_to_send(method) + payload
        except struct.error as error:
            raise _out_of_range(error) from error

    def write_answer(call: int, payload: bytes) -> bytes:
        if len(payload) > MAX_PAYLOAD:
            raise _too_large(payload)
        try:
            return head(mark, call) + payload
        except struct.error as error:
            raise _out_of_range(error) from error

    # Nearly all that is sent is a call or an answer: the same with their fields by name, which takes half the time.
    if has_payload and (numbers, has_name) == (2, True):
        return write_call
    return write_answer if has_payload and (numbers, has_name) == (1, False) else write


def _too_large(payload: bytes) -> CodecError:
    return CodecError(f"the message takes {len(payload):,} bytes; at most {MAX_PAYLOAD:,} can be sent")


def _out_of_range(error: struct.error) -> CodecError:
    return CodecError(f"a number out of range cannot be sent: {error}")


def _reader(kind: type[Any], numbers: int, has_name: bool, has_payload: bool) -> Callable[[bytes], Any]:
    head = struct.Struct(f">x{'Q' * numbers}{'H' * has_name}")
    read, size = head.unpack_from, head.size
    new: Callable[[type[Any], Any], Any] = tuple.__new__  # the table has counted the fields

    def fields(frame: bytes) -> Any:
        if len(frame) < size:
            raise RemoteProtocolError(f"a {kind.__name__} that ends too early")
        if has_payload:
            return new(kind, (*read(frame), _payload(kind, frame, size)))
        if len(frame) > size:
            raise RemoteProtocolError(f"a {kind.__name__} with a payload")
        return new(kind, read(frame))

    def named(frame: bytes) -> Any:
        if len(frame) < size:
            raise RemoteProtocolError(f"a {kind.__name__} that ends too early")
        *found, length = read(frame)
        end = size + length
        if end > len(frame):
            raise RemoteProtocolError(f"a {kind.__name__} that ends too early")
        if length > _MAX_NAME_BYTES:  # which costs more to read than to send
            raise RemoteProtocolError(f"a {kind.__name__} whose name has more than {MAX_NAME} characters")
        name = _name_received(kind.__name__, frame[size:end])
        return new(kind, (*found, name, _payload(kind, frame, end)))

    return named if has_name else fields


def _payload(kind: type[Any], frame: bytes, start: int) -> bytes:
    payload = frame[start:]
    if len(payload) > MAX_PAYLOAD:
        raise RemoteProtocolError(f"a {kind.__name__} with more than {MAX_PAYLOAD:,} bytes of payload")
    return payload


WRITERS: Final[Mapping[type[Message], Callable[..., bytes]]] = {
    kind: _writer(mark, numbers, name, payload) for mark, (kind, numbers, name, payload) in enumerate(KINDS)
}
"""What `encode` does for each: makes a frame of the fields, for who has no other use for the message."""
_READERS: Final = [_reader(*kind) for kind in KINDS]


@functools.lru_cache(_NAMES)
def _name_to_send(name: str) -> bytes:
    """With its length in front."""
    if len(name) > MAX_NAME:
        raise CodecError(f"a name of more than {MAX_NAME} characters cannot be sent")
    try:
        data = name.encode()
    except UnicodeEncodeError as error:
        raise CodecError(f"a name cannot be sent: {error}") from error
    return len(data).to_bytes(2, "big") + data


@functools.lru_cache(_NAMES)
def _name_received(kind: str, data: bytes) -> str:
    try:
        name = data.decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"a {kind} whose name is not text") from error
    if len(name) > MAX_NAME:
        raise RemoteProtocolError(f"a {kind} whose name has more than {MAX_NAME} characters")
    return name
