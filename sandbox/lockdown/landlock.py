"""Landlock: no path, no TCP port, no abstract socket and no signal beyond this process, whatever the filter misses.

The rule set has no rules, so everything it handles is refused. It handles every right that the running kernel knows,
also one that is younger than this text: each is tried by itself. It is made once in the zygote and inherited as a
descriptor; a child enters it while it has one thread, and each thread it starts is under it too.
https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

from . import kernel

_CREATE, _RESTRICT = 444, 446  # the same numbers on every architecture
_VERSION_FLAG: Final = 1
_FIELDS: Final = ("files", "net", "scopes")
_UNKNOWN: Final = frozenset({errno.EINVAL, errno.E2BIG})  # a right in a field that is known, and in one that is not

WHY_NOT: Final = {
    errno.ENOSYS: "this kernel has no Landlock, or the container's profile hides it",
    errno.EOPNOTSUPP: "Landlock is built into this kernel, but switched off when it starts",
    errno.EPERM: "the container's profile refuses it",
}


class _Attributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in _FIELDS)


def version() -> int:
    """The version of the interface that this kernel has. `OSError` if it has none, or has it switched off."""
    try:
        return kernel.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    except OSError as error:
        raise OSError(error.errno, WHY_NOT.get(error.errno or 0, error.strerror)) from error


def deny_everything() -> int:
    """A descriptor of the rule set that handles every right this kernel knows, and allows none."""
    version()  # says why there is none
    return _create(_Attributes(**{name: _known(name) for name in _FIELDS}))


def restrict(rules: int) -> None:
    """Put the calling thread, and all it starts, under the rule set. Needs `no_new_privs`. There is no way back."""
    kernel.syscall(_RESTRICT, ctypes.c_int(rules), ctypes.c_uint32(0))
    os.close(rules)


def _known(field: str) -> int:
    """The bits of a field that this kernel takes: they are handed out from the lowest on, without a gap."""
    known = 0
    for bit in range(64):
        try:
            os.close(_create(_Attributes(**{field: 1 << bit})))
        except OSError as error:
            if error.errno in _UNKNOWN:
                break
            raise
        known |= 1 << bit
    return known


def _create(attributes: _Attributes) -> int:
    """Older kernels take the fields that they do not know as long as there is nothing in them."""
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    return kernel.syscall(_CREATE, ctypes.byref(attributes), size, ctypes.c_uint32(0))
