"""What a child shares of the zygote's memory, and where its own new objects come to lie.

A child owns each page that is written to, and the interpreter writes to an object whenever it is used: its count of
references lies in it. From 3.12 on an object can be immortal, and is then only read.

The interpreter also puts a small object into any hole of its size, and a process that has imported much has holes all
over: each new object would then cost a child another page. With the holes filled before the fork, new objects lie
together.
"""

from __future__ import annotations

import ctypes
import gc
import types
from typing import Final

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
