"""Where a child's new objects come to lie.

The interpreter puts a small object into any hole of its size, and a process that has imported much has holes all over:
each new object would then cost a child another page. With the holes filled before the fork, new objects lie together.
"""

from __future__ import annotations

from typing import Final

_SIZES: Final = range(48, 513, 16)
_HEADER: Final = 33  # what a bytes object takes beside its content
_POOL: Final = 16_384
_MOST: Final = 20_000


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
