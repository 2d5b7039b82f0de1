"""Messages as frames: a head of a fixed form, then what varies.

    | kind, 8 bit | numbers, 64 bit each | length of the name, 16 bit | name | payload: opaque bytes |

The table says which of these each message has; what does not fit it is a `RemoteProtocolError`. There is one way to
write each message. The payload is never read here.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

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


class _Form(NamedTuple):
    kind: type[Any]
    mark: int
    write: Callable[..., bytes]
    read: Callable[[bytes], tuple[Any, ...]]
    size: int
    numbers: int
    has_name: bool
    has_payload: bool


def _form(mark: int, kind: type[Any], numbers: int, has_name: bool, has_payload: bool) -> _Form:
    fields = "Q" * numbers + "H" * has_name
    head = struct.Struct(f">B{fields}")
    return _Form(
        kind, mark, head.pack, struct.Struct(f">x{fields}").unpack_from, head.size, numbers, has_name, has_payload
    )


_FORMS: Final = [_form(mark, *kind) for mark, kind in enumerate(KINDS)]
_BY_KIND: Final = {form.kind: form for form in _FORMS}


def encode(message: Message) -> bytes:
    """The frame of a message. `CodecError` if `decode` would not take it."""
    _, mark, write, _, _, numbers, has_name, has_payload = _BY_KIND[type(message)]
    fields: tuple[Any, ...] = message
    payload: bytes = fields[-1] if has_payload else b""
    if len(payload) > MAX_PAYLOAD:
        raise CodecError(f"the message takes {len(payload):,} bytes; at most {MAX_PAYLOAD:,} can be sent")
    try:
        if not has_name:
            return write(mark, *fields[:numbers]) + payload
        name = _name_to_send(fields[numbers])
        return write(mark, *fields[:numbers], len(name)) + name + payload
    except struct.error as error:
        raise CodecError(f"a number out of range cannot be sent: {error}") from error


def decode(frame: bytes) -> Message:
    """The message of a frame. `RemoteProtocolError` for every frame that `encode` could not have made."""
    size = len(frame)
    if size > MAX_FRAME:
        raise RemoteProtocolError(f"a frame of {size:,} bytes; at most {MAX_FRAME:,} are taken")
    if not size or frame[0] >= len(_FORMS):
        raise RemoteProtocolError("a frame of an unknown kind")
    kind, _, _, read, end, _, has_name, has_payload = _FORMS[frame[0]]
    if end > size:
        raise RemoteProtocolError(f"a {kind.__name__} that ends too early")
    fields = read(frame)
    if has_name:
        start, end = end, end + fields[-1]
        if end > size:
            raise RemoteProtocolError(f"a {kind.__name__} that ends too early")
        if end - start > _MAX_NAME_BYTES:  # which costs more to read than to send
            raise RemoteProtocolError(f"a {kind.__name__} whose name has more than {MAX_NAME} characters")
        fields = *fields[:-1], _name_received(kind.__name__, frame[start:end])
    if has_payload:
        if size - end > MAX_PAYLOAD:
            raise RemoteProtocolError(f"a {kind.__name__} with more than {MAX_PAYLOAD:,} bytes of payload")
        fields = *fields, frame[end:]
    elif end != size:
        raise RemoteProtocolError(f"a {kind.__name__} with a payload")
    message: Message = tuple.__new__(kind, fields)  # the table has counted them
    return message


@functools.lru_cache(_NAMES)
def _name_to_send(name: str) -> bytes:
    if len(name) > MAX_NAME:
        raise CodecError(f"a name of more than {MAX_NAME} characters cannot be sent")
    try:
        return name.encode()
    except UnicodeEncodeError as error:
        raise CodecError(f"a name cannot be sent: {error}") from error


@functools.lru_cache(_NAMES)
def _name_received(kind: str, data: bytes) -> str:
    try:
        name = data.decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"a {kind} whose name is not text") from error
    if len(name) > MAX_NAME:
        raise RemoteProtocolError(f"a {kind} whose name has more than {MAX_NAME} characters")
    return name
