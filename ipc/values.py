"""Python values as bytes: what may cross a process border or be stored, and nothing else.

The form is msgpack. Maps have text keys. Three extension types add capabilities, dates and sets. The module refuses
to know what a value means; in particular a capability is handed to, and made by, functions that the caller passes.

Two readers with different trust: `loads` with `trusted=False` walks the bytes first and refuses what is too deep, has
too many elements, repeats a key or uses a key that is not text, since a megabyte of empty lists becomes sixty-four of
objects. `split` takes one level apart and leaves the parts as the bytes they were, so that an envelope can be opened
without reading the letter.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgpack

from .errors import CodecError, IpcError, PayloadError
from .packer import Packer

MAX_DEPTH: Final = 64
MAX_ELEMENTS: Final = 65_536
MAX_BYTES: Final = 16 * 1024 * 1024

CAPABILITY: Final = 1
DATETIME: Final = 2
SET: Final = 3

Export = Callable[[object], bytes | None]
"""Given an object that is not plain data: the reference that stands for it, encoded; None if it cannot be sent."""
Adopt = Callable[[bytes], object]
"""The other direction: given such a reference, the object that stands for the remote one here."""
Hook = Callable[[dict[str, Any]], Any]

_BY_ITSELF: Final = 15
"""What a set or a capability counts beside its elements: each is read by a call of its own, and has to be let go of."""
_REFERENCE_DEPTH: Final = 3  # how deep the reference to a capability with plain attributes is itself
_AS_IT_IS = frozenset({type(None), bool, float, str, bytes})
_SCALARS = _AS_IT_IS | {int}
_LISTS: Final = (list, tuple)
_MIN_INT, _MAX_INT = -(2**63), 2**64


class Encoded:
    """A value that is encoded already. Where one is sent or stored, its bytes are, as they are."""

    __match_args__ = __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoded) and other.data == self.data

    def __hash__(self) -> int:
        return hash(self.data)


def dumps(value: object, *, export: Export | None = None, limit: int = MAX_BYTES, exact: bool = False) -> bytes:
    """Encode a value; `CodecError` names the first part of it that cannot be sent, or says that it is too large.

    Tuples are sent as lists, whole-number keys as text, sub-classes of the plain types as the plain type. Whoever says
    that its lists and maps are `exact` vouches that nothing of that is in them, and saves the look.
    """
    try:
        if exact:
            data = msgpack.packb(value, default=lambda other: _extension(other, export, MAX_DEPTH))
        else:
            data = _pack(_plain(value, export, MAX_DEPTH))
    except (UnicodeEncodeError, OverflowError, ValueError) as error:
        raise CodecError(f"the value cannot be sent: {error}") from error
    if len(data) > limit:
        raise CodecError(f"the value takes {len(data):,} bytes; at most {limit:,} can be sent")
    return data


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
        raise PayloadError(f"the value cannot be read: {error or type(error).__name__}") from error


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
        raise PayloadError(f"the value cannot be read: {error or type(error).__name__}") from error
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


def scan(
    data: bytes,
    *,
    max_depth: int = MAX_DEPTH,
    max_elements: int = MAX_ELEMENTS,
    extensions: bool = True,
    before: int = 0,
) -> int:
    """Walk encoded bytes without building anything, and raise `PayloadError` at the first thing that is not allowed.

    Returns the number of elements, with those `before` it. A set or a capability counts sixteen, and what is inside
    like everything else; it may be neither of the two again: each level would be read by a call of its own, and the
    sender choose how many.
    """
    if len(data) <= _SHORT and max_depth > 0 and 0 < (elements := _flat(data, max_depth)) <= max_elements - before:
        return before + elements
    size, at, elements = len(data), 0, before
    left, keys = 1, None  # values still to come at this level; the keys seen, when this level is a map
    outer: list[tuple[int, set[bytes] | None]] = []
    key_next = False
    while True:
        while left == 0:
            if not outer:
                if at != size:
                    raise PayloadError("bytes follow the end of the value")
                return elements
            left, keys = outer.pop()
            key_next = keys is not None
        if keys is None and left > 1:
            at, short = _pass_short(data, at, min(left, max_elements - elements))
            elements, left = elements + short, left - short
            if not left:
                continue
        if at >= size:
            raise PayloadError("the value ends too early")
        elements += 1
        if elements > max_elements:
            raise PayloadError(f"the value has more than {max_elements:,} elements")
        kind, header, width = _HEADS[data[at]]
        length = int.from_bytes(data[at + 1 : at + 1 + width], "big") if width else header
        body = at + 1 + width + (1 if kind == _EXT else 0)
        if kind == _BAD:
            raise PayloadError(f"byte 0x{data[at]:02x} begins no value")
        if key_next and kind != _TEXT:
            raise PayloadError("a map key is not text")
        left -= 1
        if kind in {_LIST, _MAP}:
            if len(outer) >= max_depth:
                raise PayloadError(f"the value is nested more than {max_depth} deep")
            outer.append((left, keys))
            keys = set() if kind == _MAP else None
            left = length * 2 if kind == _MAP else length
            key_next = kind == _MAP
            at = body
            continue
        end = body + length
        if end > size:
            raise PayloadError("the value ends too early")
        if keys is not None:
            if key_next:
                key = bytes(data[body:end])
                if key in keys:
                    raise PayloadError(f"map key {key[:40]!r} stands there twice")
                keys.add(key)
            key_next = not key_next
        if kind == _EXT:
            code = data[body - 1]
            if code in {SET, CAPABILITY} and extensions:
                elements = scan(
                    data[body:end],
                    max_depth=max_depth - len(outer),
                    max_elements=max_elements,
                    extensions=False,
                    before=elements + _BY_ITSELF,
                )
            elif code != DATETIME:
                nested = code in {SET, CAPABILITY}
                raise PayloadError(
                    "a set or a capability is nested too deep in another"
                    if nested
                    else f"unknown extension type {code}"
                )
        at = end


def _pass_short(data: bytes, at: int, most: int) -> tuple[int, int]:
    """Where what follows numbers and short texts begins, and how many of them there are, `most` at most: in long lists
    of them each would take ten times as long by itself."""
    passed, size = 0, len(data)
    while passed < most and at < size and (step := _STEPS[data[at]]) and at + step <= size:
        at += step
        passed += 1
    return at, passed


def _flat(data: bytes, max_depth: int) -> int:
    """How many elements a value has that is a leaf, a list of leaves or the arguments of a call that are leaves, none of
    them by name, as most short ones are: msgpack tells that in a fraction of the time. 0 if it is anything else, or
    nothing at all."""
    called = data[1:2] in _LISTED and data[:1] == _PAIR and data[-1:] == _EMPTY and max_depth > 1
    if not called and (data[:1] in _MAPS or data[1:2] in _NESTED):
        return 0
    try:
        value = msgpack.unpackb(data, max_map_len=0, max_ext_len=0)
    except Exception:  # noqa: BLE001 - what is wrong with it is found by whoever walks it
        return 0
    around = 1
    if called:
        value, named = value
        if named != {}:  # the last byte was that of something else
            return 0
        around = 3
    if type(value) is list:
        return around + len(value) if _SCALARS.issuperset(map(type, value)) else 0
    return 1 if type(value) in _SCALARS else 0


_SHORT: Final = 512
"""Bytes of which nothing costs much to be made."""
_MAPS: Final = frozenset(bytes([first]) for first in range(0x80, 0x90))
_LISTED: Final = frozenset(bytes([first]) for first in range(0x90, 0xA0))
_PAIR, _EMPTY = b"\x92", b"\x80"
_NESTED: Final = _MAPS | _LISTED
"""How a list or a map begins that is the first thing in another one, as with the arguments of a call."""
_LEAF, _TEXT, _LIST, _MAP, _EXT, _BAD = range(6)


def _heads() -> list[tuple[int, int, int]]:
    """For each first byte: what it begins, the length when the byte itself tells it, else the width of the length."""
    heads = [(_LEAF, 0, 0)] * 256
    for low in range(16):
        heads[0x80 + low], heads[0x90 + low] = (_MAP, low, 0), (_LIST, low, 0)
    for low in range(32):
        heads[0xA0 + low] = (_TEXT, low, 0)
    heads[0xC1] = (_BAD, 0, 0)
    for first, kind in ((0xC4, _LEAF), (0xC7, _EXT), (0xD9, _TEXT)):
        for power in range(3):
            heads[first + power] = (kind, 0, 1 << power)
    for first, kind in ((0xDC, _LIST), (0xDE, _MAP)):
        heads[first], heads[first + 1] = (kind, 0, 2), (kind, 0, 4)
    for power in range(4):
        heads[0xCC + power] = heads[0xD0 + power] = (_LEAF, 1 << power, 0)
    heads[0xCA], heads[0xCB] = (_LEAF, 4, 0), (_LEAF, 8, 0)
    for power in range(5):
        heads[0xD4 + power] = (_EXT, 1 << power, 0)
    return heads


_HEADS: Final = _heads()
LEAVES: Final = frozenset(bytes([first]) for first, (kind, *_) in enumerate(_HEADS) if kind in {_LEAF, _TEXT})
"""The first bytes of values that have nothing inside: who reads one finds all that could be wrong with it."""
_STEPS: Final = bytes(0 if width or kind not in {_LEAF, _TEXT} else 1 + size for kind, size, width in _HEADS)
"""For each first byte of a number or short text: how many bytes it takes. 0 for all else."""
_pack = Packer()


def _plain(value: object, export: Export | None, depth: int) -> Any:
    """A copy that holds exact plain types only, which is what the packer is fast and strict with."""
    kind = type(value)
    if kind in _SCALARS:
        if kind is int and not _MIN_INT <= value < _MAX_INT:  # type: ignore[operator]
            raise CodecError("a whole number of more than 64 bits cannot be sent; send it as text")
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
    raise CodecError(f"a {type(key).__name__} cannot be the key of a map that is sent; use text")


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
        raise CodecError(f"{type(value)} cannot be sent")
    if depth < _REFERENCE_DEPTH:
        raise CodecError(f"the value is nested more than {MAX_DEPTH} deep")
    return msgpack.ExtType(CAPABILITY, reference)


def _member(item: object) -> Any:
    """A tuple or a frozen set would come back as a list or a set, which cannot be in a set again."""
    plain = _plain(item, None, 1)
    if isinstance(plain, list | dict) or (isinstance(plain, msgpack.ExtType) and plain.code == SET):
        raise CodecError(f"a set that holds a {type(item).__name__} cannot be sent; send a list")
    return plain
