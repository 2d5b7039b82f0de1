"""The packer of msgpack, made safe to be used again and again. It knows nothing of what is packed."""

from __future__ import annotations

from collections.abc import Callable

import msgpack


class Packer:
    """What it had packed when it failed it would put in front of the next value: so then there is a new one."""

    def __init__(self) -> None:
        self._pack: Callable[[object], bytes] = msgpack.Packer(use_bin_type=True).pack

    def __call__(self, value: object) -> bytes:
        """The value's bytes."""
        try:
            return self._pack(value)
        except BaseException:
            self._pack = self._anew  # made with the next value: there may be no memory for one now
            raise

    def _anew(self, value: object) -> bytes:
        self._pack = msgpack.Packer(use_bin_type=True).pack
        return self._pack(value)
