"""A look at bytes that came from somebody who is not trusted: whether a value may be made of them.

Nothing is made on the way. What is refused is what is too deep, has too many elements, repeats a key or uses a key that
is not text, since a megabyte of empty lists becomes sixty-four of objects. It does not know what a value means.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from .errors import PayloadError

MAX_DEPTH: Final = 64
MAX_ELEMENTS: Final = 65_536

CAPABILITY: Final = 1
DATETIME: Final = 2
SET: Final = 3

SCALARS: Final = frozenset({type(None), bool, float, str, bytes, int})
"""The types of values that have nothing inside."""
_BY_ITSELF: Final = 15
"""What a set or a capability counts beside its elements: each is read by a call of its own, and has to be let go of."""


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
                if not length or _HEADS[data[body]][0] != _LIST:  # a text would be a set of all its characters
                    raise PayloadError("a set or a capability is not a list inside")
                elements = scan(
                    data[body:end],
                    max_depth=max_depth - len(outer),
                    max_elements=max_elements,
                    extensions=False,
                    before=elements + _BY_ITSELF,
                )
            elif code == DATETIME and length > 64:  # which its refusal would repeat; none is half as long
                raise PayloadError(f"a date of {length:,} bytes")
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


def leaves(data: bytes) -> list[Any] | None:
    """What is in a short list of leaves, looked at and read at once; None if it is anything else, or nothing at all."""
    if len(data) > _SHORT or data[1:2] in _NESTED:
        return None
    try:
        value = msgpack.unpackb(data, max_map_len=0, max_ext_len=0)
    except Exception:  # noqa: BLE001 - what is wrong with it is found by whoever walks it
        return None
    return value if type(value) is list and SCALARS.issuperset(map(type, value)) else None


def _flat(data: bytes, max_depth: int) -> int:
    """How many elements a value has that is a leaf, a list of leaves, or the arguments of a call if they are leaves and
    none is by name, as most short ones are: msgpack tells that in a fraction of the time. 0 if it is anything else, or
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
        return around + len(value) if SCALARS.issuperset(map(type, value)) else 0
    return 1 if type(value) in SCALARS else 0


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
