"""Messages as frames: two bytes of length, a short msgpack list, then the payload as it is.

    | length of header, 16 bit | header: [kind, field, ...] | payload: opaque bytes |

The payload is never read here. The header is short and flat, so that decoding a hostile one costs next to nothing. The
table says everything about the form of each message; what does not fit it is a `RemoteProtocolError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgpack

from .errors import CodecError, RemoteProtocolError
from .messages import Call, Cancel, Failure, Goodbye, Hello, Message, Note, Release, Result
from .packer import Packer

MAX_FRAME: Final = 16 * 1024 * 1024 + 1024
MAX_NAME: Final = 128
MAX_HEADER: Final = 4 * MAX_NAME + 64
MAX_NUMBER: Final = 2**53

KINDS: Final[tuple[tuple[type[Any], tuple[type, ...], bool], ...]] = (
    # message, types of the header's fields, whether a payload follows
    (Hello, (int,), True),
    (Call, (int, int, str), True),
    (Result, (int,), True),
    (Failure, (int,), True),
    (Cancel, (int,), False),
    (Release, (int, int), False),
    (Note, (str,), True),
    (Goodbye, (), True),
)
_NUMBER: Final = {kind: (number, has_payload) for number, (kind, _, has_payload) in enumerate(KINDS)}
_FORMS: Final = [(kind, [int, *types], has_payload) for kind, types, has_payload in KINDS]
"""The same as `decode` compares it: the kind's own number is the first field."""
_pack = Packer()


def encode(message: Message) -> bytes:
    """The frame of a message. `CodecError` if `decode` would not take it."""
    number, has_payload = _NUMBER[type(message)]
    fields: tuple[Any, ...] = message[:-1] if has_payload else message
    payload: bytes = message[-1] if has_payload else b""  # type: ignore[assignment]
    if not _in_range(fields):
        raise CodecError(f"a name of more than {MAX_NAME} characters, or a number out of range, cannot be sent")
    try:
        header: bytes = _pack((number, *fields))
    except UnicodeEncodeError as error:
        raise CodecError(f"a name cannot be sent: {error}") from error
    if len(payload) > MAX_FRAME - 1024:
        raise CodecError(f"the message takes {len(payload):,} bytes; at most {MAX_FRAME - 1024:,} can be sent")
    return len(header).to_bytes(2, "big") + header + payload


def decode(frame: bytes) -> Message:
    """The message of a frame. `RemoteProtocolError` for every frame that `encode` could not have made."""
    size = len(frame)
    if size > MAX_FRAME:
        raise RemoteProtocolError(f"a frame of {size:,} bytes; at most {MAX_FRAME:,} are taken")
    end = 2 + int.from_bytes(frame[:2], "big")
    if not 3 <= end <= size or end > MAX_HEADER + 2:
        raise RemoteProtocolError("a frame whose header has an impossible length")
    try:
        header = msgpack.unpackb(frame[2:end], max_array_len=4, max_map_len=0, max_ext_len=0, max_bin_len=0)
    except Exception as error:  # msgpack raises a dozen kinds, and each of them means the same here
        raise RemoteProtocolError("a frame whose header is not msgpack") from error
    if type(header) is not list or not header or type(header[0]) is not int or not 0 <= header[0] < len(KINDS):
        raise RemoteProtocolError("a frame of an unknown kind")
    if frame[3] != header[0]:  # `kind_of` would take it for another
        raise RemoteProtocolError("a frame whose header is longer than it need be")
    kind, types, has_payload = _FORMS[header[0]]
    if [*map(type, header)] != types or not _in_range(header):
        raise RemoteProtocolError(f"a {kind.__name__} whose fields have the wrong types or sizes")
    if has_payload:
        header.append(frame[end:])
    elif end != size:
        raise RemoteProtocolError(f"a {kind.__name__} with a payload")
    message: Message = tuple.__new__(kind, header[1:])  # the table has counted its fields
    return message


def kind_of(frame: bytes) -> type[Message] | None:
    """What a frame says it is, without reading more of it. Nothing, if it says nothing that is known."""
    return KINDS[frame[3]][0] if len(frame) > 3 and frame[3] < len(KINDS) else None  # after two lengths


def _in_range(fields: Iterable[int | str]) -> bool:
    for field in fields:
        if len(field) > MAX_NAME if isinstance(field, str) else not 0 <= field < MAX_NUMBER:
            return False
    return True
