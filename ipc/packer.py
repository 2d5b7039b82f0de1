"""The packer of msgpack, made safe to be used again and again. It knows nothing of what is packed."""

from __future__ import annotations

import msgpack


class Packer:
    """What it had packed when it failed it would put in front of the next value: so then there is a new one."""

    def __init__(self) -> None:
        self._pack = msgpack.Packer(use_bin_type=True).pack

    def __call__(self, value: object) -> bytes:
        """The value's bytes."""
        try:
            packed: bytes = self._pack(value)
        except BaseException:
            self._pack = msgpack.Packer(use_bin_type=True).pack
            raise
        return packed
