"""What a child shares of the zygote's memory, and where its own new objects come to lie.

A child owns each page that is written to, and the interpreter writes to an object whenever it is used: its count of
references lies in it. From 3.12 on an object can be immortal, and is then only read.

The interpreter also puts a small object into any hole of its size, and the C library what is larger; a process that has
imported much has holes all over: each new object would then cost a child another page. With the holes filled before the
fork, new objects lie together.

All of it is done in the zygote, and a guest has no use for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import types
from collections.abc import Iterable, Iterator
from typing import Final

_SIZES: Final = range(48, 513, 16)
_HEADER: Final = 33  # what a bytes object takes beside its content
_POOL: Final = 16_384
_HEAD_OF_POOL: Final = 48
_MOST: Final = 20_000
_CHUNKS: Final = (*(int(600 * 1.15**step) // 16 * 16 + 8 for step in range(36, 3, -1)), *range(1032, 8, -16))
"""Sizes of what the C library hands out, from the largest that it does not map by itself, so that the rest of a hole is
smaller than what was tried before; those of the second part it tells apart to the byte."""
_RAW, _OBJECTS = 0, 2  # who asks the interpreter for memory
_KEPT_AT_HAND: Final = 1032
_RUN: Final = 3  # so many side by side are not from holes
_c_library: Final = ctypes.CDLL(None)
_c_library.malloc.restype = ctypes.c_void_p


def make_immortal() -> None:
    """Make every object that there is immortal, as `None` is. Needs Python 3.12: before it, `None` is counted too."""
    words = (ctypes.c_uint32 * (sys.maxsize // 4)).from_address(0)  # of all memory: an object's count is its first
    immortal = words[id(None) // 4]
    todo = gc.get_objects()
    while todo:
        fresh = []
        for subject in todo:
            at = id(subject) // 4
            if words[at] != immortal:
                words[at] = immortal
                fresh.append(subject)
        todo = gc.get_referents(*fresh)
        for subject in fresh:
            if type(subject) is types.CodeType:  # which does not tell the collector what it holds
                todo += [*subject.co_consts, *subject.co_names, subject.co_name, subject.co_qualname]


def gather(wanted: Iterable[types.CodeType]) -> None:
    """Make this code anew, one piece beside the other in this order, for the functions that have it.

    The interpreter counts in code how often it has run, and notes where it has branched; and a piece of it lies where
    there was room when it was read, a small one among others of its size.
    """
    before = [(code, code.co_code) for code in wanted]  # what a new one is made of: it would lie between them else
    with _outside_pools():
        made = {id(code): code.replace() for code, _ in before}

    def anew(code: types.CodeType) -> types.CodeType:
        constants = tuple(anew(each) if isinstance(each, types.CodeType) else each for each in code.co_consts)
        if all(new is old for new, old in zip(constants, code.co_consts, strict=True)):
            return made.get(id(code), code)
        return code.replace(co_consts=constants)

    version_at = _version_at()
    for subject in gc.get_objects():
        if type(subject) is types.FunctionType and (code := anew(subject.__code__)) is not subject.__code__:
            version = None if version_at is None else ctypes.c_uint32.from_address(id(subject) + version_at)
            known_by = 0 if version is None else version.value
            subject.__code__ = code
            if version is not None:
                version.value = known_by


class _Allocator(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("context", "allocate", "clear", "resize", "free")]


@contextlib.contextmanager
def _outside_pools() -> Iterator[None]:
    """Meanwhile new objects of every size come from the C library. To free them is up to the pools as ever, which know
    what is not theirs; but not where the interpreter looks for errors, and marks memory by who has asked for it."""
    if sys.flags.dev_mode or hasattr(sys, "gettotalrefcount"):
        yield
        return
    pools, library = _Allocator(), _Allocator()
    ctypes.pythonapi.PyMem_GetAllocator(_OBJECTS, ctypes.byref(pools))
    ctypes.pythonapi.PyMem_GetAllocator(_RAW, ctypes.byref(library))
    mixed = _Allocator(pools.context, library.allocate, library.clear, pools.resize, pools.free)
    ctypes.pythonapi.PyMem_SetAllocator(_OBJECTS, ctypes.byref(mixed))
    try:
        yield
    finally:
        ctypes.pythonapi.PyMem_SetAllocator(_OBJECTS, ctypes.byref(pools))


def _version_at() -> int | None:
    """Where a function has the number by which the interpreter knows it again, and calls it the short way. From 3.13 on
    it has none when its code was replaced, for good. The code is the same: so it may keep it."""

    def function() -> None: ...

    before = _words(function)
    function.__code__ = function.__code__.replace()
    lost = [at for at, (was, now) in enumerate(zip(before, _words(function), strict=True)) if was and not now]
    return 4 * lost[0] if len(lost) == 1 else None


def _words(function: object) -> list[int]:
    return list((ctypes.c_uint32 * (types.FunctionType.__basicsize__ // 4)).from_address(id(function)))


def fill_holes() -> list[bytes]:
    """Objects that fill the holes of each size, to be kept: as many as it takes until they come one after the other.

    The last pool of each size is full to its end: what comes next gets a new one, whose first page has its head too.
    """
    kept: list[bytes] = []
    for size in _SIZES:
        in_order, last = 0, 0
        for _ in range(_MOST):
            kept.append(bytes(size - _HEADER))
            address = id(kept[-1])
            in_order = in_order + 1 if address - last == size else 1
            last = address
            if in_order == (_POOL - _HEAD_OF_POOL) // size:
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
