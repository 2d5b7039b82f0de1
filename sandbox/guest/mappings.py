"""How the zygote's memory is mapped, which each fork copies piece by piece and each end of a child takes down again.

So there had better be few pieces, and large pages where there can be: a fork hands on an entry for two megabytes of
them where it would copy five hundred, and a child finds the interpreter's code mapped where it would have to ask for
each sixty kilobytes of it. All of it is for speed: what the kernel refuses stays as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ..lockdown import kernel

_LARGE: Final = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
_interpreter: Final = ctypes.cast(ctypes.pythonapi.Py_GetVersion, ctypes.c_void_p).value or 0


class Range(NamedTuple):
    """Addresses from the first on, without the last."""

    start: int
    end: int


def merge() -> None:
    """Map each library in two pieces instead of five. Its code and constants, of which neither is ever written to: that
    constants can be executed as well gives nobody code that was not there. And its data with what the linker has
    protected of them: who could write there already owns the process."""
    pieces = _pieces()
    for before, code, after in zip(pieces, pieces[1:], pieces[2:], strict=False):
        if code.rights == "r-xp" and code.inode:
            first = before if before.rights == "r--p" and before.goes_on_in(code) else code
            last = after if after.rights == "r--p" and code.goes_on_in(after) else code
            kernel.protect(first.start, last.end, kernel.READ | kernel.EXECUTE)
    pieces = _pieces()
    for fixed, data in itertools.pairwise(pieces):
        if fixed.rights == "r--p" and data.rights == "rw-p" and data.inode and fixed.goes_on_in(data):
            kernel.protect(fixed.start, fixed.end, kernel.READ | kernel.WRITE)


def enlarge_code() -> None:
    """Put a copy of the interpreter's code in its place, in large pages that belong to no file."""
    for piece in _pieces():
        if piece.start <= _interpreter < piece.end and (parts := list(_large(piece))):
            with contextlib.suppress(OSError):
                _replace(Range(parts[0].start, parts[-1].end), parts[0].end - parts[0].start)


def large_parts() -> list[Range]:
    """Where this process's own memory could lie in large pages. Needs /proc; `collapse` no longer does."""
    return [part for piece in _pieces() if piece.rights == "rw-p" and not piece.inode for part in _large(piece)]


def collapse(parts: list[Range]) -> None:
    """Have it lie in large pages. A child that writes to one still gets no more than a small page of its own."""
    for start, end in parts:
        with contextlib.suppress(OSError):
            kernel.collapse(start, end)


def _replace(part: Range, large: int) -> None:
    """The copy can be written to until it is complete, and executed from then on."""
    size = part.end - part.start
    area = kernel.map_memory(size + large)
    copy = -(-area // large) * large
    for start, end in ((area, copy), (copy + size, area + size + large)):
        kernel.unmap(start, end)
    try:
        ctypes.memmove(copy, part.start, size)
        kernel.collapse(copy, copy + size)  # or else each fork would have to copy entries that it now leaves out
        kernel.protect(copy, copy + size, kernel.READ | kernel.EXECUTE)
        kernel.move(copy, copy + size, part.start)
    except OSError:
        kernel.unmap(copy, copy + size)
        raise


def _large(piece: _Piece) -> Iterator[Range]:
    """The large pages that lie wholly in a piece; none where the kernel knows of no such."""
    try:
        size = int(_LARGE.read_text())
    except OSError:
        return
    for at in range(-(-piece.start // size) * size, piece.end - size + 1, size):
        yield Range(at, at + size)


class _Piece(NamedTuple):
    start: int
    end: int
    rights: str
    offset: int
    inode: int

    def goes_on_in(self, other: _Piece) -> bool:
        in_order = other.start == self.end and other.start - other.offset == self.start - self.offset
        return in_order and other.inode == self.inode


def _pieces() -> list[_Piece]:
    return [_piece(line) for line in Path("/proc/self/maps").read_text().splitlines()]


def _piece(line: str) -> _Piece:
    place, rights, offset, _, inode, *_ = line.split()
    start, _, end = place.partition("-")
    return _Piece(int(start, 16), int(end, 16), rights, int(offset, 16), int(inode))
