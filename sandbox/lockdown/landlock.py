"""Landlock: no path, no TCP port, no abstract socket and no signal beyond this process, whatever the filter misses.

The rule set has no rules, so everything it handles is refused. It is made once in the zygote and inherited as a
descriptor. https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from . import kernel

_CREATE, _RESTRICT = 444, 446  # the same numbers on every architecture
_VERSION_FLAG: Final = 1
_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many bits of file rights each version of the interface knows; later ones know as many as the last."""


class _Attributes(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


def version() -> int:
    """The version of the interface that this kernel has. `OSError` if it has none, or has it switched off."""
    return kernel.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))


def deny_everything() -> int:
    """A descriptor of the rule set that handles every right this kernel knows, and allows none."""
    known = version()
    attributes = _Attributes(
        files=(1 << _FILE_RIGHTS.get(known, max(_FILE_RIGHTS.values()))) - 1,
        net=0b11 if known >= 4 else 0,
        scopes=0b11 if known >= 6 else 0,
    )
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    return kernel.syscall(_CREATE, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))


def restrict(rules: int) -> None:
    """Put the calling thread, and all it starts, under the rule set. Needs `no_new_privs`. There is no way back."""
    kernel.syscall(_RESTRICT, ctypes.c_int(rules), ctypes.c_uint32(0))
    os.close(rules)
