"""Python values as bytes: what may cross a process border or be stored, and nothing else.

The form is msgpack. Maps have text keys. Three extension types add capabilities, dates and sets. The module refuses
to know what a value means; in particular a capability is handed to, and made by, functions that the caller passes.

Two readers with different trust: `loads` with `trusted=False` has the bytes looked at first (`walk`). `split` takes one
level apart and leaves the parts as the bytes they were, so that an envelope can be opened without reading the letter.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgpack

from .errors import CodecError, IpcError, PayloadError
from .packer import Packer
from .walk import CAPABILITY, DATETIME, MAX_DEPTH, SCALARS, SET
from .walk import leaves as leaves
from .walk import scan as scan

MAX_BYTES: Final = 16 * 1024 * 1024

Export = Callable[[object], bytes | None]
"""Given an object that is not plain data: the reference that stands for it, encoded; None if it cannot be sent."""
Adopt = Callable[[bytes], object]
"""The other direction: given such a reference, the object that stands for the remote one here."""
Hook = Callable[[dict[str, Any]], Any]

_REFERENCE_DEPTH: Final = 3  # how deep the reference to a capability with plain attributes is itself
_AS_IT_IS = frozenset({type(None), bool, float, str, bytes})
_LISTS: Final = (list, tuple)
_MIN_INT, _MAX_INT = -(2**63), 2**64


class Named(list[Any]):
    """What is sent together, and what an error calls each of it."""

    names: Sequence[str] = ("args", "kwargs")


class Encoded:
    """A value that is encoded already, sent or stored as it is. So many of its bytes are the host's, `around` it."""

    __slots__ = ("around", "data")
    __match_args__ = ("data",)

    def __init__(self, data: bytes, around: int = 0) -> None:
        self.data, self.around = data, around

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoded) and other.data == self.data

    def __hash__(self) -> int:
        return hash(self.data)


def dumps(value: object, *, export: Export | None = None, limit: int = MAX_BYTES, exact: bool = False) -> bytes:
    """Encode a value; `CodecError` names the first part of it that cannot be sent, and where it is, or says that it is
    too large.

    Tuples are sent as lists, whole-number keys as text, sub-classes of the plain types as the plain type. Whoever says
    that its lists and maps are `exact` vouches that nothing of that is in them, and saves the look.
    """
    try:
        data = _pack_exact(value, export) if exact else _pack(_plain(value, export, MAX_DEPTH))
    except (UnicodeEncodeError, OverflowError, ValueError) as error:
        told = CodecError(f"the value cannot be sent: {error}", getattr(error, "object", None))
        raise _placed(told, value) from error
    except CodecError as error:
        _placed(error, value)
        raise
    if len(data) > limit:
        raise CodecError(f"the value takes {len(data):,} bytes; at most {limit:,} can be sent")
    return data


def _placed(error: CodecError, value: object) -> CodecError:
    from . import places

    places.tell(error, value)
    return error


def loads(data: bytes, *, adopt: Adopt | None = None, hook: Hook | None = None, trusted: bool = False) -> Any:
    """Decode a value. Capabilities in it go through `adopt`; maps go through `hook` when there is one.

    `PayloadError` if the bytes are not one well-formed value, or hold a capability where none is expected. What `adopt`
    raises of this package's errors is raised as it is.
    """
    if not trusted:
        scan(data)

    def extension(code: int, body: bytes) -> Any:
        match code:
            case 2:
                return datetime.datetime.fromisoformat(body.decode("ascii"))
            case 3:
                return set(loads(body, hook=hook, trusted=True))
            case 1 if adopt is not None:
                return adopt(body)
        raise PayloadError("a capability stands where only plain data may" if code == CAPABILITY
                           else f"unknown extension type {code}")  # fmt: skip

    try:
        return msgpack.unpackb(data, ext_hook=extension, object_hook=hook, strict_map_key=True)
    except IpcError:
        raise
    except Exception as error:  # msgpack raises a dozen kinds, and each of them means the same here
        raise _unreadable(error) from error


def leaf(data: bytes) -> Any:
    """Decode a value that has nothing inside, which its first byte tells (`walk.LEAVES`). `PayloadError`."""
    try:
        return msgpack.unpackb(data)
    except Exception as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> PayloadError:
    return PayloadError(f"the value cannot be read: {error or type(error).__name__}")


def split(data: bytes) -> dict[str, bytes] | list[bytes]:
    """Take the outermost map or list apart and leave each part encoded. `PayloadError` if it is neither."""
    reader = msgpack.Unpacker(max_buffer_size=len(data), max_str_len=256)
    reader.feed(data)

    def part() -> bytes:
        start = reader.tell()
        reader.skip()
        return data[start : reader.tell()]

    try:
        if data[:1] and (data[0] & 0xF0 == 0x80 or data[0] in {0xDE, 0xDF}):
            parts: dict[str, bytes] | list[bytes] = {}
            for _ in range(reader.read_map_header()):
                key = reader.unpack()
                if not isinstance(key, str) or key in parts:
                    raise PayloadError(f"map key {str(key)[:40]!r} is not text, or stands there twice")
                parts[key] = part()  # type: ignore[call-overload]
        else:
            parts = [part() for _ in range(reader.read_array_header())]
    except PayloadError:
        raise
    except Exception as error:
        raise _unreadable(error) from error
    if reader.tell() != len(data):
        raise PayloadError("bytes follow the end of the value")
    return parts


def join(parts: Mapping[str, bytes]) -> bytes:
    """The reverse of `split` for a map: parts that are encoded already, under these keys."""
    if len(parts) < 16:
        head = bytes([0x80 | len(parts)])
    else:
        packer = msgpack.Packer(autoreset=False)
        packer.pack_map_header(len(parts))
        head = packer.bytes()
    return head + b"".join([_pack(key) + part for key, part in parts.items()])


_pack = Packer()


def _pack_exact(value: object, export: Export | None, *, dated: bool = False) -> bytes:
    if export is not None or dated:
        return msgpack.packb(value, default=lambda other: _extension(other, export, MAX_DEPTH))
    try:
        return _pack(value)
    except TypeError:  # there is a date or a set in it, or what cannot be sent
        return _pack_exact(value, export, dated=True)


def _plain(value: object, export: Export | None, depth: int) -> Any:
    """A copy that holds exact plain types only, which is what the packer is fast and strict with."""
    kind = type(value)
    if kind in SCALARS:
        if kind is int and not _MIN_INT <= value < _MAX_INT:  # type: ignore[operator]
            raise CodecError("a whole number of more than 64 bits cannot be sent; send it as text", value)
        return value
    if depth <= 0:
        raise CodecError(f"the value is nested more than {MAX_DEPTH} deep, or contains itself")
    if isinstance(value, dict):
        return {
            key if type(key) is str else _key(key): item
            if (kind := type(item)) in _AS_IT_IS or (kind is int and _MIN_INT <= item < _MAX_INT)
            else _plain(item, export, depth - 1)
            for key, item in value.items()
        }
    if isinstance(value, _LISTS):
        return [
            item
            if (kind := type(item)) in _AS_IT_IS or (kind is int and _MIN_INT <= item < _MAX_INT)
            else _plain(item, export, depth - 1)
            for item in value
        ]
    return _extension(value, export, depth)


def _key(key: object) -> str:
    if isinstance(key, str):
        return str.__str__(key)
    if type(key) is int:
        return str(key)
    raise CodecError(f"a {type(key).__name__} cannot be the key of a map that is sent; use text", key)


def _extension(value: object, export: Export | None, depth: int) -> Any:
    match value:
        case str():
            return str.__str__(value)
        case int():
            return int(value)
        case float():
            return float(value)
        case bytes() | bytearray() | memoryview():
            return bytes(value)
        case datetime.datetime():
            return msgpack.ExtType(DATETIME, value.isoformat().encode("ascii"))
        case set() | frozenset():
            return msgpack.ExtType(SET, _pack([_member(item) for item in value]))
    reference = export(value) if export is not None else None
    if reference is None:
        instead = "send plain values" if not hasattr(type(value), "__await__") else "await it, and send its result"
        raise CodecError(f"{type(value)} cannot be sent; {instead}", value)
    if depth < _REFERENCE_DEPTH:
        raise CodecError(f"the value is nested more than {MAX_DEPTH} deep")
    return msgpack.ExtType(CAPABILITY, reference)


def _member(item: object) -> Any:
    """A tuple or a frozen set would come back as a list or a set, which cannot be in a set again."""
    plain = _plain(item, None, 1)
    if isinstance(plain, list | dict) or (isinstance(plain, msgpack.ExtType) and plain.code == SET):
        raise CodecError(f"a set that holds a {type(item).__name__} cannot be sent; send a list", item)
    return plain
