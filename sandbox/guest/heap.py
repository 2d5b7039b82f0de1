"""What the C library keeps at hand for a guest, and when it is given back."""

from __future__ import annotations

import ctypes
from typing import Final

_ROOM: Final = 40_000
_trim: Final = getattr(ctypes.CDLL(None), "malloc_trim", None)  # which is the GNU library's own


def make_room() -> None:
    """Have the C library keep at hand, in pages of this process's own, what a small program is compiled in."""
    b"." * _ROOM  # written to, and freed at once


def give_back() -> None:
    """Let the kernel have what the C library keeps at hand, most of it from the compiler, which has done its work."""
    if _trim is not None:
        _trim(0)
