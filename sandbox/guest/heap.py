"""What a child shares of the zygote's memory, and where its own new objects come to lie.

A child owns each page that is written to, and the interpreter writes to an object whenever it is used: its count of
references lies in it. From 3.12 on an object can be immortal, and is then only read.

The interpreter also puts a small object into any hole of its size, and a process that has imported much has holes all
over: each new object would then cost a child another page. With the holes filled before the fork, new objects lie
together.

And each mapping is copied by a fork and taken down at an end by itself, so there had better be few.
"""

from __future__ import annotations

import ctypes
import gc
import types
from pathlib import Path
from typing import Final, NamedTuple

from ..lockdown import kernel

_SIZES: Final = range(48, 513, 16)
_HEADER: Final = 33  # what a bytes object takes beside its content
_POOL: Final = 16_384
_MOST: Final = 20_000


def make_immortal() -> None:
    """Make every object that there is immortal, as `None` is. Needs Python 3.12: before it, `None` is counted too."""
    immortal = _count(None).value
    todo = gc.get_objects()
    while todo:
        subject = todo.pop()
        count = _count(subject)
        if count.value != immortal:
            count.value = immortal
            todo.extend(gc.get_referents(subject))
            if isinstance(subject, types.CodeType):  # which does not tell the collector what it holds
                todo += [*subject.co_consts, *subject.co_names, subject.co_name, subject.co_qualname]


def merge_mappings() -> None:
    """Map each library's code and constants in one piece instead of three. Neither is ever written to; that constants
    can be executed as well gives nobody code that was not there."""
    pieces = [_piece(line) for line in Path("/proc/self/maps").read_text().splitlines()]
    for before, code, after in zip(pieces, pieces[1:], pieces[2:], strict=False):
        if code.rights == "r-xp" and code.inode:
            first = before if before.rights == "r--p" and before.goes_on_in(code) else code
            last = after if after.rights == "r--p" and code.goes_on_in(after) else code
            kernel.make_executable(first.start, last.end)


class _Piece(NamedTuple):
    start: int
    end: int
    rights: str
    offset: int
    inode: int

    def goes_on_in(self, other: _Piece) -> bool:
        in_order = other.start == self.end and other.start - other.offset == self.start - self.offset
        return in_order and other.inode == self.inode


def _piece(line: str) -> _Piece:
    place, rights, offset, _, inode, *_ = line.split()
    start, _, end = place.partition("-")
    return _Piece(int(start, 16), int(end, 16), rights, int(offset, 16), int(inode))


def _count(subject: object) -> ctypes.c_uint32:
    return ctypes.c_uint32.from_address(id(subject))


def fill_holes() -> list[bytes]:
    """Objects that fill the holes of each size, to be kept: as many as it takes until they come one after the other."""
    kept: list[bytes] = []
    for size in _SIZES:
        in_order, last = 0, 0
        for _ in range(_MOST):
            kept.append(bytes(size - _HEADER))
            address = id(kept[-1])
            in_order = in_order + 1 if address - last == size else 0
            last = address
            if in_order >= _POOL // size - 2:
                break
    return kept
