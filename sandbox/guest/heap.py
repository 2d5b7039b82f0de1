"""What a child shares of the zygote's memory, and where its own new objects come to lie.

A child owns each page that is written to, and the interpreter writes to an object whenever it is used: its count of
references lies in it. From 3.12 on an object can be immortal, and is then only read.

The interpreter also puts a small object into any hole of its size, and the C library what is larger; a process that has
imported much has holes all over: each new object would then cost a child another page. With the holes filled before the
fork, new objects lie together.
"""

from __future__ import annotations

import ctypes
import gc
import types
from collections.abc import Iterable
from typing import Final

_SIZES: Final = range(48, 513, 16)
_HEADER: Final = 33  # what a bytes object takes beside its content
_POOL: Final = 16_384
_MOST: Final = 20_000
_CHUNKS: Final = (*(int(600 * 1.15**step) // 16 * 16 + 8 for step in range(36, 3, -1)), *range(1032, 8, -16))
"""Sizes of what the C library hands out, from the largest that it does not map by itself, so that the rest of a hole is
smaller than what was tried before; those of the second part it tells apart to the byte."""
_KEPT_AT_HAND: Final = 1032
_ROOM: Final = 40_000
_RUN: Final = 3  # so many side by side are not from holes
_c_library: Final = ctypes.CDLL(None)
_c_library.malloc.restype = ctypes.c_void_p
_trim: Final = getattr(_c_library, "malloc_trim", None)  # which is the GNU library's own


def make_room() -> None:
    """Have the C library keep at hand, in pages of this process's own, what a small program is compiled in."""
    b"." * _ROOM  # written to, and freed at once


def give_back() -> None:
    """Let the kernel have what the C library keeps at hand, most of it from the compiler, which has done its work."""
    if _trim is not None:
        _trim(0)


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
            if type(subject) is types.CodeType:  # which does not tell the collector what it holds
                todo += [*subject.co_consts, *subject.co_names, subject.co_name, subject.co_qualname]


def _count(subject: object) -> ctypes.c_uint32:
    return ctypes.c_uint32.from_address(id(subject))


def gather(wanted: Iterable[types.CodeType]) -> None:
    """Make this code anew, one piece beside the other in this order, for the functions that have it.

    The interpreter counts in code how often it has run, and a piece of it lies where there was room when it was read.
    """
    made: dict[int, types.CodeType] = {}
    for code in wanted:
        made[id(code)] = code.replace()

    def anew(code: types.CodeType) -> types.CodeType:
        constants = tuple(anew(each) if isinstance(each, types.CodeType) else each for each in code.co_consts)
        if all(new is old for new, old in zip(constants, code.co_consts, strict=True)):
            return made.get(id(code), code)
        return code.replace(co_consts=constants)

    for subject in gc.get_objects():
        if type(subject) is types.FunctionType and (code := anew(subject.__code__)) is not subject.__code__:
            subject.__code__ = code


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


def fill_chunks() -> None:
    """The same for the C library's memory, for good: what it hands out from now on comes from its end."""
    for size in _CHUNKS:
        run: list[int] = []
        for _ in range(_MOST):
            address: int = _c_library.malloc(ctypes.c_size_t(size))
            run = [*run, address] if run and address - run[-1] == size + 8 else [address]
            if len(run) > _RUN:
                break
        if size > _KEPT_AT_HAND:  # smaller ones would be kept at hand, and not go back to the end
            for address in reversed(run):
                _c_library.free(ctypes.c_void_p(address))
